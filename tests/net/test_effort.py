"""What is cheap to send and costly to take is taken within an allowance; nobody else waits, and nothing is lost."""

from __future__ import annotations

import contextlib
import struct
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_ACK,
    FLAG_RST,
    FLAG_SYN,
    TYPE_DATA,
    TYPE_PING,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
)
from libp2p.utils import encode_delim
from net_tools import ECHO, PATIENCE, asks, echo, host, muxer_to, network, place, two_hosts, until
from stranger import frame

from peatnet.net import effort
from peatnet.net.effort import BURST, PING, STREAM, cost_of_frame
from peatnet.net.gossip_reader import cost_of_rpc
from peatnet.net.host import open_host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peatnet.net.frames import FrameStream
    from peatnet.net.host import Host
    from peatnet.net.muxer import Muxer

MIB = 1024 * 1024
FEW = 2000.0
"""An allowance that is used up soon, for tests in which it does not come back."""


def counts_frames(muxer: Muxer) -> Callable[[], int]:
    """How many frames have been read from now on."""
    read, count = muxer._read, 0

    async def counting(n: int | None = None) -> bytes:
        nonlocal count
        data: bytes = await read(n)
        count += n == struct.calcsize(YAMUX_HEADER_FORMAT)
        return data

    muxer._read = counting
    return lambda: count


def used(there: Host, by: Host) -> float:
    """What one has made the other do, of what it may."""
    allowance = there.efforts.of(by.peer_id)._allowance
    return allowance._burst - allowance._tokens


def leaves(there: Host, by: Host, tokens: float) -> None:
    """Let a peer make us do so much more, and nothing after that."""
    allowance = there.efforts.of(by.peer_id)._allowance
    allowance._tokens, allowance._rate = tokens, 1e-9


KINDS = {
    "empty frames of data": (lambda _: frame(TYPE_DATA, 0, 9), 1),
    "bytes one by one": (lambda _: frame(TYPE_DATA, 0, 9, 1, b"x"), 1),
    "credit": (lambda _: frame(TYPE_WINDOW_UPDATE, 0, 9, 1), 1),
    "pings": (lambda _: frame(TYPE_PING, FLAG_SYN, 0, 1), PING),
    "answers to no ping": (lambda _: frame(TYPE_PING, FLAG_ACK, 0, 1), 1),
    "streams": (lambda n: frame(TYPE_WINDOW_UPDATE, FLAG_SYN, n), STREAM),
    "streams with data": (lambda n: frame(TYPE_DATA, FLAG_SYN, n, 1, b"x"), STREAM),
    "streams reset at once": (lambda n: frame(TYPE_WINDOW_UPDATE, FLAG_SYN | FLAG_RST, n), STREAM),
}


@pytest.mark.parametrize(("make", "cost"), KINDS.values(), ids=KINDS.keys())
async def test_of_cheap_frames_so_many_are_read(make: Callable[[int], bytes], cost: float) -> None:
    async with two_hosts() as (first, second), host() as third:
        first.handle(ECHO, echo)
        await third.connect(first.peer_id, first.listening)
        await until(lambda: third.peer_id in first.connected)
        leaves(first, second, FEW)
        frames_read = counts_frames(muxer_to(first, second))
        expected = int(FEW / cost)
        flood = b"".join(make(10_001 + 2 * number) for number in range(2 * expected))
        muxer_to(second, first)._put(flood)
        await until(lambda: frames_read() >= expected - 1)
        # Whoever else there is has its turn meanwhile, and for long.
        assert await asks(third, first, bytes(4 * MIB - 100)) == bytes(4 * MIB - 100)
        assert frames_read() <= expected + 3
        assert not first.is_banned(second.peer_id)


