"""What streams and connections leave behind, and when they are really gone."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import FLAG_SYN, TYPE_PING, YAMUX_HEADER_FORMAT
from net_tools import ECHO, muxer_to, two_hosts, until

from peatnet.net import frames as frames_module
from peatnet.net import muxer

if TYPE_CHECKING:
    import pytest

    from peatnet.net.frames import FrameStream

KIB = 1024


async def test_streams_that_are_reset_at_once_leave_nothing_behind() -> None:
    async with two_hosts() as (first, second):
        reading = 0

        async def read(frames: FrameStream) -> None:
            nonlocal reading
            reading += 1
            await frames.receive()

        first.handle(ECHO, read)
        there = muxer_to(first, second)
        for number in range(1, 21):
            frames = await second.open_stream(first.peer_id, ECHO)
            await until(lambda number=number: reading == number)  # type: ignore[misc]  # mypy cannot infer it
            await frames.reset()
        await until(lambda: not there.streams)
        assert not there.stream_events


async def test_a_stream_that_the_peer_does_not_end_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames_module, "LINGER", 0.5)
    async with two_hosts() as (first, second):
        there = muxer_to(first, second)
        stream = await second.libp2p.new_stream(
            ID.from_base58(first.peer_id), [TProtocol("/ipfs/id/1.0.0")]
        )
        assert await stream.read(1000)
        await stream.write(bytes(100 * KIB))
        await until(lambda: not there.streams)
        assert not there.stream_buffers


async def test_of_what_came_before_a_cut_nothing_more_is_looked_at() -> None:
    async with two_hosts() as (first, second):
        there, hostile = muxer_to(first, second), muxer_to(second, first)
        write: Any = there._write_frame

        async def cut(data: bytes) -> None:
            await there.abort()
            await write(data)

        there._write_frame = cut  # type: ignore[method-assign]  # upon the first answer
        ping = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, 1)
        hostile._put(ping * 5000)  # in one message of Noise's; to look at all takes 50 s
        await until(lambda: there.is_closed)


async def test_a_connection_that_cannot_be_pinged_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muxer, "PING_AFTER", 0.2)
    async with two_hosts() as (first, second):
        monkeypatch.setattr(muxer, "MAX_WAITING_FRAMES", 0)  # as beside a peer that takes no bytes
        for one, other in ((first, second), (second, first)):
            network: Any = one.libp2p.get_network()
            peer = ID.from_base58(other.peer_id)
            await until(lambda network=network, peer=peer: not network.get_connections(peer))  # type: ignore[misc]  # mypy cannot infer them
