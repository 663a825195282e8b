"""Holders that lie on lanes, holders that fall silent there, and lanes beside lanes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
from blob_kit import CHUNK, DATA, N_CHUNKS, honest, on
from blob_lies import LIES, RAW_LIES
from lane_kit import LanePair, a_lane_pair
from net_tools import PATIENCE, until

from peatnet.net.blob_messages import ChunkReply, ChunkRequest, decode_request
from peatnet.net.lanes import fetcher, session
from peatnet.net.lanes import server as lane_server
from peatnet.net.lanes.count import LaneCount
from peatnet.net.lanes.holder import Holder
from peatnet.net.lanes.messages import OK
from peatnet.net.lanes.session import LaneSession

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.net.lanes.sockets import LaneSocket


def scripted(pair: LanePair, lie: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the holder's lanes answer honestly but where the lie says otherwise."""

    class Scripted:
        idle_since = 0.0
        place_out = None

        def __init__(self, _store: Any, _gate: Any, lane: LaneSocket, *_: Any) -> None:
            self.lane = lane

        def run(self) -> None:
            self.lane.send(OK)
            while True:
                self.lane.wait(PATIENCE)
                request = decode_request(self.lane.receive()[0])
                replies = lie(pair, request)
                if isinstance(replies, bytes):
                    self.lane.send_bytes(replies)
                    continue
                for reply, payload in [honest(pair, request)] if replies is None else replies:
                    self.lane.send(reply.header(), payload)

    monkeypatch.setattr(lane_server, "Holder", Scripted)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_holder_that_breaks_the_protocol_on_a_lane_answers_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: Any
) -> None:
    async with a_lane_pair(tmp_path) as pair:
        scripted(pair, lie, monkeypatch)
        blame = pair.taker.standing._entries
        await pair.fetch_until(lambda: blame)
        assert list(blame) == [pair.holder.peer_id]
        assert pair.streams == []


@pytest.mark.parametrize("data", RAW_LIES.values(), ids=RAW_LIES.keys())
async def test_a_holder_that_sends_garbage_on_a_lane_answers_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    async with a_lane_pair(tmp_path) as pair:
        scripted(pair, lambda *_: data, monkeypatch)
        await pair.fetch_until(lambda: pair.taker.standing._entries)


async def test_corrupt_chunks_on_a_lane_are_a_ban(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_lane_pair(tmp_path) as pair:
        lie = on(ChunkRequest, lambda _, r: (ChunkReply(r.number, r.index), bytes(CHUNK)))
        scripted(pair, lie, monkeypatch)
        await pair.fetch_until(lambda: pair.bans)
        assert pair.bans == [f"peer:{pair.holder.peer_id}"]
        assert pair.streams == []


async def test_a_lane_that_freezes_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "STALL_TIMEOUT", 0.2)
    thaw = threading.Event()
    real = Holder._send_chunk
    sent: list[int] = []

    def send_chunk(self: Holder, request: ChunkRequest) -> None:
        sent.append(request.index)
        if len(sent) == 4:
            thaw.wait(PATIENCE)
        real(self, request)

    monkeypatch.setattr(Holder, "_send_chunk", send_chunk)
    async with a_lane_pair(tmp_path) as pair:
        info = await pair.fetch()
        thaw.set()
        assert info.path.read_bytes() == DATA
        assert (pair.faults, pair.bans, pair.streams) == ([], [], [])


class Lanes:
    """In place of LaneCount: the test says how many."""

    target = 3
    lost_with: list[int]

    def __init__(self, most: int, first: int) -> None:
        self.lost_with = []
        type(self).last = self

    last: Lanes

    def arrived(self, size: int, now: float) -> None: ...

    def idle(self) -> None: ...

    def unavailable(self, now: float) -> None: ...

    def lost(self, left: int, now: float) -> None:
        self.lost_with.append(left)


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> type[Lanes]:
    assert {name for name in vars(Lanes) if name[0] != "_"} >= {
        name for name in vars(LaneCount) if name[0] != "_"
    }
    monkeypatch.setattr(Lanes, "target", 3)
    monkeypatch.setattr(session, "LaneCount", Lanes)
    return Lanes


async def test_lanes_come_and_go_as_wanted(tmp_path: Path, lanes: type[Lanes]) -> None:
    async with a_lane_pair(tmp_path) as pair:
        pair.gate.set_rates(CHUNK / 10, None)
        async with trio.open_nursery() as nursery:

            async def change() -> None:
                peer = pair.taker.peer_id
                await until(lambda: pair.lanes.count(peer) == 3)
                lanes.target = 1
                pair.gate.set_rates(None, None)

            nursery.start_soon(change)
            info = await pair.fetch()
        assert info.path.read_bytes() == DATA
        assert (pair.faults, pair.bans, pair.streams) == ([], [], [])


async def test_a_bug_where_reports_arrive_ends_the_fetch_and_not_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arrived(self: LaneCount, size: int, now: float) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(LaneCount, "arrived", arrived)
    async with a_lane_pair(tmp_path) as pair:
        with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True, allow_unwrapped=True):
            await pair.fetch()
        assert not pair.streams


async def test_when_the_first_lane_breaks_another_one_leads(
    tmp_path: Path, lanes: type[Lanes], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_lane_pair(tmp_path) as pair:
        pair.gate.set_rates(CHUNK / 10, None)
        asked: list[Any] = []
        real = Holder._take

        def take(self: Holder, request: Any) -> None:
            asked.append((self, request))
            real(self, request)

        monkeypatch.setattr(Holder, "_take", take)
        started: list[LaneSocket] = []
        really = LaneSession._start

        def start(self: LaneSession, lane: LaneSocket) -> None:
            started.append(lane)
            really(self, lane)

        monkeypatch.setattr(LaneSession, "_start", start)
        async with trio.open_nursery() as nursery:

            async def cut() -> None:
                # Those that are being opened do not count: with the first one's end there would be none.
                await until(lambda: len(started) == 3)
                (leader,) = {holder for holder, one in asked if getattr(one, "watch", False)}
                leader._lane.shut()
                # Another one asks what there is, to be told what comes.
                await until(
                    lambda: (
                        len({holder for holder, one in asked if getattr(one, "watch", False)}) == 2
                    )
                )
                pair.gate.set_rates(None, None)

            nursery.start_soon(cut)
            info = await pair.fetch()
        assert info.path.read_bytes() == DATA
        assert lanes.last.lost_with[0] >= 1
        assert (pair.faults, pair.bans, pair.streams) == ([], [], [])
        assert len(asked) > N_CHUNKS


async def test_what_came_before_the_nonsense_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def lie(pair: LanePair, request: Any) -> Any:
        if not isinstance(request, ChunkRequest):
            return None
        asked.append(request.index)
        nonsense = [(ChunkReply(99, 98), b"")] if len(asked) == N_CHUNKS else []
        return [honest(pair, request), *nonsense]

    async with a_lane_pair(tmp_path) as pair:
        scripted(pair, lie, monkeypatch)
        info = await pair.fetch()
        assert info.path.read_bytes() == DATA
        assert sorted(asked) == list(range(N_CHUNKS))