async def test_all_peers_at_one_address_share_an_allowance() -> None:
    listen = ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"]
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_host(bytes(32), listen, mdns=False))
        first.handle(ECHO, echo)
        crowd = [await stack.enter_async_context(host()) for _ in range(3)]
        elsewhere = await stack.enter_async_context(host())
        for each in crowd:
            await each.connect(first.peer_id, [first.listening[0]])
        await elsewhere.connect(first.peer_id, [first.listening[1]])
        await until(lambda: len(first.connected) == 4)
        shared = first.efforts.of(crowd[0].peer_id)._address
        assert shared is not None
        shared._tokens, shared._rate = FEW, 1e-9
        counters = [counts_frames(muxer_to(first, each)) for each in crowd]
        for each in crowd:
            muxer_to(each, first)._put(frame(TYPE_WINDOW_UPDATE, 0, 9, 1) * 2 * int(FEW))
        await until(lambda: sum(count() for count in counters) >= FEW - 10)
        assert await asks(elsewhere, first, bytes(4 * MIB - 100)) == bytes(4 * MIB - 100)
        assert sum(count() for count in counters) <= FEW + 10
        assert not any(first.is_banned(each.peer_id) for each in crowd)


async def test_of_connections_from_one_address_so_many_are_answered() -> None:
    async with two_hosts() as (first, second), trio.open_nursery() as nursery:
        shared = first.efforts.of(second.peer_id)._address
        assert shared is not None
        shared._tokens, shared._rate = 5 * effort.CONNECTION, 1e-9
        port = int(first.listening[0].rsplit("/", 1)[1])
        answered = 0

        async def knock() -> None:
            nonlocal answered
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(encode_delim(b"/multistream/1.0.0"))
                await stream.receive_some(1)
                answered += 1
                await trio.sleep_forever()

        for _ in range(20):
            nursery.start_soon(knock)
        await until(lambda: shared._tokens <= -15 * effort.CONNECTION)
        await until(lambda: answered >= 5)
        assert answered == 5
        nursery.cancel_scope.cancel()


async def test_bytes_that_are_encrypted_one_by_one_are_paid_for_one_by_one() -> None:
    async with two_hosts() as (first, second), host() as third:
        first.handle(ECHO, echo)
        await third.connect(first.peer_id, first.listening)
        leaves(first, second, FEW)
        frames_read = counts_frames(muxer_to(first, second))
        hostile = muxer_to(second, first)
        flood = frame(TYPE_WINDOW_UPDATE, 0, 9, 1)
        expected = int(FEW / (1 + len(flood)))
        for byte in flood * 2 * expected:
            await hostile.secured_conn.write(bytes([byte]))
        await until(lambda: frames_read() >= expected - 2)
        assert await asks(third, first, bytes(4 * MIB - 100)) == bytes(4 * MIB - 100)
        assert frames_read() <= expected + 2


async def test_who_is_held_back_can_be_cut_off_at_once() -> None:
    async with two_hosts() as (first, second):
        leaves(first, second, 10)
        muxer_to(second, first)._put(frame(TYPE_WINDOW_UPDATE, 0, 9, 1) * 100)
        await until(lambda: used(first, second) > BURST)
        await first.disconnect(second.peer_id)
        await until(lambda: not first.connected)


async def test_who_was_held_back_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "RATE", 20_000.0)
    monkeypatch.setattr(effort, "BURST", 500.0)
    async with two_hosts() as (first, second):
        first.handle(ECHO, echo)
        frames_read = counts_frames(muxer_to(first, second))
        muxer_to(second, first)._put(frame(TYPE_WINDOW_UPDATE, 0, 9, 1) * 3000)
        assert await asks(second, first) == b"?"
        assert frames_read() >= 3000


async def test_one_peer_has_one_allowance_for_all_its_connections() -> None:
    async with two_hosts() as (first, second):
        first.handle(ECHO, echo)
        leaves(first, second, FEW)
        await second.disconnect(first.peer_id)
        await until(lambda: not first.connected and not second.connected)
        await second.connect(first.peer_id, first.listening)
        await until(lambda: second.peer_id in first.connected)
        assert await asks(second, first) == b"?"
        assert first.efforts.of(second.peer_id)._allowance._tokens < FEW - STREAM


