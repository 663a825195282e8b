"""The swarm's rules, one by one: what is asked of whom, when it is taken back, who is let go."""

from __future__ import annotations

import pytest
from swarm_kit import bitmap, gained, join, make, requests, view, view_out

from peatnet.swarm import (
    Ban,
    Cancel,
    ChunkArrived,
    ChunkCorrupt,
    ChunkDeferred,
    ChunkFailed,
    ChunkFound,
    Done,
    Drop,
    Life,
    Request,
    SourceHas,
    SourceJoined,
    SourceLost,
    Stopped,
    SwarmSettings,
    Tick,
    Tier,
)
from peatnet.swarm.picker import IN_ORDER_AMONG, SPREAD_SHARE


def test_a_download_from_one_peer() -> None:
    swarm = make(3, size=25, first_window=4)
    assert swarm.handle(Tick(), 0) == []
    asked = requests(join(swarm, "a"))
    assert sorted(asked) == [0, 1, 2]
    assert swarm.handle(ChunkArrived("a", 2), 1) == []
    assert swarm.verified_bytes == 5
    assert swarm.handle(ChunkArrived("a", 0), 2) == []
    assert swarm.handle(ChunkArrived("a", 1), 3) == [Done()]
    assert swarm.complete
    assert swarm.verified_bytes == 25
    assert swarm.bytes_by_source == {"a": 25}
    assert swarm.have() == b"\x07"
    assert swarm.handle(Tick(), 4) == []
    assert swarm.next_wakeup() is None


def test_what_is_there_already_is_counted_and_not_asked_for() -> None:
    swarm = make(3, have=0b101, size=25)
    assert swarm.verified_bytes == 15
    assert requests(join(swarm, "a")) == [1]


def test_a_complete_blob_is_done_at_the_first_event() -> None:
    swarm = make(2, have=0b11)
    assert swarm.complete
    assert swarm.handle(Tick(), 0) == [Done()]
    assert swarm.handle(Tick(), 1) == []


def test_before_the_first_event_there_is_nothing_to_wake_up_for() -> None:
    assert make(2).next_wakeup() is None


def test_a_lone_downloader_fills_the_blob_from_its_beginning() -> None:
    swarm = make(1000, first_window=8)
    assert max(requests(join(swarm, "full"))) < 8 + IN_ORDER_AMONG


def test_beside_others_that_fill_up_the_order_is_random_within_the_first_quarter() -> None:
    swarm = make(1000, first_window=8)
    join(swarm, "partial", 999)
    asked = requests(join(swarm, "full"))
    assert 8 + IN_ORDER_AMONG < max(asked) < 8 + 1000 // SPREAD_SHARE


def test_where_a_holder_puts_off_for_others_chunks_are_spread_though_none_of_them_is_known() -> (
    None
):
    swarm = make(1000)
    asked = requests(join(swarm, "full"))
    assert max(asked) < 8 + IN_ORDER_AMONG
    for index in asked:
        swarm.handle(ChunkDeferred("full", index), 0.1)
    assert max(view_out(swarm, "full")) > 8 + IN_ORDER_AMONG


def test_the_rarest_chunk_goes_first() -> None:
    swarm = make(40)
    join(swarm, "a", *range(39), pipeline=1)
    join(swarm, "b", *range(39), pipeline=1)
    assert requests(join(swarm, "c", pipeline=1)) == [39]


def test_rarity_follows_what_sources_gain_and_lose() -> None:
    swarm = make(8, first_window=8)
    join(swarm, "a", 0, 1, 2, 3, pipeline=1)
    join(swarm, "b", 4, 5, 6, 7, pipeline=1)
    swarm.handle(gained("a", 4, 5, 6), 0)
    rare = {0, 1, 2, 3, 7} - {*view_out(swarm, "a"), *view_out(swarm, "b")}
    asked = requests(join(swarm, "c"))
    assert set(asked[: len(rare)]) == rare
    swarm.handle(SourceLost("c"), 0)
    swarm.handle(SourceLost("b"), 0)
    assert requests(join(swarm, "d", pipeline=1)) == [7]


def test_ties_are_broken_by_the_generator_that_was_passed_in() -> None:
    orders = {tuple(requests(join(make(64, seed=seed), "a"))) for seed in range(20)}
    assert len(orders) > 15
    assert requests(join(make(64, seed=3), "a")) == requests(join(make(64, seed=3), "a"))


