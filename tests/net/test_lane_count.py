"""How many lanes there should be, on made-up lines whose rate depends on their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from peatnet.net.lanes.count import (
    LONGEST_PAUSE,
    SETTLING,
    WINDOW_CHUNKS,
    WINDOW_SECONDS,
    LaneCount,
    first_count,
    share_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1024 * 1024


def deliver(
    count: LaneCount, rate: Callable[[int], float], chunks: int, now: float = 0.0
) -> tuple[float, list[int]]:
    """So many chunks, as fast as the line is with the lanes there are; the time, and the targets on the way."""
    targets = []
    for _ in range(chunks):
        now += CHUNK / rate(count.target)
        count.arrived(CHUNK, now)
        targets.append(count.target)
    return now, targets


@given(st.integers(0, 100), st.integers(0, 4))
def test_all_requests_have_a_lane_and_no_lane_has_them_all(asked: int, lanes: int) -> None:
    share = share_of(asked, lanes)
    assert share >= 2
    assert share * lanes >= asked or not lanes
    assert share <= max(2, asked)
    assert lanes < 2 or (share - 1) * lanes < asked or share == 2


def test_it_begins_with_one_and_takes_its_time() -> None:
    count = LaneCount(4)
    _, targets = deliver(count, lambda _: 1e8, WINDOW_CHUNKS)
    assert set(targets) == {1}


def test_to_a_peer_that_is_far_away_it_begins_with_several() -> None:
    assert [first_count(seconds) for seconds in (0, 0.05, 0.1, 0.6)] == [1, 1, 4, 4]
    count = LaneCount(4, first_count(0.6))
    assert count.target == 4
    _, targets = deliver(count, lambda lanes: min(2, lanes) * 1e8, 3000)
    assert min(targets) >= 1
    assert targets[-1] in {1, 2, 3}


def test_a_line_that_gives_more_to_more_lanes_gets_them_all() -> None:
    count = LaneCount(4)
    _, targets = deliver(count, lambda lanes: 1e8 * lanes, 5000)
    assert count.target == 4 or targets.count(4) > 3 * targets.count(3)
    assert targets[-1] in {3, 4}
    assert sorted(set(targets)) == [1, 2, 3, 4]


def test_a_line_that_one_lane_fills_keeps_one_but_now_and_then() -> None:
    count = LaneCount(4)
    _, targets = deliver(count, lambda _: 1e8, 20_000)
    assert max(targets) == 2
    # Each try costs a window and the settling before it; the pauses between them grow.
    tried = targets.count(2)
    per_try = WINDOW_CHUNKS + SETTLING + 1
    assert 0 < tried <= 8 * per_try


def test_what_no_longer_pays_is_given_up() -> None:
    count = LaneCount(4)
    now, _ = deliver(count, lambda lanes: 1e8 * min(lanes, 3), 3000)
    assert count.target in {2, 3, 4}
    _, targets = deliver(count, lambda _: 1e8, 20_000, now)
    assert targets[-1] in {1, 2}


def test_slow_chunks_are_waited_for() -> None:
    count = LaneCount(4)
    # A window is of chunks and of seconds: on a slow line it takes minutes, on a fast one more chunks.
    _, targets = deliver(count, lambda _: 1e6, WINDOW_CHUNKS + SETTLING - 1)
    assert set(targets) == {1}
    count = LaneCount(4)
    chunks = int(WINDOW_SECONDS * 1e9 / CHUNK)
    _, targets = deliver(count, lambda _: 1e9, chunks + SETTLING - 1)
    assert set(targets) == {1}


def test_idleness_begins_the_measurement_anew() -> None:
    count = LaneCount(4)
    now = 0.0
    for _ in range(100):
        now, targets = deliver(count, lambda lanes: 1e8 * lanes, WINDOW_CHUNKS // 2, now + 10)
        assert set(targets) == {1}
        count.idle()


def test_with_one_lane_allowed_there_is_one() -> None:
    count = LaneCount(1)
    _, targets = deliver(count, lambda lanes: 1e8 * lanes, 5000)
    assert set(targets) == {1}


def test_a_lane_that_cannot_be_had_is_not_asked_for_again_at_once() -> None:
    count = LaneCount(4)
    now = 0.0
    while count.target == 1:
        now += 0.01
        count.arrived(CHUNK, now)
    count.unavailable(now)
    assert count.target == 1
    _, targets = deliver(count, lambda _: 1e8, 100, now)
    assert set(targets) == {1}


def test_a_lane_that_broke_is_done_without() -> None:
    count = LaneCount(4)
    now, _ = deliver(count, lambda lanes: 1e8 * lanes, 3000)
    count.lost(1, now)
    assert count.target == 1
    count.lost(0, now)
    assert count.target == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["arrived", "arrived", "arrived", "idle", "lost", "unavailable"]),
            st.integers(1, 300),
            st.floats(0.0001, 0.5),
        ),
        max_size=60,
    ),
    st.integers(1, 4),
)
def test_the_target_stays_in_its_bounds_whatever_happens(
    steps: list[tuple[str, int, float]], most: int
) -> None:
    count, now = LaneCount(most), 0.0
    for step, number, pause in steps:
        before = count.target
        if step == "arrived":
            for _ in range(number):
                now += pause / 10
                count.arrived(CHUNK, now)
        elif step == "idle":
            count.idle()
            assert count.target == before
        elif step == "lost":
            count.lost(number % 5, now)
        else:
            count.unavailable(now)
        assert 1 <= count.target <= most
        assert count._pause <= LONGEST_PAUSE
