"""A source that is far away, as over a satellite, is kept as busy as one nearby."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarm_kit import join, make, requests, view, view_out

from peatnet.swarm import (
    ChunkArrived,
    ChunkFailed,
    Request,
    SourceHas,
    SourceJoined,
    SourceLine,
    SourceLost,
    Swarm,
    SwarmSettings,
    Tick,
    Tier,
)
from peatnet.swarm.timing import LEARNS

if TYPE_CHECKING:
    from peatnet.swarm import Action

CHUNKS = 300
PIPELINE = 32


class FarSource:
    """Gets each request half a round trip after it was made, works on one at a time, and what it sends takes as long back."""

    def __init__(self, swarm: Swarm, round_trip: float, seconds_a_chunk: float) -> None:
        self.swarm = swarm
        self.most_out = 0
        self._way = round_trip / 2
        self._seconds = seconds_a_chunk
        self._free = 0.0
        self._coming: list[tuple[float, int]] = []

    def run(self, *, told: bool = True) -> float:
        """Until the blob is there; when that was."""
        self._do(self.swarm.handle(SourceJoined("far", Tier.PEER, PIPELINE), 0), 0.0)
        if told:
            self._do(self.swarm.handle(SourceLine("far", 2 * self._way), 0), 0.0)
        self._do(self.swarm.handle(SourceHas("far", None), 0), 0.0)
        now = 0.0
        while not self.swarm.complete:
            at, index = self._coming[0]
            wakeup = self.swarm.next_wakeup()
            if wakeup is not None and wakeup < at:
                now = wakeup
                self._do(self.swarm.handle(Tick(), now), now)
            else:
                now = at
                heapq.heappop(self._coming)
                self._do(self.swarm.handle(ChunkArrived("far", index), now), now)
        return now

    def _do(self, actions: list[Action], now: float) -> None:
        for action in actions:
            if isinstance(action, Request):
                self._free = max(self._free, now + self._way) + self._seconds
                heapq.heappush(self._coming, (self._free + self._way, action.index))
        self.most_out = max(self.most_out, len(self._coming))


# Beyond 32 requests in a round trip, nothing more is asked for at once.
@given(st.floats(0, 2), st.floats(0.02, 1))
def test_a_far_source_sends_without_a_break(round_trip: float, seconds_a_chunk: float) -> None:
    seconds_a_chunk = max(seconds_a_chunk, round_trip / (PIPELINE - 2))
    source = FarSource(make(CHUNKS), round_trip, seconds_a_chunk)
    # To begin with its pace is not known; besides, the first chunk is a round trip away.
    assert source.run() <= 1.1 * CHUNKS * seconds_a_chunk + 4 * round_trip
    assert source.swarm.duplicate_bytes == 0


def test_without_knowing_how_far_it_is_one_chunk_comes_in_each_round_trip() -> None:
    assert FarSource(make(CHUNKS), 0.6, 0.1).run(told=False) > 0.9 * CHUNKS * 0.6


def test_no_more_is_asked_for_than_is_on_its_way_and_soon_wanted() -> None:
    source = FarSource(make(CHUNKS), 0.6, 0.2)
    source.run()
    to_begin_with = 1 + int(0.6 / SwarmSettings().far_pace)
    assert source.most_out <= to_begin_with


def test_while_it_is_new_a_far_source_has_enough_to_do_however_slow_it_began() -> None:
    swarm = make(CHUNKS)
    swarm.handle(SourceJoined("a", Tier.PEER, PIPELINE), 0)
    swarm.handle(SourceLine("a", 0.6), 0)
    enough = 1 + int(0.6 / SwarmSettings().far_pace)
    assert view(swarm, "a").window == enough
    swarm.handle(SourceHas("a", None), 0)
    for number in range(1, LEARNS + 1):
        assert len(view_out(swarm, "a")) == enough
        swarm.handle(ChunkArrived("a", view_out(swarm, "a")[0]), 3.0 * number)
    # Three seconds a chunk is what the line gives: one, and another that is on its way there meanwhile.
    assert view(swarm, "a").window == 2


def test_it_is_far_for_one_life_and_never_farther_than_we_believe() -> None:
    swarm = make(CHUNKS)
    join(swarm, "a", pipeline=1000)
    usual = view(swarm, "a").window
    swarm.handle(SourceLine("a", float("inf")), 0)
    settings = SwarmSettings()
    assert view(swarm, "a").window == 1 + int(settings.farthest / settings.far_pace)
    swarm.handle(SourceLost("a"), 0)
    swarm.handle(SourceLine("a", 1.0), 0)  # told too late
    join(swarm, "a", pipeline=1000)
    assert view(swarm, "a").window == usual


def test_one_that_has_failed_is_asked_for_one_chunk_however_far_it_is() -> None:
    swarm = make(CHUNKS)
    join(swarm, "a", pipeline=PIPELINE)
    for index in view_out(swarm, "a"):
        swarm.handle(ChunkFailed("a", index, "told to"), 1)
    assert view(swarm, "a").window == 1
    swarm.handle(SourceLine("a", 0.6), 1)
    assert view(swarm, "a").window == 1


def test_several_lanes_have_two_chunks_each_however_slow_they_are() -> None:
    swarm = make(CHUNKS)
    join(swarm, "a", pipeline=PIPELINE)
    for number in range(1, 5):
        swarm.handle(ChunkArrived("a", view_out(swarm, "a")[0]), 3.0 * number)
    assert view(swarm, "a").window == 1
    swarm.handle(SourceLine("a", 0, 4), 12)
    assert len(view_out(swarm, "a")) == 8
    swarm.handle(SourceLine("a", 0, 1000), 12)
    assert len(view_out(swarm, "a")) == PIPELINE
    swarm.handle(SourceLine("a", 0), 12)
    assert view(swarm, "a").window == 1


def fetch_nearby(swarm: Swarm, now: float) -> float:
    """Have a source nearby send one chunk each 10 ms until all are here, and those elsewhere nothing; when that was."""
    asked = requests(join(swarm, "near", now=now), "near")
    while not swarm.complete:
        assert now < 600, "it hangs"
        wakeup = swarm.next_wakeup()
        if asked:
            now += 0.01
            asked += requests(swarm.handle(ChunkArrived("near", asked.pop(0)), now), "near")
        else:
            assert wakeup is not None
            now = wakeup
            asked += requests(swarm.handle(Tick(), now), "near")
    return now


@pytest.mark.parametrize("chunks", [40, CHUNKS])
@pytest.mark.parametrize("lanes", [1, 4])
def test_one_that_is_far_and_silent_holds_up_nothing_that_is_to_be_had_nearby(
    chunks: int, lanes: int
) -> None:
    swarm = make(chunks)
    swarm.handle(SourceJoined("far", Tier.PEER, PIPELINE), 0)
    swarm.handle(SourceLine("far", 0.6, lanes), 0)
    swarm.handle(SourceHas("far", None), 0)
    assert len(view_out(swarm, "far")) > SwarmSettings().first_window
    # Soon, and not when the far one has had its time.
    finished = fetch_nearby(swarm, 0.1)
    assert finished < 5 + 0.01 * chunks < SwarmSettings().timeout_first
