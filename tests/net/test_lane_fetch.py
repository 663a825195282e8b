"""Blobs over bulk lanes between real hosts: whole, in part, interrupted, and back to a stream."""

from __future__ import annotations

import contextlib
import socket
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from blob_kit import CHUNK, DATA, N_CHUNKS
from lane_kit import a_lane_pair
from net_tools import PATIENCE, place, until

from peatnet.errors import NoSource
from peatnet.net import peer_source
from peatnet.net.host import Host
from peatnet.net.lanes import LANE_PROTOCOL, carriers, client, threads
from peatnet.net.lanes.client import LaneClient
from peatnet.net.lanes.messages import LaneOffer
from peatnet.net.lanes.sockets import LaneSocket
from peatnet.net.lanes.tickets import Tickets
from peatnet.net.lanes.tls import new_identity
from peatnet.net.standing import Offence

if TYPE_CHECKING:
    from peatnet.blobs import Hash
    from peatnet.net.frames import FrameStream
    from peatnet.net.peer_source import GivenTable


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_blob_comes_whole_over_a_lane(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        info = await pair.fetch()
        assert info.path.read_bytes() == DATA
        assert (pair.faults, pair.bans, pair.streams) == ([], [], [])
        await until(lambda: not pair.lanes.count(pair.taker.peer_id))
        assert not pair.taker_lanes.count(pair.holder.peer_id)


@pytest.mark.parametrize("by_lane", [0.25, 0.0])  # not every kernel tells
async def test_to_a_peer_that_is_far_away_several_lanes_are_asked_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_lane: float
) -> None:
    monkeypatch.setattr(Host, "round_trip", lambda *_: 0.25)
    monkeypatch.setattr(LaneSocket, "round_trip", lambda _: by_lane)
    async with a_lane_pair(tmp_path) as pair:
        asked: list[int] = []
        issue = Tickets.issue

        def noted(self: Tickets, peer_id: str, count: int, now: float) -> list[bytes]:
            asked.append(count)
            return issue(self, peer_id, count, now)

        monkeypatch.setattr(Tickets, "issue", noted)
        pair.gate.set_rates(CHUNK / 10, None)
        async with trio.open_nursery() as nursery:

            async def let_go() -> None:
                await until(lambda: pair.lanes.count(pair.taker.peer_id) == 4)
                pair.gate.set_rates(None, None)

            nursery.start_soon(let_go)
            info = await pair.fetch()
        assert info.path.read_bytes() == DATA
        assert (pair.faults, pair.bans, pair.streams) == ([], [], [])
        assert asked == [4]


async def test_tickets_are_asked_for_beside_the_table_of_a_peer_that_is_far_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_lane_pair(tmp_path) as pair:
        asked = trio.Event()
        prepare = LaneClient.prepare

        async def noted(self: LaneClient) -> None:
            await prepare(self)
            asked.set()

        monkeypatch.setattr(LaneClient, "prepare", noted)
        # Nearby it is not worth the asking.
        assert await pair.source().table(pair.info.hash) == pair.table
        assert not asked.is_set()
        monkeypatch.setattr(Host, "round_trip", lambda *_: 0.25)
        ask_table = peer_source._ask_table

        async def slowly(frames: FrameStream, blob: Hash) -> GivenTable | None:
            await asked.wait()
            return await ask_table(frames, blob)

        monkeypatch.setattr(peer_source, "_ask_table", slowly)
        assert await pair.source().table(pair.info.hash) == pair.table
        assert len(pair.lanes.server.tickets) == 4
        # They are good for whoever opens lanes to that peer next.
        pair.streams.clear()
        info = await pair.fetch()
        assert info.path.read_bytes() == DATA
        assert (pair.faults, pair.streams) == ([], [])
        # And worth nothing when it has gone.
        lanes = pair.taker_lanes
        lanes.peer_changed(pair.holder.peer_id, connected=False)
        assert not lanes._spare.get(pair.holder.peer_id)


