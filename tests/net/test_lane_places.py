"""Peers on lanes that would keep their places at the gate, and so keep everybody else from being served."""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio
from blob_kit import CHUNK
from lane_kit import OK, LanePair, a_lane_pair, called, secure, ticket_frame
from net_tools import until

from peatnet.net.blob_messages import ChunkReply, ChunkRequest
from peatnet.net.lanes import server as lane_server
from peatnet.net.lanes.sockets import LaneSocket
from peatnet.net.wire import pack_prefix
from peatnet.swarm.window import USUAL

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

# More than there are places.
LANES = USUAL + 1


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the frames that lanes have begun to receive, and the chunks that they have begun to send."""
    counts: dict[str, int] = {}

    def count(name: str) -> None:
        real = getattr(LaneSocket, name)
        counts[name] = 0

        def counting(self: LaneSocket, *args: Any, **more: Any) -> Any:
            counts[name] += 1
            return real(self, *args, **more)

        monkeypatch.setattr(LaneSocket, name, counting)

    count("receive")
    count("send_behind")
    return counts


async def open_lanes(pair: LanePair, stack: ExitStack) -> list[ssl.SSLSocket]:
    """As many lanes of the taker's as there may be in the test, all let in."""
    found = []
    for _ in range(LANES):
        sock = stack.enter_context(await trio.to_thread.run_sync(secure, pair.port))
        sock.sendall(ticket_frame(await pair.ticket()))
        assert await called(lambda sock=sock: sock.recv(len(OK))) == OK  # type: ignore[misc]
        found.append(sock)
    return found


def submit(pair: LanePair, peer_id: str) -> tuple[Any, list[None]]:
    """Somebody else's chunk at the gate, and what shows that it went."""
    went: list[None] = []
    place = pair.gate.submit(pair.info.hash, 5, peer_id, 1, CHUNK, lambda: went.append(None))
    return place, went


def read(sock: ssl.SSLSocket, count: int) -> bytes:
    found = b""
    while len(found) < count and (data := sock.recv(count - len(found))):
        found += data
    return found


async def test_one_who_asks_in_drips_does_not_keep_the_others_from_being_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: dict[str, int]
) -> None:
    monkeypatch.setattr(lane_server, "PLACE_PATIENCE", 0.05)
    async with a_lane_pair(tmp_path) as pair:
        with ExitStack() as stack:
            lanes = await open_lanes(pair, stack)
            first, second = (
                pack_prefix(ChunkRequest(index + 1, pair.info.hash, index).header())
                for index in range(2)
            )
            ahead = [submit(pair, pair.taker.peer_id)[0] for _ in range(USUAL)]
            for lane in lanes:
                lane.sendall(first)
            await until(lambda: pair.gate._uploads.waiting == LANES)
            for lane in lanes:
                lane.sendall(second[:10])
            await until(lambda: begun["receive"] == 3 * LANES)  # with the ticket
            for each in ahead:
                each.done(sent=True)
            _, went = submit(pair, "honest")
            await until(lambda: went)
            # They are as slow as they may be, and get what they asked for when they have come to an end.
            assert pair.lanes.count(pair.taker.peer_id) == LANES
            lanes[0].sendall(second[10:])
            replies = b"".join(
                pack_prefix(ChunkReply(index + 1, index).header(), CHUNK) for index in range(2)
            )
            wanted = len(replies) + 2 * CHUNK
            assert len(await called(lambda: read(lanes[0], wanted))) == wanted


async def test_one_who_takes_no_chunks_does_not_keep_the_others_from_being_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: dict[str, int]
) -> None:
    monkeypatch.setattr(lane_server, "PLACE_PATIENCE", 0.05)
    async with a_lane_pair(tmp_path) as pair:
        # Chunks that are more than the buffers on the way take.
        (tmp_path / "big").write_bytes(random.Random(8).randbytes(4 * 64 * CHUNK))
        big = pair.holding.store.add_file(tmp_path / "big", chunk_size=64 * CHUNK)
        with ExitStack() as stack:
            lanes = await open_lanes(pair, stack)
            for lane in lanes:
                for index in range(4):
                    lane.sendall(pack_prefix(ChunkRequest(index + 1, big.hash, index).header()))
            await until(lambda: begun["send_behind"] >= USUAL)
            _, went = submit(pair, "honest")
            await until(lambda: went)
            assert pair.lanes.count(pair.taker.peer_id) == LANES
