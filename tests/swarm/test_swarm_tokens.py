"""Token buckets and meters: what passes in any time is what the rate allows, and time never helps twice."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peatnet.errors import LocalProtocolError
from peatnet.swarm.meters import Meter, Peak
from peatnet.swarm.tokens import BURST_SECONDS, TokenBucket

RATES = st.floats(1e3, 1e9)
SIZES = st.lists(st.integers(1, 16 * 2**20), min_size=1, max_size=50)


@given(rate=RATES, sizes=SIZES, late=st.floats(0, 0.1))
def test_no_stretch_of_time_lets_more_pass_than_the_rate(
    rate: float, sizes: list[int], late: float
) -> None:
    bucket, now, passed = TokenBucket(rate, 0.0), 0.0, 0
    for size in sizes:
        now = bucket.ready_at(now) + late
        assert bucket.level(now) >= -1e-3
        # One chunk may be in advance, as soon as the bucket is out of debt.
        assert passed <= rate * (now + BURST_SECONDS) * (1 + 1e-9)
        bucket.take(size, now)
        passed += size


def test_ten_megabytes_a_second_are_ten_megabytes_a_second() -> None:
    bucket, now, passed = TokenBucket(10e6, 0.0), 0.0, 0
    while (now := bucket.ready_at(now) + 0.05) < 10:  # waking up late loses nothing
        bucket.take(2**20, now)
        passed += 2**20
    assert passed == pytest.approx(100e6, rel=0.04)


def test_without_a_limit_all_passes_at_once() -> None:
    bucket = TokenBucket(None, 0.0)
    bucket.take(10**12, 1.0)
    assert bucket.ready_at(1.0) == 1.0
    assert bucket.level(1.0) == math.inf


def test_a_changed_rate_holds_from_now_on_and_debt_stays() -> None:
    bucket = TokenBucket(100.0, 0.0, burst_seconds=0.0)
    bucket.take(1000, 0.0)
    bucket.set_rate(1000.0, 5.0)
    assert bucket.ready_at(5.0) == pytest.approx(5.5)
    bucket.set_rate(None, 5.1)
    assert bucket.ready_at(5.1) == 5.1
    bucket.set_rate(10.0, 6.0)  # nothing was saved up while there was no limit
    assert bucket.level(6.0) == 0


def test_what_is_given_back_passes_again_but_never_more_than_the_bucket_holds() -> None:
    bucket = TokenBucket(100.0, 0.0, burst_seconds=1.0)
    bucket.take(300, 0.0)
    bucket.take(-100, 0.0)
    assert bucket.level(0.0) == -100
    bucket.take(-10_000, 0.0)
    assert bucket.level(0.0) == 100


@pytest.mark.parametrize("rate", [0, -1, math.inf, math.nan])
def test_what_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(LocalProtocolError):
        TokenBucket(rate, 0.0)
    bucket = TokenBucket(1.0, 0.0)
    with pytest.raises(LocalProtocolError):
        bucket.set_rate(rate, 0.0)
    assert bucket.rate == 1.0


def test_a_clock_that_stands_still_gives_nothing() -> None:
    bucket = TokenBucket(100.0, 5.0, burst_seconds=0.0)
    bucket.take(10, 5.0)
    assert bucket.level(4.0) == -10
    assert bucket.level(5.0) == -10


def test_a_meter_is_right_from_the_first_moment_and_forgets() -> None:
    meter = Meter(0.0, 1.0)
    assert meter.rate(0.0) == 0
    for tenth in range(1, 31):
        meter.add(10, tenth / 10)
        assert meter.rate(tenth / 10) == pytest.approx(100, rel=0.06)
    assert meter.rate(10.0) < 1


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 100)), max_size=40))
def test_a_peak_is_the_highest_value_of_its_time(steps: list[tuple[float, float]]) -> None:
    peak, now, seen = Peak(8.0), 0.0, []
    for pause, value in steps:
        now += pause
        peak.add(value, now)
        seen.append((now, value))
        sure = [value for at, value in seen if at > now - 8]
        maybe = [value for at, value in seen if at > now - 9.01]
        assert max(sure) <= peak.value(now) <= max(maybe)
    assert peak.value(now + 100) == 0


def test_a_peak_that_nobody_looks_at_remembers_no_more_than_its_time() -> None:
    peak = Peak(8.0)
    for second in range(1000):
        peak.add(float(-second), float(second))
    assert len(peak._slots) <= 10