def test_a_large_blob_is_planned_ahead_and_the_plan_is_checked_when_used() -> None:
    n = 20_000
    swarm = make(n)
    asked = requests(join(swarm, "a", pipeline=2))
    assert asked[1] == asked[0] + 1  # one plan
    for index in (asked[1] + 1, asked[1] + 2):
        swarm.handle(ChunkFound(index), 0)
    after = requests(swarm.handle(ChunkArrived("a", asked[0]), 0.1))
    assert after
    assert not {asked[1] + 1, asked[1] + 2} & set(after)


@pytest.mark.parametrize(
    ("pipeline", "seconds", "out"), [(16, 0.01, 8), (16, 0.005, 10), (16, 0.003, 16), (4, 0.01, 4)]
)
def test_an_unmeasured_source_gets_a_small_window_a_fast_one_more(
    pipeline: int, seconds: float, out: int
) -> None:
    swarm = make(50)
    first = requests(join(swarm, "a", pipeline=pipeline))
    assert len(first) == SwarmSettings().first_window
    swarm.handle(ChunkArrived("a", first[0]), seconds)
    assert view(swarm, "a").out == out
    assert view(swarm, "a").rate == pytest.approx(10 / seconds)


def test_a_slow_source_gets_less_to_do() -> None:
    swarm = make(50, horizon=2.0)
    now = 0.0
    asked = requests(join(swarm, "a", pipeline=16))
    for _ in range(8):
        now += 1.5
        asked += requests(swarm.handle(ChunkArrived("a", asked.pop(0)), now))
    assert view(swarm, "a").window == 2
    assert view(swarm, "a").out == 2


def test_a_chunk_that_failed_goes_elsewhere_first_and_back_only_as_last_resort() -> None:
    swarm = make(1, rest=0.0)
    assert join(swarm, "a") == [Request("a", 0)]
    assert join(swarm, "b") == []
    assert swarm.handle(ChunkFailed("a", 0, "busy"), 0.1) == [Request("b", 0)]
    assert swarm.handle(ChunkFailed("b", 0, "busy"), 0.2) == [Request("a", 0)]
    assert swarm.handle(SourceLost("b"), 0.3) == []
    assert swarm.handle(ChunkFailed("a", 0, "busy"), 0.4) == [Request("a", 0)]


def test_repeated_failures_bring_pauses_that_grow_and_then_the_end() -> None:
    swarm = make(1, max_strikes=4, rest=0.5)
    assert join(swarm, "a") == [Request("a", 0)]
    assert swarm.handle(ChunkFailed("a", 0, "no"), 0) == [Request("a", 0)]
    assert swarm.handle(ChunkFailed("a", 0, "no"), 0) == []
    assert swarm.next_wakeup() == 0.5
    assert swarm.handle(Tick(), 0.25) == []
    assert swarm.handle(Tick(), 0.5) == [Request("a", 0)]
    assert swarm.handle(ChunkFailed("a", 0, "no"), 0.5) == []
    assert swarm.next_wakeup() == 1.5
    assert swarm.handle(Tick(), 1.5) == [Request("a", 0)]
    [drop] = swarm.handle(ChunkFailed("a", 0, "x" * 1000), 1.5)
    assert isinstance(drop, Drop)
    assert "4 failures" in drop.reason
    assert len(drop.reason) < 300
    assert view(swarm, "a").life is Life.DROPPED
    assert swarm.next_wakeup() is None


def test_requests_that_were_out_together_fail_as_one() -> None:
    swarm = make(4, max_strikes=2)
    asked = requests(join(swarm, "a"))
    for index in asked:
        assert not any(
            isinstance(action, Drop) for action in swarm.handle(ChunkFailed("a", index, "no"), 0)
        )
    assert view(swarm, "a").life is Life.ALIVE
    assert view(swarm, "a").window == 1


def test_a_delivery_makes_up_for_failures() -> None:
    swarm = make(3, max_strikes=2)
    join(swarm, "a", pipeline=1)
    for now in range(3):
        [index] = view_out(swarm, "a")
        [again] = requests(swarm.handle(ChunkFailed("a", index, "no"), now))
        swarm.handle(ChunkArrived("a", again), now)
        assert view(swarm, "a").life is Life.ALIVE
    assert swarm.complete


