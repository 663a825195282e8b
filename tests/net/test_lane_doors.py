"""The door of a holder's lanes: what it lets in, what it closes without a word, and what it does not wait for."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import trio
from blob_kit import CHUNK, DATA
from lane_kit import OK, a_lane_pair, called, plain, rest_of, say, secure, ticket_frame
from net_tools import LOOPBACK, host, until

from peatnet.errors import ListenError
from peatnet.net.blob_messages import ChunkRequest, HaveRequest
from peatnet.net.lanes import server as lane_server
from peatnet.net.lanes.listening import lane_addresses, lane_listeners
from peatnet.net.lanes.messages import MAX_LANES_PER_DOWNLOAD
from peatnet.net.lanes.tickets import MAX_FAILURES, MAX_TICKETS_PER_PEER
from peatnet.net.standing import Offence
from peatnet.net.wire import MAX_HEADER, PREFIX, pack_prefix

if TYPE_CHECKING:
    from pathlib import Path


def made(path: Path) -> Path:
    path.mkdir()
    return path


async def test_a_ticket_opens_a_lane_once(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        ticket = await pair.ticket()
        with await trio.to_thread.run_sync(secure, pair.port) as sock:
            sock.sendall(ticket_frame(ticket))
            assert await called(lambda: sock.recv(1000)) == OK
            assert pair.lanes.count(pair.taker.peer_id) == 1
            # Used already, while the lane is open and when it has ended.
            assert await say(pair.port, ticket_frame(ticket)) == b""
        await until(lambda: not pair.lanes.count(pair.taker.peer_id))
        assert await say(pair.port, ticket_frame(ticket)) == b""


NOT_TICKETS = {
    "nothing": b"",
    "a ticket that nobody gave": ticket_frame(bytes(32)),
    "a ticket too short": ticket_frame(bytes(31)),
    "a request": pack_prefix({"t": "have", "i": 0, "h": bytes(32)}),
    "garbage": b"\xff" * 100,
    "an HTTP request": b"GET / HTTP/1.1\r\n\r\n",
    "a header too long": PREFIX.pack(MAX_HEADER + 1, 0) + bytes(MAX_HEADER + 1),
    "a payload": pack_prefix({"t": "ticket", "k": bytes(32)}, 1) + b"x",
}


@pytest.mark.parametrize("data", NOT_TICKETS.values(), ids=NOT_TICKETS)
async def test_without_a_ticket_there_is_not_a_word(tmp_path: Path, data: bytes) -> None:
    async with a_lane_pair(tmp_path) as pair:

        def work() -> bytes:
            with secure(pair.port) as sock:
                sock.sendall(data)
                if not data:
                    socket.socket.shutdown(sock, socket.SHUT_WR)
                return rest_of(sock)

        assert await called(work) == b""
        await until(lambda: "127.0.0.1" in pair.lanes.server._standing._entries)
        # Nobody is to blame: whose it was is not known.
        assert not pair.holder.standing._entries


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 500])
async def test_plaintext_gets_nowhere(tmp_path: Path, data: bytes) -> None:
    async with a_lane_pair(tmp_path) as pair:

        def work() -> bytes:
            with plain(pair.port) as sock:
                sock.sendall(data)
                return rest_of(sock)

        answer = await called(work)
        assert len(answer) <= 7  # a TLS alert at most
        assert pair.lanes.server._standing._entries["127.0.0.1"].count > 0


async def test_a_ticket_of_another_holder_opens_nothing(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair, a_lane_pair(made(tmp_path / "other")) as other:
        assert await say(other.port, ticket_frame(await pair.ticket())) == b""
        assert not other.lanes.count(pair.taker.peer_id)


async def test_a_lane_is_that_peers_who_got_the_ticket(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair, host() as stranger:
        await stranger.connect(pair.holder.peer_id, pair.holder.listening)
        ticket = (await pair.offer(to=stranger)).tickets[0]
        # Whoever uses it, the lane, its place and its sins are the stranger's.
        with await trio.to_thread.run_sync(secure, pair.port) as sock:
            sock.sendall(ticket_frame(ticket) + b"\xff" * 100)
            assert await called(lambda: rest_of(sock)) == OK
        await until(lambda: stranger.peer_id in pair.holder.standing._entries)
        assert pair.taker.peer_id not in pair.holder.standing._entries


async def test_tickets_expire(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        pair.lanes.server.tickets.life = 0.0
        assert await say(pair.port, ticket_frame(await pair.ticket())) == b""


async def test_a_ban_takes_tickets_and_lanes_and_gives_none(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        used, unused = (await pair.offer(2)).tickets
        with await trio.to_thread.run_sync(secure, pair.port) as sock:
            sock.sendall(ticket_frame(used))
            assert await called(lambda: sock.recv(1000)) == OK
            pair.holder.offend(pair.taker.peer_id, Offence.CORRUPT_CHUNK, "for the test")
            assert await called(lambda: rest_of(sock)) == b""
        assert await say(pair.port, ticket_frame(unused)) == b""
        assert not pair.lanes.count(pair.taker.peer_id)


async def test_a_peer_that_leaves_takes_its_lanes_along(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        ticket = await pair.ticket()
        with await trio.to_thread.run_sync(secure, pair.port) as sock:
            sock.sendall(ticket_frame(ticket))
            assert await called(lambda: sock.recv(1000)) == OK
            await pair.taker.disconnect(pair.holder.peer_id)
            assert await called(lambda: rest_of(sock)) == b""


async def test_tickets_are_few(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        for _ in range(MAX_TICKETS_PER_PEER // MAX_LANES_PER_DOWNLOAD):
            assert len((await pair.offer(MAX_LANES_PER_DOWNLOAD)).tickets) == MAX_LANES_PER_DOWNLOAD
        with pytest.raises(AssertionError):
            await pair.offer()  # busy


async def test_lanes_are_few_and_idle_ones_give_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_server, "MAX_LANES", 2)
    async with a_lane_pair(tmp_path) as pair:
        first, second, third, fourth = (await pair.offer(4)).tickets
        with ExitStack() as stack:

            async def lane(ticket: bytes) -> socket.socket:
                sock = stack.enter_context(await trio.to_thread.run_sync(secure, pair.port))
                sock.sendall(ticket_frame(ticket))
                return sock

            idle = await lane(first)
            assert await called(lambda: idle.recv(1000)) == OK
            other = await lane(second)
            assert await called(lambda: other.recv(1000)) == OK
            # Both have asked just now, as far as one can tell.
            late = await lane(third)
            assert await called(lambda: rest_of(late)) == b""
            monkeypatch.setattr(lane_server, "GIVES_WAY_AFTER", 0.0)
            luckier = await lane(fourth)
            assert await called(lambda: luckier.recv(1000)) == OK
            assert await called(lambda: rest_of(idle)) == b""
            await until(lambda: pair.lanes.count(pair.taker.peer_id) == 2)


async def test_an_address_that_fails_too_often_is_refused(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        ticket = await pair.ticket()
        for _ in range(MAX_FAILURES):
            await say(pair.port, ticket_frame(bytes(32)))

        def knock() -> bytes:
            with plain(pair.port) as sock:
                return rest_of(sock)

        assert await called(knock) == b""  # closed before a handshake, so with a good ticket, too
        with pytest.raises(OSError, match=r".*"):
            await say(pair.port, ticket_frame(ticket))


async def test_who_dawdles_over_the_handshake_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_server, "HANDSHAKE_TIMEOUT", 0.2)
    async with a_lane_pair(tmp_path) as pair:

        def dawdle() -> bytes:
            with plain(pair.port) as sock:
                sock.sendall(b"\x16\x03\x01\x00\xff")
                return rest_of(sock)

        assert len(await called(dawdle)) <= 7
        with await trio.to_thread.run_sync(secure, pair.port) as sock:
            assert await called(lambda: rest_of(sock)) == b""  # TLS, and then nothing
        assert not pair.lanes.server._pending


async def test_so_many_handshakes_at_a_time_and_honest_ones_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_server, "MAX_PENDING_PER_ADDRESS", 4)
    async with a_lane_pair(tmp_path) as pair:
        with ExitStack() as stack:
            dawdlers = [stack.enter_context(plain(pair.port)) for _ in range(4)]
            await until(lambda: pair.lanes.server._pending["127.0.0.1"] == 4)
            with plain(pair.port) as one_more:
                assert await called(lambda: rest_of(one_more)) == b""
            dawdlers[0].close()
            await until(lambda: pair.lanes.server._pending["127.0.0.1"] == 3)
            info = await pair.fetch()
            assert info.path.read_bytes() == DATA
            assert pair.streams == []


REQUESTS = {
    "garbage": b"\xff" * 100,
    "an unknown message": pack_prefix({"t": "chunk", "i": 0, "c": 0}),
    "a header too long": PREFIX.pack(MAX_HEADER + 1, 0),
    "a payload": pack_prefix({"t": "get", "i": 0, "h": bytes(32), "c": 0}, 10) + bytes(10),
    "a chunk beyond all bounds": pack_prefix({"t": "get", "i": 0, "h": bytes(32), "c": 2**40}),
}


@pytest.mark.parametrize("data", REQUESTS.values(), ids=REQUESTS)
async def test_who_breaks_the_protocol_loses_the_lane_and_is_held_to_account(
    tmp_path: Path, data: bytes
) -> None:
    async with a_lane_pair(tmp_path) as pair:
        ticket = await pair.ticket()
        assert await say(pair.port, ticket_frame(ticket) + data) == OK
        await until(lambda: pair.taker.peer_id in pair.holder.standing._entries)


async def test_requests_beyond_what_is_kept_wait_unread(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        pair.gate.set_rates(1.0, None)  # hardly anything goes out
        requests = b"".join(
            pack_prefix(ChunkRequest(number, pair.info.hash, number % 4).header())
            for number in range(5000)
        )
        ticket = await pair.ticket()

        def work() -> bytes:
            with secure(pair.port) as sock:
                sock.sendall(ticket_frame(ticket) + requests)
                return sock.recv(100)

        assert (await called(work)).startswith(OK)
        await until(lambda: not pair.lanes.count(pair.taker.peer_id))
        assert not pair.holder.standing._entries


async def test_a_chunk_asked_for_beside_another_blob_is_sent_first(tmp_path: Path) -> None:
    async with a_lane_pair(tmp_path) as pair:
        ticket = await pair.ticket()
        requests: list[HaveRequest | ChunkRequest] = [
            HaveRequest(1, pair.info.hash),
            ChunkRequest(2, pair.info.hash, 0),
            HaveRequest(3, type(pair.info.hash)(bytes(32))),
            ChunkRequest(4, pair.info.hash, 11),
        ]

        def work() -> bytes:
            with secure(pair.port) as sock:
                sock.sendall(ticket_frame(ticket))
                sock.sendall(b"".join(pack_prefix(one.header()) for one in requests))
                found = b""
                while not found.endswith(DATA[11 * CHUNK :]):
                    found += sock.recv(65536)
                return found

        found = await called(work)
        assert found.count(DATA[:CHUNK]) == 1
        assert found.index(DATA[:CHUNK]) < found.index(
            pack_prefix({"t": "no", "i": 3, "e": "absent"})
        )


async def test_stopping_the_node_ends_lanes_and_handshakes(tmp_path: Path) -> None:
    with ExitStack() as stack:
        async with a_lane_pair(tmp_path) as pair:
            ticket = await pair.ticket()
            lane = stack.enter_context(await trio.to_thread.run_sync(secure, pair.port))
            lane.sendall(ticket_frame(ticket))
            assert await called(lambda: lane.recv(1000)) == OK
            dawdler = stack.enter_context(plain(pair.port))
            await until(lambda: pair.lanes.server._pending)
            server = pair.lanes.server
        assert not server._threads.borrowed_tokens
        assert await called(lambda: rest_of(lane)) == b""
        assert await called(lambda: rest_of(dawdler)) == b""


# Listening


async def test_lanes_are_listened_for_on_the_next_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as own:
        address = f"/ip4/127.0.0.1/tcp/{own.getsockname()[1]}"
        async with lane_listeners([address, LOOPBACK], None) as listeners:
            assert len(listeners) == 1
            (announced,) = lane_addresses(listeners)
            assert announced.startswith("/ip4/127.0.0.1/tcp/")


async def test_a_taken_port_is_done_without_where_nobody_chose_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"port {port} for bulk lanes"):
            async with lane_listeners([LOOPBACK], port):
                pass
        async with lane_listeners([f"/ip4/127.0.0.1/tcp/{port - 1}"], None) as (listener,):
            assert listener.socket.getsockname()[1] not in {0, port}


async def test_several_addresses_have_one_port() -> None:
    listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.2/tcp/0"]
    async with lane_listeners(listen, 0) as listeners:
        ports = {listener.socket.getsockname()[1] for listener in listeners}
        assert (len(listeners), len(ports)) == (2, 1)


async def test_an_address_that_is_not_ours_cannot_be_listened_on() -> None:
    with pytest.raises(ListenError):
        async with lane_listeners(["/ip4/192.0.2.77/tcp/0"], None):
            pass
