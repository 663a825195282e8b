"""Real hosts on the loopback: connections, streams, limits and bans, against peers that misbehave below us."""

from __future__ import annotations

import secrets
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.identity.identify_push.identify_push import push_identify_to_peer
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import TYPE_DATA, YAMUX_HEADER_FORMAT
from net_tools import (
    ECHO,
    LOOPBACK,
    PATIENCE,
    asks,
    echo,
    host,
    muxer_to,
    offences_of,
    two_hosts,
    until,
)

from peatnet.errors import ListenError, PeerLost, RemoteProtocolError, StorageError, UsageError
from peatnet.net import connections, muxer, tcp
from peatnet.net.host import Host, open_host
from peatnet.net.standing import Offence

if TYPE_CHECKING:
    from libp2p.abc import INetStream

    from peatnet.net.frames import FrameStream

KIB = 1024


async def deaf(frames: FrameStream) -> None:
    await trio.sleep_forever()


def slots_taken(here: Host) -> int:
    network: Any = here.libp2p.get_network()
    taken: int = network._inbound_limiter.borrowed_tokens
    return taken


# Connecting


async def test_a_connection_serves_both_ways() -> None:
    async with two_hosts() as (first, second):
        for one in (first, second):
            one.handle(ECHO, echo)
        assert await asks(first, second, b"a") == b"a"
        assert await asks(second, first, bytes(300 * KIB)) == bytes(300 * KIB)


async def test_all_addresses_of_a_peer_are_tried() -> None:
    async with host() as first, host() as second:
        with trio.fail_after(PATIENCE):
            dead = ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.2/tcp/1"]
            await second.connect(first.peer_id, [*dead, *first.listening])
        assert first.peer_id in second.connected


async def test_a_failed_dial_does_not_stand_in_the_way_of_the_next() -> None:
    async with host() as first, host() as second:
        with pytest.raises(PeerLost, match="cannot be reached"):
            await second.connect(first.peer_id, ["/ip4/127.0.0.1/tcp/1"])
        await second.connect(first.peer_id, first.listening)
        assert first.peer_id in second.connected


async def test_another_peer_at_the_address_is_refused() -> None:
    async with host() as first, host() as second, host() as third:
        with pytest.raises(PeerLost):
            await second.connect(third.peer_id, first.listening)
        await until(lambda: not slots_taken(first))
        assert second.connected == frozenset()


async def test_both_dial_at_once() -> None:
    async with host() as first, host() as second:
        first.handle(ECHO, echo)
        second.handle(ECHO, echo)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.connect, second.peer_id, second.listening)
            nursery.start_soon(second.connect, first.peer_id, first.listening)
        await until(lambda: first.connected and second.connected)
        assert await asks(first, second, b"a") == b"a"
        assert await asks(second, first, b"b") == b"b"
        await first.disconnect(second.peer_id)
        await until(lambda: not first.connected and not second.connected)


async def test_slots_are_given_back() -> None:
    """py-libp2p's own accepting never does, and the 257th connection of a node's life is refused."""
    async with host() as first:
        for _ in range(3):
            async with host() as second:
                await second.connect(first.peer_id, first.listening)
            await until(lambda: not first.connected and not slots_taken(first))


async def test_one_address_cannot_take_all_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_INBOUND_PER_ADDRESS", 1)
    async with two_hosts() as (first, _), host() as third:
        with pytest.raises(PeerLost):
            await third.connect(first.peer_id, first.listening)
        await until(lambda: slots_taken(first) == 1)


@pytest.mark.parametrize(
    ("listen", "there"), [("/ip6/::1/tcp/0", "::1"), ("/ip6/::/tcp/0", "127.0.0.1")]
)
async def test_where_a_connection_over_ipv6_comes_from(listen: str, there: str) -> None:
    async with open_host(bytes(32), [listen], mdns=False) as first, host() as second:
        port = first.listening[0].rsplit("/", 1)[1]
        kind = "ip6" if ":" in there else "ip4"
        await second.connect(first.peer_id, [f"/{kind}/{there}/tcp/{port}"])
        await until(lambda: second.peer_id in first.connected)
        assert first.address_of(second.peer_id) == there
        assert second.address_of(first.peer_id) == there