def test_a_dropped_source_may_come_back() -> None:
    swarm = make(1, max_strikes=1)
    join(swarm, "a")
    assert isinstance(swarm.handle(ChunkFailed("a", 0, "no"), 0)[0], Drop)
    assert swarm.handle(SourceLost("a"), 1) == []
    assert join(swarm, "a", now=2) == [Request("a", 0)]


def test_a_corrupt_chunk_bans_at_once_and_everything_is_asked_again_elsewhere() -> None:
    swarm = make(3, first_window=4)
    asked = requests(join(swarm, "a"))
    join(swarm, "b", pipeline=4)
    actions = swarm.handle(ChunkCorrupt("a", asked[0]), 0.5)
    assert isinstance(actions[0], Ban)
    assert f"chunk {asked[0]} " in actions[0].reason
    assert sorted(view_out(swarm, "b")) == [0, 1, 2]
    assert swarm.handle(ChunkCorrupt("a", asked[1]), 0.5) == []
    assert swarm.handle(SourceLost("a"), 0.5) == []
    [ban] = swarm.handle(SourceJoined("a", Tier.PEER, 1), 1)
    assert isinstance(ban, Ban)
    assert view(swarm, "a").life is Life.BANNED


def test_corruption_found_after_the_source_left_bans_it_still() -> None:
    swarm = make(3)
    join(swarm, "a")
    swarm.handle(SourceLost("a"), 0)
    assert isinstance(swarm.handle(ChunkCorrupt("a", 0), 0)[0], Ban)


def test_an_overdue_request_goes_to_another_source() -> None:
    swarm = make(3)
    [late] = requests(join(swarm, "a", 0, 1, pipeline=1))
    [busy] = requests(join(swarm, "b", pipeline=1))
    assert swarm.next_wakeup() == 15
    assert swarm.handle(Tick(), 14.9) == []
    actions = swarm.handle(Tick(), 15)
    assert Cancel("a", late) in actions
    assert Cancel("b", busy) not in actions  # nobody else has it: it gets more time
    assert Request("a", late) not in actions
    [after] = requests(swarm.handle(ChunkArrived("b", busy), 16), "b")
    assert after == late


def test_a_wakeup_that_is_too_late_for_whoever_asks_is_not_told() -> None:
    swarm = make(3)
    join(swarm, "a", 0, 1, pipeline=1)
    assert swarm.next_wakeup(15.5) == 15
    assert swarm.next_wakeup(15) is None
    assert swarm.next_wakeup() == 15  # nothing is forgotten


def test_a_failed_chunk_waits_for_another_source_that_is_busy_now() -> None:
    swarm = make(2)
    assert join(swarm, "a", 0, pipeline=1) == [Request("a", 0)]
    assert join(swarm, "b", 0, 1, pipeline=1) == [Request("b", 1)]
    assert swarm.handle(ChunkFailed("a", 0, "no"), 1) == []
    assert swarm.handle(ChunkArrived("b", 1), 2) == [Request("b", 0)]


def test_with_nobody_else_a_request_gets_more_time_and_then_fails() -> None:
    swarm = make(1, extensions=2, max_strikes=1)
    assert join(swarm, "a") == [Request("a", 0)]
    for wakeup in (15.0, 15 + 30, 15 + 30 + 60):
        assert swarm.next_wakeup() == wakeup
        actions = swarm.handle(Tick(), wakeup)
    assert actions[0] == Cancel("a", 0)
    assert isinstance(actions[1], Drop)


def test_timeouts_follow_the_measured_pace_within_bounds() -> None:
    swarm = make(9, timeout_min=5, timeout_max=60)
    [index] = requests(join(swarm, "a", pipeline=1))
    now = 0.0
    for seconds, expected in ((0.1, 5), (0.1, 5), (10, 15.45), (30, None), (100, 60), (100, 60)):
        now += seconds
        [index] = requests(swarm.handle(ChunkArrived("a", index), now))
        deadline = swarm._board.sources["a"].out[index].deadline
        if expected is not None:
            assert deadline - now == pytest.approx(expected)
        assert 5 <= deadline - now <= 60.001


