"""Rates as people write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peatnet.rates import FASTEST, SLOWEST, parse_rate


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        (None, None),
        (0, None),
        ("0", None),
        ("0MB/s", None),
        ("none", None),
        ("Unlimited", None),
        (10_000_000, 10_000_000),
        (1e6, 1_000_000),
        ("10M", 10_000_000),
        ("10MB/s", 10_000_000),
        ("10 MB/s", 10_000_000),
        ("1.5GiB/s", 1_610_612_736),
        ("512k", 512_000),
        ("512KiB", 524_288),
        ("100Mbit/s", 12_500_000),
        ("100Mbps", 12_500_000),
        ("65536", 65_536),
        (" 2g ", 2_000_000_000),
    ],
)
def test_what_people_write_is_understood(written: Any, rate: int | None) -> None:
    assert parse_rate(written) == rate


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("10Mb", "bits or bytes"),
        ("10Mb/s", "bits or bytes"),
        ("fast", "not a rate"),
        ("10 parsecs", "not a rate"),
        ("-1", "not a rate"),
        ("", "not a rate"),
        ("1e6", "not a rate"),
        (True, "a rate is needed"),
        ([], "a rate is needed"),
        (1000, "64KiB/s"),
        ("1k", "64KiB/s"),
        (-5, "64KiB/s"),
        (float("inf"), "64KiB/s"),
        (float("nan"), "64KiB/s"),
        ("9999999TB", "not a rate"),
        ("999999999999999G", "64KiB/s"),
    ],
)
def test_anything_else_is_refused_in_words(written: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_rate(written)


@given(st.text(max_size=30) | st.floats() | st.integers())
def test_a_rate_or_an_error_and_nothing_else(written: Any) -> None:
    try:
        rate = parse_rate(written)
    except ValueError:
        return
    assert rate is None or SLOWEST <= rate <= FASTEST
