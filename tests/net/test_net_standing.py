"""Offences, bans and allowances on a clock that is only a number."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.net.standing import (
    BAN_THRESHOLD,
    FIRST_BAN,
    HALF_LIFE,
    LONGEST_BAN,
    MAX_PEERS,
    POINTS,
    Allowance,
    Offence,
    Standing,
)


@pytest.mark.parametrize("offence", [Offence.CORRUPT_CHUNK, Offence.WRONG_TABLE])
def test_what_no_honest_peer_does_is_a_ban_at_once(offence: Offence) -> None:
    standing = Standing()
    assert standing.offend("p", offence, 10.0)
    assert standing.is_banned("p", 10.0)
    assert standing.banned(10.0) == {"p": 10.0 + FIRST_BAN}
    assert standing.is_banned("p", 10.0 + FIRST_BAN - 0.1)
    assert not standing.is_banned("p", 10.0 + FIRST_BAN)
    assert standing.banned(10.0 + FIRST_BAN) == {}


def test_the_third_malformed_message_is_a_ban() -> None:
    standing = Standing()
    assert [standing.offend("p", Offence.MALFORMED, 0.0) for _ in range(3)] == [False, False, True]
    assert not standing.is_banned("q", 0.0)


def test_offences_fade() -> None:
    standing = Standing()
    for hour in range(100):
        assert not standing.offend("p", Offence.MALFORMED, hour * 3600.0)


def test_a_ban_that_is_repeated_is_longer_up_to_a_day() -> None:
    standing = Standing()
    now = 0.0
    lengths = []
    for _ in range(40):
        assert standing.offend("p", Offence.CORRUPT_CHUNK, now)
        until = standing.banned(now)["p"]
        lengths.append(until - now)
        now = until
    assert lengths[:3] == [FIRST_BAN, 2 * FIRST_BAN, 4 * FIRST_BAN]
    assert lengths[-1] == LONGEST_BAN


def test_offences_during_a_ban_do_not_make_it_another() -> None:
    standing = Standing()
    standing.offend("p", Offence.CORRUPT_CHUNK, 0.0)
    assert not standing.offend("p", Offence.CORRUPT_CHUNK, 1.0)
    assert standing.banned(1.0) == {"p": FIRST_BAN}


def test_invented_peers_cannot_lift_a_ban() -> None:
    standing = Standing()
    standing.offend("p", Offence.CORRUPT_CHUNK, 0.0)
    for number in range(2 * MAX_PEERS):
        standing.offend(f"invented-{number}", Offence.FLOOD, 1.0)
    assert standing.is_banned("p", 2.0)


def test_memory_is_bounded_even_when_all_are_banned() -> None:
    standing = Standing()
    for number in range(MAX_PEERS + 10):
        assert standing.offend(f"p-{number}", Offence.CORRUPT_CHUNK, float(number) / MAX_PEERS)
    banned = standing.banned(2.0)
    assert len(banned) == MAX_PEERS
    assert f"p-{MAX_PEERS + 9}" in banned  # the newest is never the one that is forgotten


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(Offence), st.floats(0, 100)), max_size=40))
def test_a_ban_comes_when_faded_points_reach_the_threshold(
    offences: list[tuple[Offence, float]],
) -> None:
    standing = Standing()
    now = points = 0.0
    for offence, pause in offences:
        now += pause
        points = points * 0.5 ** (pause / HALF_LIFE) + POINTS[offence]
        banned = standing.offend("p", offence, now)
        if abs(points - BAN_THRESHOLD) > 1e-6:
            assert banned == (points >= BAN_THRESHOLD)
        if banned:
            return


@settings(deadline=None)
@given(
    st.floats(0.1, 1000),
    st.floats(1, 1000),
    st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_an_allowance_is_its_rate_and_a_burst(
    rate: float, burst: float, pauses: list[float]
) -> None:
    allowance = Allowance(rate, burst)
    now = taken = 0.0
    for pause in pauses:
        now += pause
        taken += allowance.take(now)
    assert taken <= burst + rate * now + 1e-6
    wait = allowance.wait(now)
    assert allowance.take(now + wait * 1.001 + 1e-6)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    allowance = Allowance(1.0, 1.0)
    assert allowance.take(100.0)
    assert not allowance.take(50.0)
    assert not allowance.take(50.5)


def test_what_is_owed_is_paid_in_time() -> None:
    allowance = Allowance(10.0, 20.0)
    assert allowance.owe(15, 100.0) == 0
    assert allowance.owe(15, 100.0) == 1.0
    assert not allowance.take(100.5)
    assert allowance.owe(0, 101.0) == 0
    assert allowance.wait(101.0) == 0.1
    assert allowance.owe(30, 200.0) == 1.0  # more than the burst there never is
