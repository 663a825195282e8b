"""``/peatnet/small/1``: many small blobs from one peer over one stream; the messages, and the downloader's side.

    downloader                                holder
    ask: (hash, size) of each        ->
                                     <-       give: which of them, and their bytes     or no: busy

A blob is given whole or not at all, and only by a holder that has all of it and verified it. One that is not there, or
has another size there, is left out, which says nothing against anybody. The next ask may be sent before the last one is
answered; answers come in the order of the asks.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from peatnet.blobs import Bitmap, Hash
from peatnet.errors import NoSource, RemoteProtocolError
from peatnet.net.blob_messages import BUSY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from peatnet.net.frames import FrameStream

SMALL_PROTOCOL = "/peatnet/small/1"

# Of one ask.
MAX_ASKED = 128
MAX_BLOB = 256 * 1024
MAX_BYTES = 1024 * 1024
# What we ask for at a time: enough that a message costs little beside its bytes; not more, since an answer that is cut
# off, by time or by a lost peer, is lost as a whole. And the asks that may be out beside the one that is being answered.
ASK_BYTES = 128 * 1024
ASKS_AHEAD = 3
# A limit that makes us wait longer than this has us ask for what it has let through so far.
PACE_PATIENCE = 0.05
STALL_TIMEOUT = 60.0

_ENTRY = struct.Struct(">32sI")


class Wanted(NamedTuple):
    """A blob: its hash, and its size in bytes."""

    blob: Hash
    size: int


def ask_frame(wanted: Sequence[Wanted]) -> tuple[dict[str, Any], bytes]:
    """The frame that asks for these: header and payload."""
    return {"t": "ask"}, b"".join([_ENTRY.pack(each.blob, each.size) for each in wanted])


def read_ask(peer_id: str, kind: str, payload: bytes) -> list[Wanted]:
    """What a peer asks for.

    Raises:
        RemoteProtocolError: it is no ask, or one for more than there may be in one.
    """
    if kind != "ask" or not payload or len(payload) % _ENTRY.size:
        raise RemoteProtocolError(f"{peer_id}: {len(payload)} bytes of {kind!r} are no ask")
    wanted = [Wanted(Hash(blob), size) for blob, size in _ENTRY.iter_unpack(payload)]
    if not all(0 < each.size <= MAX_BLOB for each in wanted):
        raise RemoteProtocolError(f"{peer_id}: asks for a blob that is not small")
    if len(wanted) > MAX_ASKED or sum(each.size for each in wanted) > MAX_BYTES:
        raise RemoteProtocolError(f"{peer_id}: asks for {len(wanted)} blobs at a time")
    return wanted


ASK_PAYLOAD = MAX_ASKED * _ENTRY.size
"""The longest payload of an ask, in bytes."""


def give_header(given: Bitmap) -> dict[str, Any]:
    """The header of the answer; its payload is the bytes of those given, one after the other."""
    return {"t": "give", "g": given.to_bytes()}


def busy_header() -> dict[str, Any]:
    """The header of the answer of who has too many such streams."""
    return {"t": "no", "e": BUSY}


class SmallStream:
    """One stream, for one list of blobs.

    Args:
        frames: the stream; stays the caller's.
        wanted: what to ask for, in this order; none larger than `MAX_BLOB`.
        pace: waited for before each is asked for; a limit on what is downloaded. May be cancelled.
        take: called with the place in ``wanted`` and the bytes, of the right length, of each blob that comes; to check
            them is its to do, and what it raises ends the work.
    """

    def __init__(
        self,
        frames: FrameStream,
        wanted: Sequence[Wanted],
        pace: Callable[[], Awaitable[None]],
        take: Callable[[int, bytes], None],
    ) -> None:
        self._frames = frames
        self._wanted = wanted
        self._pace = pace
        self._take = take

    async def run(self) -> None:
        """Ask for all of them, and return when each has come or was left out. Errors come in a group.

        Raises:
            NoSource: the peer went away, stopped answering, or is busy.
            RemoteProtocolError: it broke the protocol.
        """
        # The last of them waits, sent already, for room in the channel.
        asked, to_come = trio.open_memory_channel[list[int]](ASKS_AHEAD - 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_all, asked)
            async for numbers in to_come:
                await self._receive(numbers)

    async def _ask_all(self, asked: trio.MemorySendChannel[list[int]]) -> None:
        async with asked:
            numbers: list[int] = []
            size = 0
            for number, wanted in enumerate(self._wanted):
                if len(numbers) == MAX_ASKED or (numbers and size + wanted.size > ASK_BYTES):
                    await self._ask(numbers, asked)
                    numbers, size = [], 0
                with trio.move_on_after(PACE_PATIENCE if numbers else math.inf) as waited:
                    await self._pace()
                if waited.cancelled_caught:
                    await self._ask(numbers, asked)
                    numbers, size = [], 0
                    await self._pace()
                numbers.append(number)
                size += wanted.size
            if numbers:
                await self._ask(numbers, asked)

    async def _ask(self, numbers: list[int], asked: trio.MemorySendChannel[list[int]]) -> None:
        await self._frames.send(*ask_frame([self._wanted[number] for number in numbers]))
        await asked.send(numbers)

    async def _receive(self, numbers: list[int]) -> None:
        peer_id, most = self._frames.peer_id, sum(self._wanted[number].size for number in numbers)
        frame = await self._frames.receive(max_payload=most, patience=STALL_TIMEOUT)
        kind = frame.fields.text("t", 16)
        if kind == "no":
            raise NoSource(f"{peer_id}: busy")
        if kind != "give":
            raise RemoteProtocolError(f"{peer_id}: {kind!r} where what was asked for belongs")
        bits = (len(numbers) + 7) // 8
        given = Bitmap.from_bytes(frame.fields.binary("g", bits, bits), len(numbers))
        coming = [number for place, number in enumerate(numbers) if given.get(place)]
        if frame.payload_length != sum(self._wanted[number].size for number in coming):
            raise RemoteProtocolError(f"{peer_id}: {frame.payload_length} bytes of small blobs")
        data = memoryview(await self._frames.read_payload(frame))
        for number in coming:
            size = self._wanted[number].size
            self._take(number, bytes(data[:size]))
            data = data[size:]