async def test_tickets_that_cannot_be_had_beforehand_hold_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "round_trip", lambda *_: 0.25)
    async with a_lane_pair(tmp_path) as pair:
        frozen = trio.Event()

        async def freeze(_: FrameStream) -> None:
            frozen.set()
            await trio.sleep_forever()

        pair.holder.handle(LANE_PROTOCOL, freeze)
        ask_table = peer_source._ask_table

        async def slowly(frames: FrameStream, blob: Hash) -> GivenTable | None:
            await frozen.wait()
            return await ask_table(frames, blob)

        monkeypatch.setattr(peer_source, "_ask_table", slowly)
        with trio.fail_after(client.ASK_TIMEOUT / 2):
            assert await pair.source().table(pair.info.hash) == pair.table


async def test_a_partial_holder_pushes_what_it_gains(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        holding = place(tmp_path / "partial")
        partial = holding.store.start_partial(pair.table, pair.info.hash)

        def put(index: int) -> None:
            offset = pair.table.offset_of(index)
            partial.write(index, DATA[offset : offset + pair.table.length_of(index)])

        for index in range(0, N_CHUNKS, 2):
            put(index)
        pair.lanes.server._store = holding.store
        async with trio.open_nursery() as nursery:

            async def gain() -> None:
                await until(lambda: pair.taking.store.partial(pair.info.hash) is not None)
                taken = pair.taking.store.partial(pair.info.hash)
                assert taken is not None
                await until(lambda: taken.has(0))
                for index in range(1, N_CHUNKS, 2):
                    put(index)

            nursery.start_soon(gain)
            info = await pair.fetch()
        partial.close()
        assert info.path.read_bytes() == DATA
        assert (pair.faults, pair.streams) == ([], [])


async def test_other_chunks_are_no_offence(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        holding = place(tmp_path / "other")
        holding.store.add_file(tmp_path / "data", chunk_size=2 * CHUNK)
        pair.lanes.server._store = holding.store
        with pytest.raises(NoSource):
            await pair.fetch()
        assert (pair.faults, pair.bans) == ([], [])


async def test_without_a_way_to_the_port_a_stream_serves(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            closed = nobody.getsockname()[1]
        pair.lanes.server.port = closed
        pair.lanes.server.addresses = []
        info = await pair.fetch()
        assert info.path.read_bytes() == DATA
        assert pair.streams == [pair.taker.peer_id]
        assert pair.faults == []


async def test_the_announced_addresses_are_tried_too(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            closed = nobody.getsockname()[1]
        pair.lanes.server.addresses = [f"/ip4/127.0.0.1/tcp/{pair.port}"]
        pair.lanes.server.port = closed
        await pair.fetch()
        assert pair.streams == []


async def test_a_firewall_that_swallows_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carriers, "HEAD_START", 0.05)
    async with a_lane_pair(tmp_path) as pair:
        with ExitStack() as stack:
            # Its queue is full: nobody else gets an answer.
            deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            stack.enter_context(socket.create_connection(deaf.getsockname()))
            pair.lanes.server.port = deaf.getsockname()[1]
            pair.lanes.server.addresses = []
            info = await pair.fetch()
        assert info.path.read_bytes() == DATA
        assert pair.streams == [pair.taker.peer_id]


async def test_a_slow_handshake_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carriers, "HEAD_START", 0.05)
    shake_hands = LaneSocket.shake_hands
    waited = threading.Event()

    def slowly(self: LaneSocket, limit: float) -> None:
        waited.wait(0.3)
        shake_hands(self, limit)

    monkeypatch.setattr(LaneSocket, "shake_hands", slowly)
    async with a_lane_pair(tmp_path) as pair:
        await pair.fetch()
        assert pair.streams == []


async def test_of_two_connections_that_are_ready_one_shows_the_ticket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "NEXT_ADDRESS_AFTER", 0.0)
    both = threading.Barrier(2)
    shake_hands = LaneSocket.shake_hands

    def together(self: LaneSocket, limit: float) -> None:
        shake_hands(self, limit)
        if self in ours():
            both.wait(PATIENCE)

    def ours() -> set[LaneSocket]:
        return pair.taker_lanes._open[pair.holder.peer_id]

    async with a_lane_pair(tmp_path) as pair, trio.open_nursery() as nursery:

        async def forward(near: trio.SocketStream) -> None:
            far = await trio.open_tcp_stream("127.0.0.1", pair.port)
            async with far, trio.open_nursery() as both_ways:
                both_ways.start_soon(pour, near, far)
                both_ways.start_soon(pour, far, near)

        listeners = await nursery.start(partial(trio.serve_tcp, forward, 0, host="127.0.0.1"))
        other = listeners[0].socket.getsockname()[1]
        pair.lanes.server.addresses = [f"/ip4/127.0.0.1/tcp/{other}"]
        monkeypatch.setattr(LaneSocket, "shake_hands", together)
        tickets = pair.lanes.server.tickets
        shown: list[bytes] = []

        def redeem(ticket: bytes, now: float) -> str | None:
            shown.append(ticket)
            return Tickets.redeem(tickets, ticket, now)

        monkeypatch.setattr(tickets, "redeem", redeem)
        lane = await pair.taker_lanes.to_peer(pair.holder.peer_id).open()
        await until(lambda: ours() == {lane})
        await until(
            lambda: not pair.lanes.server._pending
        )  # the holder has heard all of the other one
        assert len(shown) == pair.lanes.count(pair.taker.peer_id) == 1
        lane.close()
        nursery.cancel_scope.cancel()
    assert not both.broken


async def pour(one: trio.SocketStream, other: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in one:
            await other.send_all(data)
        await other.send_eof()


async def test_a_name_that_is_none_is_no_way_to_a_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = LaneOffer.header

    def lying(self: LaneOffer) -> dict[str, Any]:
        return {**header(self), "a": [b"\x36\x04a..b\x06\x1c\xf4", b"\x36\x05xn--a\x06\x1c\xf4"]}

    monkeypatch.setattr(LaneOffer, "header", lying)
    async with a_lane_pair(tmp_path) as pair:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            pair.lanes.server.port = nobody.getsockname()[1]
        await pair.fetch()
        assert pair.streams == [pair.taker.peer_id]


async def test_who_gets_no_thread_for_a_lane_is_served_by_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_lane = LaneClient.open

    async def and_lose_the_thread(self: LaneClient, *args: Any) -> LaneSocket:
        lane = await open_lane(self, *args)
        self.threads.total_tokens = 1
        self.threads.acquire_on_behalf_of_nowait(self)
        return lane

    monkeypatch.setattr(LaneClient, "open", and_lose_the_thread)
    monkeypatch.setattr(threads, "THREAD_PATIENCE", 0.05)
    async with a_lane_pair(tmp_path) as pair:
        await pair.fetch()
        assert pair.streams == [pair.taker.peer_id]


async def test_a_node_without_lanes_serves_by_streams(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        pair.lanes.server.port = 0
        await pair.fetch()
        assert pair.streams == [pair.taker.peer_id]


async def test_a_man_in_the_middle_gets_nothing(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        heard: list[bytes] = []
        identity = new_identity()

        def listen(door: socket.socket) -> None:
            while True:
                try:
                    sock, _ = door.accept()
                except OSError:
                    return
                try:
                    with identity.context.wrap_socket(sock, server_side=True) as secured:
                        heard.append(secured.recv(1000))
                except OSError as exc:
                    heard.append(repr(exc).encode() if b"ticket" in repr(exc).encode() else b"")

        with socket.create_server(("127.0.0.1", 0)) as door:
            listener = threading.Thread(target=listen, args=(door,))
            listener.start()
            pair.lanes.server.port = door.getsockname()[1]
            pair.lanes.server.addresses = []
            info = await pair.fetch()
            door.shutdown(socket.SHUT_RDWR)
            await trio.to_thread.run_sync(listener.join)
        assert info.path.read_bytes() == DATA
        assert heard == [b""]
        assert pair.streams == [pair.taker.peer_id]
        assert pair.faults == []


@pytest.mark.parametrize("patience", [0.01, 30.0], ids=["at once", "when the stream owes nothing"])
async def test_lanes_are_tried_again_while_a_stream_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(carriers, "TRY_AGAIN", 0.05)
    monkeypatch.setattr(carriers, "HAND_OVER", patience)
    async with a_lane_pair(tmp_path) as pair:
        pair.gate.set_rates(CHUNK / 10, None)  # after a burst the stream owes what was asked for
        port, pair.lanes.server.port = pair.lanes.server.port, 0
        async with trio.open_nursery() as nursery:

            async def open_up() -> None:
                await until(lambda: pair.streams)
                pair.lanes.server.port = port
                await until(lambda: pair.lanes.count(pair.taker.peer_id))
                if patience < 1:
                    await until(lambda: pair.streams_ended)
                pair.gate.set_rates(None, None)

            nursery.start_soon(open_up)
            info = await pair.fetch()
        assert info.path.read_bytes() == DATA
        assert pair.streams == [pair.taker.peer_id]
        assert (pair.faults, pair.bans) == ([], [])


def cut_within(numbers: set[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have holders cut the lane in the middle of the chunks with these numbers; returns the lengths of all."""
    real = LaneSocket.send_bytes
    sent: list[int] = []

    def send_bytes(self: LaneSocket, data: Any) -> None:
        if len(data) > 700:  # a chunk
            sent.append(len(data))
            if len(sent) in numbers:
                real(self, data[: len(data) // 2])
                self.shut()
        real(self, data)

    monkeypatch.setattr(LaneSocket, "send_bytes", send_bytes)
    return sent


async def test_a_lane_that_is_cut_within_a_chunk_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = cut_within({3, 7}, monkeypatch)
    async with a_lane_pair(tmp_path) as pair:
        info = await pair.fetch()
        assert info.path.read_bytes() == DATA
        assert (pair.faults, pair.bans, pair.streams) == ([], [], [])
        assert len(sent) > N_CHUNKS


async def test_lanes_that_deliver_nothing_give_way_to_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_within(set(range(100)), monkeypatch)
    async with a_lane_pair(tmp_path) as pair:
        info = await pair.fetch()
        assert info.path.read_bytes() == DATA
        assert pair.streams == [pair.taker.peer_id]
        assert (pair.faults, pair.bans) == ([], [])


async def test_a_peer_that_is_banned_loses_its_lane_at_once(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        pair.gate.set_rates(CHUNK, None)
        async with trio.open_nursery() as nursery:

            async def ban() -> None:
                await until(lambda: pair.gate.sent_bytes)
                assert pair.lanes.count(pair.taker.peer_id)
                pair.holder.offend(pair.taker.peer_id, Offence.CORRUPT_CHUNK, "for the test")
                await until(lambda: not pair.lanes.count(pair.taker.peer_id))

            nursery.start_soon(ban)
            with pytest.raises(NoSource):
                await pair.fetch()


async def test_cancelling_leaves_nothing_behind(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        fds = open_fds()
        for pause in (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06):
            with trio.move_on_after(pause):
                await pair.fetch()
            # The downloader's threads and sockets are gone when the fetch is, not some time later.
            assert not pair.taker_lanes._threads.borrowed_tokens
            assert not pair.taker_lanes.count(pair.holder.peer_id)
        await until(lambda: not pair.lanes.server._threads.borrowed_tokens)
        await until(lambda: open_fds() <= fds)
        info = await pair.fetch()
        assert info.path.read_bytes() == DATA


async def test_tickets_of_a_peer_that_is_banned_open_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "round_trip", lambda *_: 0.25)
    async with a_lane_pair(tmp_path) as pair:
        lanes = pair.taker_lanes.to_peer(pair.holder.peer_id)
        await lanes.prepare()
        assert len(pair.lanes.server.tickets) == 4
        # Its connection is open for a moment longer.
        pair.taker.offend(pair.holder.peer_id, Offence.CORRUPT_CHUNK, "told to")
        with pytest.raises(client.LaneUnavailable):
            await lanes.open()
