"""What the tests of net/ share: streams in memory, hosts and networks on the loopback, records, patience."""

from __future__ import annotations

import json
import random
import secrets
import weakref
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from libp2p.peer.id import ID

from peatnet.blobs import Database, Store
from peatnet.ledger import Ledger
from peatnet.net.frames import FrameStream
from peatnet.net.host import Host, open_host
from peatnet.net.network import Network, open_network
from peatnet.records import KeyPair, RecordType, sign_record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from peatnet.net.muxer import Muxer

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
# Generous, because machines that run tests are shared; a wait that succeeds never takes this long.
PATIENCE = 20.0
ECHO = "/test/echo/1"


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait until something outside of trio's sight has become true."""
    with trio.move_on_after(PATIENCE) as waited:
        while not condition():  # noqa: ASYNC110  # there is no event for it
            await trio.sleep(0.01)
    assert not waited.cancelled_caught, f"not within {PATIENCE:g} s: {what}"


@asynccontextmanager
async def turns_of_another() -> AsyncIterator[Callable[[], int]]:
    """Another task that does nothing but take its turns; tells how many it has had."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        yield lambda: turns
        nursery.cancel_scope.cancel()


async def echo(frames: FrameStream) -> None:
    """Handles ECHO: gives each payload back, as long as somebody asks."""
    while True:
        frame = await frames.receive()
        await frames.send({"t": "echo"}, await frames.read_payload(frame))


async def asks(here: Host, there: Host, payload: bytes = b"?") -> bytes:
    """What comes back from the other end, which handles ECHO."""
    frames = await here.open_stream(there.peer_id, ECHO)
    try:
        await frames.send({"t": "say"}, payload)
        with trio.fail_after(PATIENCE):
            return await frames.read_payload(await frames.receive())
    finally:
        await frames.reset()


def muxer_to(here: Host, there: Host) -> Muxer:
    """This end of the connection between two hosts."""
    network: Any = here.libp2p.get_network()
    found: Muxer = network.get_connections(ID.from_base58(there.peer_id))[0].muxed_conn
    return found


@dataclass
class MemoryStream:
    """Stands in for a libp2p stream: bytes to read, at a given pace, and what was written."""

    data: bytes = b""
    piece: int = 65536
    pause: float = 0.0
    ends: bool = True
    stuck: bool = False
    written: bytearray = field(default_factory=bytearray)
    resets: int = 0
    closes: int = 0

    async def read(self, n: int) -> bytes:
        await trio.sleep(self.pause)
        if not self.data:
            if self.ends:
                raise StreamEOF
            await trio.sleep_forever()
        part, self.data = self.data[: min(n, self.piece)], self.data[min(n, self.piece) :]
        return part

    async def write(self, data: bytes) -> None:
        if self.resets:
            raise StreamReset
        await trio.lowlevel.checkpoint()
        if self.stuck:
            await trio.sleep_forever()
        self.written += data

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closes += 1

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()
        self.resets += 1


def frames_over(stream: MemoryStream) -> FrameStream:
    return FrameStream(stream, "peer")  # type: ignore[arg-type]  # it does what is needed of a stream


@asynccontextmanager
async def host(seed: bytes | None = None) -> AsyncIterator[Host]:
    async with open_host(seed or secrets.token_bytes(32), [LOOPBACK], mdns=False) as opened:
        yield opened


@asynccontextmanager
async def two_hosts() -> AsyncIterator[tuple[Host, Host]]:
    """Two hosts; the second one has dialled the first."""
    async with host() as first, host() as second:
        await second.connect(first.peer_id, first.listening)
        await until(lambda: second.peer_id in first.connected and first.peer_id in second.connected)
        yield first, second


@dataclass
class Place:
    """A data directory's worth of things: store, records, keys."""

    keys: KeyPair
    seed: bytes
    store: Store
    ledger: Ledger

    @property
    def peer_id(self) -> str:
        return self.keys.peer_id

    async def publish(self, key: str, sequence: int = 1) -> bytes:
        """Put a withdrawal, the smallest kind of record, into the ledger; returns its envelope."""
        envelope = withdrawal(self.keys, key, sequence)
        await self.ledger.take([envelope])
        return envelope


def withdrawal(keys: KeyPair, key: str, sequence: int = 1) -> bytes:
    model_id, _, version = key.partition("@")
    body = json.dumps({"model_id": model_id, "version": version}).encode()
    return sign_record(keys, RecordType.WITHDRAWAL, key, sequence, body).envelope


def place(root: Path) -> Place:
    root.mkdir()
    database = Database.open(root / "peatnet.db")
    seed = secrets.token_bytes(32)
    keys = KeyPair.from_seed(seed)
    here = Place(keys, seed, Store.open(root, database), Ledger(database, keys, []))
    weakref.finalize(here, database.close)  # Python 3.13 warns of one that is left open
    return here


@asynccontextmanager
async def network(
    here: Place, *peers: str, mdns: bool = False, listen: str = LOOPBACK
) -> AsyncIterator[Network]:
    async with open_network(
        here.seed,
        here.ledger,
        here.store,
        listen=[listen],
        peers=peers,
        mdns=mdns,
        rng=random.Random(1),
    ) as opened:
        yield opened


@asynccontextmanager
async def two_networks(first: Place, second: Place) -> AsyncIterator[tuple[Network, Network]]:
    """Two networks, connected."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(network(first))
        two = await stack.enter_async_context(network(second, one.addrs[0]))
        await until(lambda: first.peer_id in two.connected and second.peer_id in one.connected)
        yield one, two


def offences_of(opened: Host) -> list[tuple[str, str]]:
    """Notes what a host's peers do wrong from now on, as (kind, reason)."""
    noted: list[tuple[str, str]] = []
    real = opened.offend

    def offend(peer_id: str, offence: Any, reason: str) -> None:
        noted.append((offence.value, reason))
        real(peer_id, offence, reason)

    opened.offend = offend  # type: ignore[method-assign]  # listens in; what it does stays the same
    return noted
