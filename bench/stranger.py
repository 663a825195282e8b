"""A peer that means harm, of bench/strangers.py: ``stranger.py KIND ADDRESS``.

Connects, prints a line, and sends what costs it next to nothing, as fast as the line takes it, until stdin ends. For each line on
that it prints how many bytes that were. One kind does the same as ten peers, and one only knocks at the door.
"""

from __future__ import annotations

import secrets
import struct
import sys
from contextlib import AsyncExitStack, suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_ACK,
    FLAG_RST,
    FLAG_SYN,
    TYPE_DATA,
    TYPE_PING,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
)
from libp2p.utils.varint import encode_varint_prefixed

from peatnet.net import effort
from peatnet.net.host import open_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from peatnet.net.host import Host

AT_ONCE = 12 * 1024  # bytes
NOBODY = 9  # a stream that there is not
FIRST = 100_001  # of those that it opens


def frame(kind: int, flags: int, stream_id: int, length: int = 0, data: bytes = b"") -> bytes:
    """One frame of yamux's."""
    return struct.pack(YAMUX_HEADER_FORMAT, 0, kind, flags, stream_id, length) + data


def _opened_and_reset(stream_id: int) -> bytes:
    reset = frame(TYPE_WINDOW_UPDATE, FLAG_RST, stream_id)
    return frame(TYPE_WINDOW_UPDATE, FLAG_SYN, stream_id) + reset


FRAMES: dict[str, Callable[[int], bytes]] = {
    "resets": _opened_and_reset,
    "empty-data": lambda _: frame(TYPE_DATA, 0, NOBODY),
    "bytes": lambda _: frame(TYPE_DATA, 0, NOBODY, 1, b"x"),
    "credit": lambda _: frame(TYPE_WINDOW_UPDATE, 0, NOBODY, 1),
    "pings": lambda _: frame(TYPE_PING, FLAG_SYN, 0, 1),
    "pongs": lambda _: frame(TYPE_PING, FLAG_ACK, 0, 1),
    "bulk-1k": lambda _: frame(TYPE_DATA, 0, NOBODY, 1024, bytes(1024)),
    "bulk-64k": lambda _: frame(TYPE_DATA, 0, NOBODY, 65_536, bytes(65_536)),
}
"""What one frame is, of the kinds that need no stream; it is told the number of a new one."""


def _offer(ids: int) -> bytes:
    offer = rpc_pb2.RPC()
    names = [number.to_bytes(2, "big") for number in range(ids)]
    offer.control.ihave.add(topicID="/peatnet/records/1", messageIDs=names)
    return encode_varint_prefixed(offer.SerializeToString())


def _subscriptions() -> bytes:
    said = rpc_pb2.RPC()
    for number in range(1000):
        said.subscriptions.add(subscribe=bool(number % 2), topicid="/peatnet/records/1")
    return encode_varint_prefixed(said.SerializeToString())


RPCS: dict[str, Callable[[], bytes]] = {
    "rpcs": lambda: bytes(AT_ONCE),
    "rpcs-offers": lambda: _offer(2000),
    "rpcs-topics": _subscriptions,
}
"""What is said on a gossip stream."""

CROWD = "ten-peers"
"""Ten identities that each send the cheapest frame."""
KNOCKS = "knocks"
"""Connections that end when the other side has made its first message of the Noise handshake."""
KNOCKERS = 20


async def main(kind: str, address: str) -> None:
    """Send this kind to this node until stdin ends."""
    effort.RATE = effort.BURST = 1e12  # its own reader holds nobody back
    there, _, peer_id = address.rpartition("/p2p/")
    sent = [0]
    async with AsyncExitStack() as stack:
        hosts = []
        for _ in range({CROWD: 10, KNOCKS: 0}.get(kind, 1)):
            opened = open_host(secrets.token_bytes(32), ["/ip4/127.0.0.1/tcp/0"], mdns=False)
            hosts.append(await stack.enter_async_context(opened))
            await hosts[-1].connect(peer_id, [there])
        nursery = await stack.enter_async_context(trio.open_nursery())
        print("ready", flush=True)
        nursery.start_soon(_tell, sent, nursery.cancel_scope)
        for host in hosts:
            if kind in RPCS:
                nursery.start_soon(_say, host, peer_id, RPCS[kind](), sent)
            else:
                nursery.start_soon(_flood, host, peer_id, FRAMES.get(kind, FRAMES["credit"]), sent)
        for _ in range(KNOCKERS if kind == KNOCKS else 0):
            nursery.start_soon(_knock, int(there.rpartition("/")[2]), sent)


async def _tell(sent: list[int], scope: trio.CancelScope) -> None:
    while await trio.to_thread.run_sync(sys.stdin.readline):
        print(sent[0], flush=True)
    scope.cancel()


async def _flood(host: Host, peer_id: str, make: Callable[[int], bytes], sent: list[int]) -> None:
    network: Any = host.libp2p.get_network()
    muxer = network.get_connections(ID.from_base58(peer_id))[0].muxed_conn
    new_streams: Iterator[int] = count(FIRST, 2)
    together = max(1, AT_ONCE // len(make(FIRST)))
    while True:
        frames = b"".join(make(next(new_streams)) for _ in range(together))
        await muxer._write_frame(frames)  # noqa: SLF001  # past its own bounds
        sent[0] += len(frames)


async def _say(host: Host, peer_id: str, said: bytes, sent: list[int]) -> None:
    stream = await host.libp2p.new_stream(ID.from_base58(peer_id), [TProtocol("/meshsub/1.1.0")])
    while True:
        await stream.write(said)
        sent[0] += len(said)


async def _knock(port: int, sent: list[int]) -> None:
    said = encode_varint_prefixed(b"/multistream/1.0.0\n") + encode_varint_prefixed(b"/noise\n")
    key = secrets.token_bytes(32)
    while True:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            with suppress(trio.BrokenResourceError):  # it has enough of us
                await stream.send_all(said + len(key).to_bytes(2, "big") + key)
                left = (
                    len(said) + 2 + 32 + 64
                )  # the same, its key, and at least an encrypted key and a signature
                while left > 0 and (got := await stream.receive_some(left)):
                    left -= len(got)
        sent[0] += len(said) + 2 + len(key)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
