"""Time limits, cancellation and endings of framed streams, on trio's virtual clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from net_tools import MemoryStream, frames_over

from peatnet.errors import PeerLost, RemoteProtocolError
from peatnet.net.frames import FRAME_TIMEOUT, LINGER, LOWEST_RATE, READ_TIMEOUT
from peatnet.net.wire import pack_prefix

if TYPE_CHECKING:
    from trio.testing import MockClock

MIB = 1024 * 1024


async def test_a_silent_peer_is_lost_after_the_callers_patience(autojump_clock: MockClock) -> None:
    frames = frames_over(MemoryStream(ends=False))
    began = trio.current_time()
    with pytest.raises(PeerLost):
        await frames.receive(patience=7.0)
    assert trio.current_time() - began == pytest.approx(7.0)


@pytest.mark.parametrize("length", [4, 20, 1000])
async def test_a_frame_that_breaks_off_in_silence(autojump_clock: MockClock, length: int) -> None:
    data = (pack_prefix({"t": "x" * 10}, MIB) + bytes(MIB))[:length]
    frames = frames_over(MemoryStream(data, ends=False))
    with pytest.raises(PeerLost):
        await frames.read_payload(await frames.receive())


async def test_a_payload_in_trickles_has_an_end(autojump_clock: MockClock) -> None:
    data = pack_prefix({"t": "x"}, MIB) + bytes(MIB)
    frames = frames_over(MemoryStream(data, piece=64, pause=1.0))
    began = trio.current_time()
    with pytest.raises(PeerLost):
        await frames.read_payload(await frames.receive())
    limit = FRAME_TIMEOUT + MIB / LOWEST_RATE
    assert limit < trio.current_time() - began < limit + READ_TIMEOUT


async def test_a_slow_but_steady_payload_is_waited_for(autojump_clock: MockClock) -> None:
    data = pack_prefix({"t": "x"}, MIB) + bytes(MIB)
    frames = frames_over(MemoryStream(data, piece=32 * 1024, pause=1.0))
    assert len(await frames.read_payload(await frames.receive())) == MIB


@pytest.mark.parametrize(("header", "payload"), [(4097, 0), (0, 1), (1, 2**32 - 1)])
async def test_lengths_are_refused_before_anything_is_read(header: int, payload: int) -> None:
    stream = MemoryStream(header.to_bytes(4, "big") + payload.to_bytes(4, "big") + b"rest")
    with pytest.raises(RemoteProtocolError):
        await frames_over(stream).receive(max_payload=0)
    assert stream.data == b"rest"


async def test_a_peer_that_takes_no_bytes_is_lost(autojump_clock: MockClock) -> None:
    frames = frames_over(MemoryStream(stuck=True))
    with pytest.raises(PeerLost):
        await frames.send({"t": "x"}, bytes(LOWEST_RATE))
    assert trio.current_time() == pytest.approx(FRAME_TIMEOUT + 1)


async def test_after_a_frame_was_cut_nothing_more_is_sent(autojump_clock: MockClock) -> None:
    stream = MemoryStream(stuck=True)
    frames = frames_over(stream)
    with trio.move_on_after(1):
        await frames.send({"t": "x"})
    stream.stuck = False
    with pytest.raises(PeerLost):
        await frames.send({"t": "y"})
    assert stream.written == b""


async def test_frames_of_two_senders_do_not_mix() -> None:
    stream = MemoryStream()
    frames = frames_over(stream)
    async with trio.open_nursery() as nursery:
        for letter in b"abc":
            nursery.start_soon(frames.send, {"t": "x"}, bytes([letter]) * 50)
    size = len(stream.written) // 3
    parts = {bytes(stream.written[at : at + size]) for at in range(0, 3 * size, size)}
    assert parts == {pack_prefix({"t": "x"}, 50) + bytes([letter]) * 50 for letter in b"abc"}


async def test_finishing_waits_for_the_peer_but_not_for_ever(autojump_clock: MockClock) -> None:
    stream = MemoryStream(b"more", ends=False)
    frames = frames_over(stream)
    await frames.finish()
    assert trio.current_time() == pytest.approx(LINGER)
    assert (stream.closes, stream.resets) == (1, 1)
    await frames.finish()
    await frames.reset()
    assert (stream.closes, stream.resets) == (1, 1)


@pytest.mark.parametrize("how", ["finish", "reset"])
async def test_a_stream_is_ended_even_when_cancelled(how: str) -> None:
    stream = MemoryStream(ends=False)
    with trio.CancelScope() as scope:
        scope.cancel()
        await getattr(frames_over(stream), how)()
    assert stream.resets == 1