def test_whose_an_address_is() -> None:
    party = tcp.party
    assert party("192.0.2.7") != party("192.0.2.8")
    assert party("2001:db8::1") == party("2001:db8::ffff:1") != party("2001:db8:0:1::1")


async def test_a_connection_that_says_nothing_is_no_peer() -> None:
    async with host() as first:
        port = int(first.listening[0].rsplit("/", 1)[1])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await until(lambda: slots_taken(first) == 1)
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n" + secrets.token_bytes(1000))
            await until(lambda: not slots_taken(first))
        assert first.connected == frozenset()


@pytest.mark.parametrize(
    ("listen", "error"),
    [
        (["/ip4/192.0.2.1/tcp/0"], ListenError),
        (["/ip4/127.0.0.1/udp/1"], UsageError),
        (["nonsense"], UsageError),
    ],
)
async def test_addresses_that_cannot_be_listened_on(listen: list[str], error: type) -> None:
    with pytest.raises(error):
        async with open_host(secrets.token_bytes(32), listen, mdns=False):
            pass


async def test_a_port_in_use() -> None:
    async with host() as first:
        with pytest.raises(ListenError, match="in use"):
            async with open_host(secrets.token_bytes(32), first.listening, mdns=False):
                pass


# Streams


@pytest.mark.parametrize(
    ("error", "punished"),
    [
        (RemoteProtocolError("not what was asked"), True),
        (PeerLost("gone"), False),
        (StorageError("the disk"), False),
        (ValueError("a bug of ours"), False),
        (ExceptionGroup("bugs", [ValueError("a bug of ours")]), False),
    ],
)
async def test_what_a_handler_raises_ends_the_stream_and_nothing_else(
    error: Exception, *, punished: bool
) -> None:
    async def handler(frames: FrameStream) -> None:
        raise error

    async with two_hosts() as (first, second):
        offences = offences_of(first)
        first.handle("/test/raise/1", handler)
        first.handle(ECHO, echo)
        with pytest.raises(PeerLost):
            await _open_and_receive(second, first, "/test/raise/1")
        assert await asks(second, first, b"still here") == b"still here"
        assert bool(offences) == punished


async def _open_and_receive(here: Host, there: Host, protocol: str) -> None:
    frames = await here.open_stream(there.peer_id, protocol)
    try:
        await frames.receive()
    finally:
        await frames.reset()


async def test_garbage_on_a_stream_of_libp2ps_own() -> None:
    async def explode(stream: INetStream) -> None:
        raise KeyError("whatever garbage causes")

    async with two_hosts() as (first, second):
        offences = offences_of(first)
        first.handle(ECHO, echo)
        first.libp2p.set_stream_handler(TProtocol("/test/raw/1"), explode)
        with pytest.raises(PeerLost):
            await _open_and_receive(second, first, "/test/raw/1")
        assert [kind for kind, _ in offences] == [Offence.MALFORMED.value]
        assert await asks(second, first, b"still here") == b"still here"


async def test_an_unknown_protocol_is_a_peer_lost(capfd: pytest.CaptureFixture[str]) -> None:
    async with two_hosts() as (first, second):
        capfd.readouterr()
        with pytest.raises(PeerLost, match="/test/unknown/1"):
            await second.open_stream(first.peer_id, "/test/unknown/1")
        out, err = capfd.readouterr()
        assert (out, err) == ("", "")  # py-libp2p would say eight lines


async def test_streams_do_not_leak() -> None:
    async with two_hosts() as (first, second):
        first.handle(ECHO, echo)
        await asks(second, first)
        here, there = muxer_to(second, first), muxer_to(first, second)
        await until(lambda: not here.streams and not there.streams)
        for _ in range(20):
            await asks(second, first)
        with trio.CancelScope() as scope:
            scope.cancel()
            await asks(second, first)
        for pause in range(20):
            with trio.move_on_after(pause * 0.0005):
                await asks(second, first)
        await until(lambda: not here.streams)
        await until(lambda: all(each.closed for each in there.streams.values()))
        # What came on a stream that was reset before anybody read it is kept by py-libp2p for a minute.
        async with there.streams_lock:
            there._sweep_stale_streams(trio.current_time() + 61)
        assert not there.streams
        assert not here.stream_events
        assert not there.stream_events
        assert here.stream_backlog_semaphore.value == here.stream_backlog_limit