@pytest.mark.parametrize("size", [1024, 4096, 16 * 1024])
async def test_bulk_in_small_frames_costs_little(size: int) -> None:
    async with two_hosts() as (first, second):
        total = 8 * MIB

        async def swallow(frames: FrameStream) -> None:
            left = total
            while left:
                left -= len(await frames._read_some(64 * 1024, PATIENCE))
            await frames.send({"n": 1})

        first.handle(ECHO, swallow)
        frames = await second.open_stream(first.peer_id, ECHO)
        for _ in range(total // size):
            await frames._stream.write(bytes(size))
        with trio.fail_after(PATIENCE):
            await frames.receive()
        await frames.reset()
        assert used(first, second) < BURST / 10


def test_the_more_a_frame_carries_the_less_it_costs() -> None:
    costs = [cost_of_frame(frame(TYPE_DATA, 0, 1, length)) for length in (0, 1, 512, 4096, 65_536)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == 1
    assert costs[-2] < 0.12
    assert cost_of_frame(frame(TYPE_DATA, FLAG_SYN, 1)) > STREAM
    assert cost_of_frame(b"\0" * 5) == 0


async def test_of_small_messages_on_a_stream_so_many_are_read() -> None:
    async with two_hosts() as (first, second):
        count = 0

        async def read(frames: FrameStream) -> None:
            nonlocal count
            while True:
                await frames.receive()
                count += 1

        first.handle("/test/read/1", read)
        first.handle(ECHO, echo)
        frames = await second.open_stream(first.peer_id, "/test/read/1")
        await frames.send({})
        await until(lambda: count)
        leaves(first, second, 50 * effort.MESSAGE)
        empty = struct.pack(">II", 1, 0) + b"\x80"
        await frames._stream.write(empty * 1000)
        await until(lambda: count >= 49)
        async with host() as third:
            await third.connect(first.peer_id, first.listening)
            assert await asks(third, first, bytes(MIB)) == bytes(MIB)
        assert count <= 52


async def test_of_gossip_rpcs_so_many_are_read(tmp_path: Path) -> None:
    async with network(place(tmp_path / "first")) as one, host() as stranger, host() as third:
        assert one._gossip is not None
        pubsub: Any = one._gossip._pubsub
        taken: list[ID] = []
        take = pubsub._take

        async def noting(peer_id: ID, rpc: Any) -> None:
            taken.append(peer_id)
            await take(peer_id, rpc)

        pubsub._take = noting
        await stranger.connect(one._host.peer_id, one._host.listening)
        peer = ID.from_base58(stranger.peer_id)
        stream = await stranger.libp2p.new_stream(
            ID.from_base58(one._host.peer_id), [TProtocol("/meshsub/1.1.0")]
        )
        await stream.write(b"\0")  # an RPC without anything
        await until(lambda: peer in taken)
        leaves(one._host, stranger, 50 * effort.RPC)
        await stream.write(b"\0" * 1000)
        await until(lambda: taken.count(peer) >= 49)
        one._host.handle(ECHO, echo)
        await third.connect(one._host.peer_id, one._host.listening)
        assert await asks(third, one._host, bytes(MIB)) == bytes(MIB)
        assert taken.count(peer) <= 52
        assert not one.banned()


def test_an_rpc_costs_what_it_names() -> None:
    assert cost_of_rpc(rpc_pb2.RPC()) == effort.RPC
    topics = rpc_pb2.RPC()
    for _ in range(1000):
        topics.subscriptions.add(topicid="x")
    assert cost_of_rpc(topics) == effort.RPC + 1000 * effort.NAMED
    asking = rpc_pb2.RPC()
    asking.control.ihave.add(topicID="x", messageIDs=[b"id"] * 100)
    asking.control.iwant.add(messageIDs=[b"id"] * 50)
    asking.control.graft.add(topicID="x")
    asking.control.prune.add(topicID="x")
    assert cost_of_rpc(asking) == effort.RPC + effort.ASKING + 154 * effort.NAMED


async def test_nobody_goes_on_wishing_for_protocols() -> None:
    async with two_hosts() as (first, second):
        stream = await muxer_to(second, first).open_stream()
        wishes = encode_delim(b"/multistream/1.0.0") + encode_delim(b"x") * 1000
        await stream.write(wishes)
        answers = b""
        with trio.fail_after(PATIENCE), contextlib.suppress(MuxedStreamError):
            while True:
                answers += await stream.read(1000)
        assert 0 < answers.count(b"na\n") < 100
        assert not first.is_banned(second.peer_id)