def test_a_queue_that_keeps_moving_is_not_overdue() -> None:
    swarm = make(40, timeout_min=5, timeout_first=5, first_window=8, timeout_slack=1, horizon=1000)
    asked = requests(join(swarm, "a"))
    join(swarm, "b", *range(40), pipeline=1)
    for step, index in enumerate(asked):
        actions = swarm.handle(ChunkArrived("a", index), 4.0 * (step + 1))
        assert not any(isinstance(action, Cancel) and action.source == "a" for action in actions)


def test_the_endgame_doubles_what_would_wait_longest_and_cancels_the_loser() -> None:
    swarm = make(4, first_window=4)
    asked = requests(join(swarm, "a"))
    assert len(asked) == 4
    # Both are unmeasured, so a chunk is taken to need a second: the last of a's four would come in 4 s, from b
    # in 1; the one before it in 3 s, from b in 2. The first two gain nothing.
    assert join(swarm, "b") == [Request("b", asked[3]), Request("b", asked[2])]
    assert Cancel("a", asked[3]) in swarm.handle(ChunkArrived("b", asked[3]), 0.5)
    late = swarm.handle(ChunkArrived("a", asked[3]), 0.6)  # was under way already
    assert Cancel("b", asked[3]) not in late
    assert swarm.duplicate_bytes == 10
    assert swarm.bytes_by_source == {"b": 10}


def test_the_endgame_asks_no_third_source() -> None:
    swarm = make(1)
    assert join(swarm, "a") == [Request("a", 0)]
    join(swarm, "b")
    join(swarm, "c")
    assert swarm.handle(Tick(), 14) == [Request("b", 0)]
    assert swarm.handle(Tick(), 14.5) == []


def test_a_source_that_cannot_help_in_the_endgame_is_left_in_peace() -> None:
    swarm = make(2, max_strikes=3)
    join(swarm, "a", 0)
    assert join(swarm, "b", 1) == [Request("b", 1)]
    assert swarm.handle(Tick(), 10) == []
    assert swarm.handle(ChunkArrived("b", 1), 11) == []


def test_a_source_that_takes_back_a_chunk_is_not_waited_for() -> None:
    swarm = make(2)
    [index] = requests(join(swarm, "a", pipeline=1))
    assert join(swarm, "b", index) == []
    left = SourceHas("a", bitmap(swarm, 1 - index))
    actions = swarm.handle(left, 0.1)
    assert actions[0] == Cancel("a", index)
    assert {Request("a", 1 - index), Request("b", index)} == set(actions[1:])
    assert swarm.handle(left, 0.1) == []


def test_a_chunk_found_elsewhere_is_canceled_everywhere() -> None:
    swarm = make(2)
    join(swarm, "a")
    assert swarm.handle(ChunkFound(0), 0.1) == [Cancel("a", 0)]
    assert swarm.handle(ChunkFound(0), 0.2) == []
    assert swarm.verified_bytes == 10
    assert swarm.bytes_by_source == {}


def test_stopping_cancels_what_is_out_and_says_nothing_more() -> None:
    swarm = make(2)
    join(swarm, "a")
    assert set(map(str, swarm.handle(Stopped(), 1))) == {
        str(Cancel("a", 0)),
        str(Cancel("a", 1)),
    }
    assert swarm.next_wakeup() is None
    assert swarm.handle(SourceLost("a"), 2) == []


def test_late_news_of_a_source_that_is_gone() -> None:
    swarm = make(2)
    join(swarm, "a")
    swarm.handle(SourceLost("a"), 0)
    assert swarm.handle(ChunkFailed("a", 0, "late"), 0) == []
    assert swarm.handle(SourceHas("a", None), 0) == []
    assert swarm.handle(gained("a", 0), 0) == []
    assert swarm.handle(ChunkArrived("a", 0), 0) == []
    assert swarm.bytes_by_source == {"a": 10}


def test_one_that_began_with_nothing_takes_over_from_one_that_went() -> None:
    swarm = make(2, first_window=1)
    swarm.handle(SourceJoined("late", Tier.PEER, 1), 0)
    swarm.handle(SourceHas("late", bitmap(swarm)), 0)
    (asked,) = requests(join(swarm, "a"))
    # No news for a download that wants only the other chunk, for now.
    assert swarm.handle(gained("late", asked), 1) == []
    assert requests(swarm.handle(SourceLost("a"), 2), "late") == [asked]
