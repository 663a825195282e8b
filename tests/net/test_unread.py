"""What has come and nobody reads: counted exactly, and bounded for a whole node."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING

import pytest
import trio
from libp2p.stream_muxer.yamux.yamux import TYPE_DATA, YAMUX_HEADER_FORMAT
from net_tools import ECHO, asks, echo, host, muxer_to, two_hosts, until

from peatnet.errors import PeerLost
from peatnet.net import muxer, unread
from peatnet.net.unread import NodeUnread, Unread
from peatnet.net.watched import Watched

if TYPE_CHECKING:
    from peatnet.net.frames import FrameStream
    from peatnet.net.host import Host

LATE = "/test/late/1"
KIB = 1024
MIB = KIB * KIB


def all_unread(here: Host) -> NodeUnread:
    found: NodeUnread = here.libp2p.get_network().upgrader.muxer_multistream._unread  # type: ignore[attr-defined]
    return found


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "MAX_UNREAD", MIB)
    monkeypatch.setattr(unread, "SHARE", 64 * KIB)


@pytest.mark.usefixtures("little_room")
async def test_one_who_fills_the_memory_is_held_back_and_nobody_else() -> None:
    async with two_hosts() as (first, second), host() as third:
        now, arrived = trio.Event(), 0

        async def read_late(frames: FrameStream) -> None:
            nonlocal arrived
            await now.wait()
            payload = await frames.read_payload(await frames.receive())
            arrived += len(payload)

        first.handle(LATE, read_late)
        first.handle(ECHO, echo)
        await third.connect(first.peer_id, first.listening)
        held = all_unread(first)
        async with trio.open_nursery() as nursery:
            streams = [await second.open_stream(first.peer_id, LATE) for _ in range(16)]
            for frames in streams:
                nursery.start_soon(frames.send, {"n": 1}, bytes(200 * KIB))
            await until(lambda: held.held > MIB - 64 * KIB)
            assert len(await asks(third, first, bytes(2 * MIB))) == 2 * MIB
            assert held.held <= MIB + 2 * 64 * KIB
            now.set()
            await until(lambda: arrived == 16 * 200 * KIB)  # nothing is lost
            nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("little_room")
async def test_one_who_stays_held_back_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muxer, "DEAD_AFTER", 1.0)
    async with two_hosts() as (first, second):

        async def never_read(_frames: FrameStream) -> None:
            await trio.sleep_forever()

        first.handle(LATE, never_read)
        with pytest.raises(ExceptionGroup) as failed:
            await _fill(second, first)
        assert failed.group_contains(PeerLost)
        await until(lambda: not first.connected)
        assert all_unread(first).held == 0


async def _fill(here: Host, there: Host) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(16):
            frames = await here.open_stream(there.peer_id, LATE)
            nursery.start_soon(frames.send, {"n": 1}, bytes(200 * KIB))


async def test_a_frame_that_is_coming_counts() -> None:
    async with two_hosts() as (first, second):
        first.handle(LATE, echo)
        await second.open_stream(first.peer_id, LATE)
        hostile = muxer_to(second, first)
        header = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, max(hostile.streams), MIB)
        hostile._put(header + bytes(10))
        await until(lambda: all_unread(first).held == MIB)
        await second.disconnect(first.peer_id)
        await until(lambda: all_unread(first).held == 0)


async def test_the_counts_are_right_whatever_becomes_of_the_streams() -> None:
    async with two_hosts() as (first, second):

        async def read_some(frames: FrameStream) -> None:
            await frames.receive()

        first.handle(ECHO, echo)
        first.handle(LATE, read_some)
        ends = muxer_to(first, second), muxer_to(second, first)

        def check() -> None:
            for end, node in zip(ends, (all_unread(first), all_unread(second)), strict=True):
                assert end._unread.held == sum(map(len, end.stream_buffers.values()))
                assert node.held == end._unread.held
                inbound = [each for each in end.streams.values() if not each.is_initiator]
                assert end.streams.inbound == len(inbound)

        for number in range(30):
            kind = LATE if number % 3 else ECHO
            frames = await second.open_stream(first.peer_id, kind)
            with trio.move_on_after(number / 2000), contextlib.suppress(PeerLost):
                await frames.send({"n": 1}, bytes(number * 20 * KIB))
                await frames.receive()
            if number % 2:
                await frames.reset()
            check()
        await second.disconnect(first.peer_id)
        await until(lambda: not first.connected and all(end.is_closed for end in ends))
        check()
        assert all_unread(first).held == all_unread(second).held == 0


def test_every_change_of_a_buffer_counts() -> None:
    node = NodeUnread()
    here, there = Unread(node), Unread(node)
    here[1] = bytearray(b"four")
    here[1].extend(b"more")
    there[1] = bytearray()
    there[1].extend(b"abc")
    assert (here.held, there.held, node.held) == (8, 3, 11)
    del here[1][:3]
    assert (here.held, node.held) == (5, 8)
    buffer = here.pop(1)
    assert (here.held, node.held) == (0, 3)
    del buffer[:1]
    buffer.extend(b"still read by somebody")
    buffer.clear()
    assert (here.held, node.held) == (0, 3)
    there[1] = bytearray(b"another one")
    assert node.held == 11
    there[1].clear()
    there.clear()
    assert (there.held, node.held) == (0, 0)
    assert here.pop(1, None) is None
    with pytest.raises(KeyError):
        here.pop(1)


class Told(Watched[int, str]):
    def __init__(self) -> None:
        super().__init__()
        self.now: dict[int, str] = {}

    def __setitem__(self, key: int, value: str) -> None:
        super().__setitem__(key, value)
        self.now[key] = value

    def __delitem__(self, key: int) -> None:
        super().__delitem__(key)
        del self.now[key]


def test_no_change_of_a_dictionary_goes_unnoticed() -> None:
    told = Told()
    told.update({1: "a", 2: "b", 3: "c"})
    told.setdefault(4, "d")
    told.setdefault(4, "e")
    told.pop(1)
    told.pop(9, "")
    told.popitem()
    assert told == told.now
    assert len(told) == 2
    told |= {1: "a", 7: "g"}
    assert told == told.now
    assert len(told) == 4
    told.clear()
    assert told == told.now == {}
