"""The rate that is shown, and settings that cannot work."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.errors import UsageError
from peatnet.transfer import DownloadSettings, Progress, RateMeter, Stage


def test_a_steady_rate_is_shown_from_the_start() -> None:
    meter = RateMeter(100.0)
    assert meter.rate(100.0) == 0.0
    for tick in range(1, 200):
        meter.add(1000)
        shown = meter.rate(100.0 + tick / 10)
        if tick >= 5:
            assert shown == pytest.approx(10_000, rel=0.35)
    assert meter.rate(120.0) == pytest.approx(10_000, rel=0.05)


def test_silence_brings_it_down() -> None:
    meter = RateMeter(0.0)
    meter.add(30_000)
    busy = meter.rate(1.0)
    assert meter.rate(10.0) < busy / 5
    assert meter.rate(1000.0) == pytest.approx(0.0, abs=1e-3)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(0, 10**9)), max_size=30))
def test_it_stays_between_nothing_and_the_fastest_moment(
    steps: list[tuple[float, int]],
) -> None:
    meter = RateMeter(0.0)
    now, total = 0.0, 0
    for wait, count in steps:
        meter.add(count)
        total += count
        now += wait
        assert 0.0 <= meter.rate(now) <= total / 0.25 * 1.0001


def test_eta() -> None:
    def progress(rate: float) -> Progress:
        return Progress(Stage.FETCHING, 1000, 400, 0, {}, rate, ())

    assert progress(100.0).eta == 6.0
    assert progress(0.0).eta is None


@pytest.mark.parametrize("name", ["give_up_after", "flush_bytes", "flush_interval", "hash_step"])
def test_settings_that_cannot_work(name: str) -> None:
    for value in (0, -1, float("nan")):
        wrong: Any = {name: value}
        with pytest.raises(UsageError, match=name):
            DownloadSettings(**wrong)
