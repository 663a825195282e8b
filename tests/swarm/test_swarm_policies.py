"""Putting off, budgets, hedging, slow peers and strict order: the rules that make fleets fast, one by one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarm_kit import bitmap, gained, join, make, requests, view_out

from peatnet.errors import LocalProtocolError
from peatnet.swarm import (
    Budget,
    Cancel,
    ChunkArrived,
    ChunkDeferred,
    ChunkFailed,
    ChunkFound,
    Request,
    SourceHas,
    SourceJoined,
    SourceLost,
    Swarm,
    Tick,
    Tier,
)
from peatnet.swarm.availability import ChunkSet, Rarity, pick_one


def paced(swarm: Swarm, name: str, seconds: float, chunks: int, now: float = 0.0) -> float:
    """Let a source deliver some chunks, each this long after the last."""
    for _ in range(chunks):
        now += seconds
        swarm.handle(ChunkArrived(name, view_out(swarm, name)[0]), now)
    return now


# What a holder puts off.


def test_what_was_put_off_is_no_failure_and_another_chunk_is_asked_at_once() -> None:
    swarm = make(40)
    [index] = requests(join(swarm, "a", pipeline=1))
    [other] = requests(swarm.handle(ChunkDeferred("a", index), 0.1))
    assert other != index
    assert swarm._board.sources["a"].strikes == 0
    assert swarm.requests_in_vain == 1
    assert swarm.handle(ChunkDeferred("a", index), 0.1) == []  # it is not out any more


def test_what_was_put_off_is_asked_of_others_and_again_after_a_while() -> None:
    swarm = make(2, defer=2.0)
    asked = requests(join(swarm, "a", pipeline=2))
    assert requests(swarm.handle(ChunkDeferred("a", asked[0]), 1.0)) == []  # busy with the other
    assert swarm.next_wakeup() == 3.0
    assert requests(swarm.handle(Tick(), 2.9)) == []
    assert swarm.handle(Tick(), 3.0) == [Request("a", asked[0])]
    swarm.handle(ChunkDeferred("a", asked[0]), 3.0)
    assert requests(join(swarm, "b", asked[0], now=3.1), "b") == [asked[0]]


def test_an_idle_source_is_asked_again_at_once_for_what_nobody_else_has() -> None:
    swarm = make(1)
    assert join(swarm, "a") == [Request("a", 0)]
    assert swarm.handle(ChunkDeferred("a", 0), 0.1) == [Request("a", 0)]
    assert swarm.handle(ChunkDeferred("a", 0), 0.2) == [Request("a", 0)]


def test_an_idle_source_that_failed_what_it_put_off_is_left_in_peace() -> None:
    swarm = make(1, rest=0.0)
    join(swarm, "a")
    swarm.handle(ChunkDeferred("a", 0), 0.1)
    join(swarm, "b", now=0.1)
    swarm.handle(ChunkFailed("a", 0, "no"), 0.2)
    assert view_out(swarm, "b") == [0]
    assert view_out(swarm, "a") == []


def test_deferrals_are_forgotten_with_a_life() -> None:
    swarm = make(4)
    [index] = requests(join(swarm, "a", pipeline=1))
    swarm.handle(ChunkDeferred("a", index), 0.1)
    swarm.handle(SourceLost("a"), 0.2)
    join(swarm, "a", index, now=0.3)
    assert view_out(swarm, "a") == [index]


# Budgets.


def test_a_ceiling_bounds_what_is_out_in_all() -> None:
    swarm = make(40, first_window=4)
    assert swarm.handle(Budget(3, None), 0) == []
    join(swarm, "a")
    assert requests(join(swarm, "b")) == []
    assert swarm.requests_out == 3
    assert len(requests(swarm.handle(ChunkArrived("a", view_out(swarm, "a")[0]), 0.1))) == 1
    assert len(requests(swarm.handle(Budget(5, None), 0.2))) == 2
    assert swarm.handle(Budget(1, None), 0.3) == []  # what is out stays out
    assert swarm.requests_out == 5
    swarm.handle(Budget(None, None), 0.4)
    assert swarm.requests_out > 5


def test_a_credit_bounds_what_may_still_be_asked() -> None:
    swarm = make(40, first_window=4)
    swarm.handle(Budget(None, 2), 0)
    assert len(requests(join(swarm, "a"))) == 2
    assert requests(swarm.handle(ChunkArrived("a", view_out(swarm, "a")[0]), 0.1)) == []
    assert len(requests(swarm.handle(Budget(None, 1), 0.2))) == 1
    assert swarm.requests_made == 3
    assert swarm.handle(Budget(None, 0), 0.3) == []


@pytest.mark.parametrize("budget", [Budget(-1, None), Budget(None, -1), Budget(-1, 5)])
def test_a_budget_below_zero_is_misuse(budget: Budget) -> None:
    with pytest.raises(LocalProtocolError, match="below zero"):
        make(2).handle(budget, 0)


# Hedging.


def test_a_chunk_that_is_overdue_is_asked_of_a_second_source_too() -> None:
    swarm = make(60)
    join(swarm, "a", pipeline=2)
    now = paced(swarm, "a", 0.1, 8)
    late = view_out(swarm, "a")
    assert requests(join(swarm, "b", late[0], now=now), "b") == []
    assert swarm.handle(Tick(), now + 0.9) == []
    wakeup = swarm.next_wakeup()
    assert wakeup == pytest.approx(now + 1.0)
    assert wakeup is not None
    assert requests(swarm.handle(Tick(), wakeup), "b") == [late[0]]
    actions = swarm.handle(ChunkArrived("b", late[0]), wakeup + 0.1)
    assert Cancel("a", late[0]) in actions


def test_overdue_chunks_come_before_fresh_ones_and_only_so_many() -> None:
    swarm = make(200, spare=0.0, first_window=8)
    join(swarm, "a", pipeline=8)
    now = paced(swarm, "a", 0.05, 20)
    late = view_out(swarm, "a")
    now += 1.5
    swarm.handle(Tick(), now)
    asked = requests(join(swarm, "b", now=now), "b")
    assert len(set(asked) & set(late)) == 2  # what may always be asked twice
    assert set(asked[:2]) <= set(late)


def test_a_source_in_trouble_is_no_help_with_what_is_overdue() -> None:
    swarm = make(30, rest=0.0)
    join(swarm, "b", 0, 1, pipeline=1)
    swarm.handle(ChunkFailed("b", view_out(swarm, "b")[0], "no"), 0)
    join(swarm, "a", pipeline=1)
    now = paced(swarm, "a", 0.1, 8)
    [late] = view_out(swarm, "a")
    swarm.handle(Tick(), now + 3)
    assert late not in view_out(swarm, "b")


def test_a_queue_that_moves_is_not_overdue() -> None:
    swarm = make(60, first_window=8, hedge_min=1.0)
    join(swarm, "a", pipeline=8)
    paced(swarm, "a", 0.4, 30)
    assert not swarm._board.overdue


def test_what_is_asked_twice_already_is_not_overdue() -> None:
    swarm = make(11)
    join(swarm, "a", pipeline=1)
    join(swarm, "b", pipeline=1)
    now = 0.0
    while swarm.missing > 1:
        now += 0.1
        for name in ("a", "b"):
            if swarm.missing > 1 and (out := view_out(swarm, name)):
                swarm.handle(ChunkArrived(name, out[0]), now)
    while not (view_out(swarm, "a") and view_out(swarm, "b")):
        wakeup = swarm.next_wakeup()
        assert wakeup is not None
        now = wakeup
        swarm.handle(Tick(), now)
    swarm.handle(Tick(), now + 2.0)
    assert not swarm._board.overdue
    assert swarm.requests_out == 2


def test_what_never_comes_back_is_no_risk() -> None:
    swarm = make(100, spare=0.0, timeout_min=2.0)
    join(swarm, "mute", pipeline=8)
    now = paced(swarm, "mute", 0.1, 10)
    join(swarm, "b", now=now)
    for _ in range(400):
        if swarm.complete:
            break
        now += 0.1
        out = view_out(swarm, "b")
        swarm.handle(ChunkArrived("b", out[0]) if out else Tick(), now)
    assert swarm.complete
    assert now < 1.0 + 15.0


# Slow peers.


def test_a_far_slower_peer_is_asked_only_for_what_it_alone_has() -> None:
    swarm = make(400, slow_factor=4.0, trial=10.0)
    join(swarm, "slow", *range(399), pipeline=1)
    now = paced(swarm, "slow", 3.0, 3)
    [out] = view_out(swarm, "slow")
    join(swarm, "fast", *range(1, 399), now=now, pipeline=1)
    now = paced(swarm, "fast", 0.05, 120, now)
    # A trial first: it is slow only since the fast one came.
    swarm.handle(ChunkArrived("slow", out), now)
    trial = view_out(swarm, "slow")
    assert len(trial) == 1
    swarm.handle(ChunkArrived("slow", trial[0]), now + 3)
    alone = view_out(swarm, "slow")
    assert alone in ([], [0])
    if alone:
        swarm.handle(ChunkArrived("slow", 0), now + 6)
        assert view_out(swarm, "slow") == []
    wakeup = swarm.next_wakeup()
    assert wakeup is not None
    swarm.handle(Tick(), now + 10.0)
    [trial_chunk] = view_out(swarm, "slow")  # the next trial
    assert swarm.handle(ChunkArrived("slow", trial_chunk), now + 13) == []
    assert requests(swarm.handle(gained("slow", 399), now + 13), "slow") == [399]


def test_one_that_is_slow_alone_is_not_slow() -> None:
    swarm = make(20)
    join(swarm, "a", pipeline=1)
    paced(swarm, "a", 30.0, 10)
    assert len(view_out(swarm, "a")) == 1


# Order.


def test_strict_order_where_it_is_asked_for() -> None:
    swarm = make(9000, in_order=True, first_window=3)
    assert requests(join(swarm, "a")) == [0, 1, 2]
    join(swarm, "rare", 8999)
    assert requests(swarm.handle(ChunkArrived("a", 1), 0.01), "a")[0] == 3


def test_a_plan_that_came_to_nothing_is_made_anew() -> None:
    swarm = make(20_000)
    [index] = requests(join(swarm, "a", pipeline=1))
    plan = list(swarm._board.sources["a"].plan)
    assert plan
    for planned in plan:
        swarm.handle(ChunkFound(planned), 0.1)
    [after] = requests(swarm.handle(ChunkArrived("a", index), 0.2))
    assert after not in plan


# Small parts.


@given(st.sets(st.integers(0, 200), min_size=1), st.integers(0, 99))
def test_picked_ones_are_members(members: set[int], seed: int) -> None:
    mask = sum(1 << index for index in members)
    assert pick_one(mask, random.Random(seed)) in members


def test_every_member_of_a_large_set_is_picked_now_and_then() -> None:
    mask = (1 << 64) - 1
    rng = random.Random(1)
    assert {pick_one(mask, rng) for _ in range(2000)} == set(range(64))


@given(st.integers(0, 2**80 - 1), st.integers(0, 2**80 - 1))
def test_a_set_takes_many_at_once(before: int, more: int) -> None:
    chunks = ChunkSet(80, before)
    chunks.update(more)
    assert chunks.mask == before | more
    assert chunks.count == (before | more).bit_count()
    assert int.from_bytes(chunks.to_bytes(), "little") == before | more


def test_what_one_peer_alone_holds() -> None:
    rarity = Rarity()
    assert rarity.single() == 0
    for mask in (0b0111, 0b0011, 0b1001):
        rarity.add(mask)
    assert rarity.single() == 0b1100


def test_what_is_gained_in_the_endgame_is_looked_at() -> None:
    swarm = make(1)
    assert join(swarm, "a") == [Request("a", 0)]
    swarm.handle(SourceJoined("b", Tier.PEER, 1), 0)
    swarm.handle(SourceHas("b", bitmap(swarm)), 0)
    swarm.handle(Tick(), 2.5)
    assert requests(swarm.handle(gained("b", 0), 2.5), "b") == [0]
    assert swarm.handle(gained("b", 0), 2.5) == []
    assert swarm.handle(gained("b"), 2.5) == []


def test_what_is_announced_again_may_be_tried_again() -> None:
    swarm = make(3, rest=0.0)
    join(swarm, "a", 0, pipeline=1)
    join(swarm, "b", 0, pipeline=1)
    asked = "a" if view_out(swarm, "a") else "b"
    swarm.handle(ChunkFailed(asked, 0, "no"), 0)
    assert swarm._board.sources[asked].avoid == {0}
    swarm.handle(gained(asked, 0, 1), 0)
    assert not swarm._board.sources[asked].avoid


def test_the_endgame_begins_for_those_who_had_nothing_to_do() -> None:
    swarm = make(3)
    join(swarm, "a", 0, 1, pipeline=2)
    join(swarm, "b", 0, 1, now=2.5)
    assert view_out(swarm, "b") == []  # chunk 2 is wanted still, so it is not the end
    assert requests(swarm.handle(ChunkFound(2), 2.6), "b") != []