async def test_too_many_streams_of_one_peer_are_turned_away() -> None:
    async with two_hosts() as (first, second):
        first.handle("/test/deaf/1", deaf)
        first.handle(ECHO, echo)
        held: list[FrameStream] = []

        async def hold_many() -> None:
            while len(held) <= muxer.MAX_INBOUND_STREAMS:
                held.append(await second.open_stream(first.peer_id, "/test/deaf/1"))

        with pytest.raises(PeerLost):
            await hold_many()
        assert len(held) == muxer.MAX_INBOUND_STREAMS
        assert len(muxer_to(first, second).streams) <= muxer.MAX_INBOUND_STREAMS
        for frames in held:
            await frames.reset()
        await until(lambda: len(muxer_to(first, second).streams) < 4)
        assert await asks(second, first, b"now") == b"now"


@pytest.mark.parametrize("pause", [0.0, 0.001, 0.003, 0.01])
async def test_a_write_that_is_cancelled_leaves_the_connection_whole(pause: float) -> None:
    async with two_hosts() as (first, second):
        first.handle("/test/deaf/1", deaf)
        first.handle(ECHO, echo)
        for _ in range(5):
            frames = await second.open_stream(first.peer_id, "/test/deaf/1")
            with trio.move_on_after(pause):
                await frames.send({"t": "say"}, bytes(8 * KIB * KIB))
            await frames.reset()
        assert await asks(second, first, bytes(KIB * KIB)) == bytes(KIB * KIB)
        assert second.peer_id in first.connected


async def test_a_peer_that_reads_nothing_holds_nobody_up() -> None:
    async with two_hosts() as (first, second):
        first.handle("/test/deaf/1", deaf)
        first.handle(ECHO, echo)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                frames = await second.open_stream(first.peer_id, "/test/deaf/1")
                nursery.start_soon(frames.send, {"t": "say"}, bytes(KIB * KIB))
            assert await asks(second, first, bytes(KIB * KIB)) == bytes(KIB * KIB)
            nursery.cancel_scope.cancel()


async def test_a_peer_that_sends_beyond_its_window_is_cut_off() -> None:
    async with two_hosts() as (first, second):
        offences = offences_of(first)
        first.handle("/test/deaf/1", deaf)
        await second.open_stream(first.peer_id, "/test/deaf/1")
        hostile = muxer_to(second, first)
        stream_id = max(hostile.streams)
        data = bytes(60 * KIB)
        frame = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, stream_id, len(data)) + data
        sent = 0
        with trio.move_on_after(PATIENCE):
            while not offences and sent < 64 * KIB * KIB:
                await hostile._write_frame(frame)
                sent += len(data)
        assert offences
        assert "window" in offences[0][1]
        assert sent < 16 * KIB * KIB
        await until(lambda: second.peer_id not in first.connected)


async def test_a_transfer_keeps_a_connection_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muxer, "PING_AFTER", 0.2)
    monkeypatch.setattr(muxer, "DEAD_AFTER", 1.0)
    async with two_hosts() as (first, second):
        first.handle(ECHO, echo)
        with trio.move_on_after(2):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(_ask_for_ever, second, first)
        assert second.peer_id in first.connected
        assert first.peer_id in second.connected


async def _ask_for_ever(here: Host, there: Host) -> None:
    while True:
        await asks(here, there, bytes(KIB * KIB))


async def test_an_idle_connection_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muxer, "PING_AFTER", 0.1)
    monkeypatch.setattr(muxer, "DEAD_AFTER", 1.0)
    left: list[str] = []
    async with two_hosts() as (first, second):
        first.on_change.append(lambda peer, connected: left.append(peer))
        began = muxer_to(first, second)._ping_id
        await until(lambda: muxer_to(first, second)._ping_id >= began + 3)  # more than DEAD_AFTER
        assert left == []


async def test_one_of_the_two_ends_pings_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muxer, "PING_AFTER", 1.0)
    async with two_hosts() as (dialled, dialler):
        one, other = muxer_to(dialled, dialler), muxer_to(dialler, dialled)
        await until(lambda: one._rtt and other._rtt)  # each has measured the line once
        before = one._ping_id, other._ping_id
        await until(lambda: other._ping_id >= before[1] + 3)
        assert (
            one._ping_id <= before[0] + 1
        )  # on a machine that stands still both find the other silent


async def test_what_peers_say_of_themselves_by_identify_is_not_remembered() -> None:
    async with two_hosts() as (first, second):
        first.handle(ECHO, echo)
        assert not await push_identify_to_peer(second.libp2p, ID.from_base58(first.peer_id))
        await asks(second, first)
        for one, other in ((first, second), (second, first)):
            basic: Any = one.libp2p
            assert not basic._identify_tasks
            assert not basic.get_peerstore().has_peer(ID.from_base58(other.peer_id))


async def test_nothing_is_kept_of_those_who_came_and_went() -> None:
    async with host() as first:
        network: Any = first.libp2p.get_network()
        for _ in range(3):
            async with host() as second:
                await second.connect(first.peer_id, first.listening)
                with pytest.raises(
                    PeerLost, match="/ipfs/ping"
                ):  # which would keep a set for each that has asked
                    await second.open_stream(first.peer_id, "/ipfs/ping/1.0.0")
            await until(lambda: not first.connected and not network.get_connections())
        connector = network.auto_connector
        assert not [
            name for name, value in vars(connector).items() if isinstance(value, dict) and value
        ]


# Bans


async def test_a_banned_peer_is_cut_off_and_stays_out_until_the_ban_ends() -> None:
    seed = secrets.token_bytes(32)
    async with host() as first:
        first.handle(ECHO, echo)
        async with host(seed) as second:
            await second.connect(first.peer_id, first.listening)
            await until(lambda: second.peer_id in first.connected)
            first.offend(second.peer_id, Offence.CORRUPT_CHUNK, "chunk 7")
            await until(lambda: not first.connected and not second.connected)
            # No way in, neither by dialling us nor by being dialled, nor with a new process.
            with pytest.raises(PeerLost):
                await _connect_and_ask(second, first)
            with pytest.raises(PeerLost, match="banned"):
                await first.connect(second.peer_id, second.listening)
            banned = second.peer_id
        async with host(seed) as second:
            with pytest.raises(PeerLost):
                await _connect_and_ask(second, first)
            assert first.connected == frozenset()
            # Its time is over.
            first.standing._entries[banned].banned_until = trio.current_time()
            await second.connect(first.peer_id, first.listening)
            assert await asks(second, first, b"again") == b"again"


async def _connect_and_ask(here: Host, there: Host) -> None:
    await here.connect(there.peer_id, there.listening)
    await asks(here, there)


async def test_a_ban_cuts_what_is_under_way() -> None:
    async with two_hosts() as (first, second):
        first.handle("/test/deaf/1", deaf)
        first.handle(ECHO, echo)
        async with trio.open_nursery() as nursery:
            failed: list[PeerLost] = []

            async def keep_asking() -> None:
                try:
                    await _ask_for_ever(second, first)
                except PeerLost as exc:
                    failed.append(exc)

            nursery.start_soon(keep_asking)
            frames = await second.open_stream(first.peer_id, "/test/deaf/1")
            first.offend(second.peer_id, Offence.CORRUPT_CHUNK, "chunk 7")
            with trio.fail_after(PATIENCE), pytest.raises(PeerLost):
                await frames.receive()
            await until(lambda: failed)
        await until(lambda: not slots_taken(first))
        with pytest.raises(PeerLost):
            await first.open_stream(second.peer_id, ECHO)


async def test_we_never_ban_ourselves() -> None:
    async with host() as first:
        first.offend(first.peer_id, Offence.CORRUPT_CHUNK, "a slip")
        assert not first.is_banned(first.peer_id)


async def test_a_host_stops_at_once_beside_a_peer_that_reads_nothing() -> None:
    async with host() as first:
        first.handle("/test/deaf/1", deaf)
        with trio.fail_after(PATIENCE):
            async with open_host(secrets.token_bytes(32), [LOOPBACK], mdns=False) as second:
                await second.connect(first.peer_id, first.listening)
                async with trio.open_nursery() as nursery:
                    for _ in range(8):
                        frames = await second.open_stream(first.peer_id, "/test/deaf/1")
                        nursery.start_soon(frames.send, {"t": "say"}, bytes(KIB * KIB))
                    await until(lambda: muxer_to(first, second).stream_buffers)
                    nursery.cancel_scope.cancel()
                began = trio.current_time()
        assert trio.current_time() - began < 4
