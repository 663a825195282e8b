from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.errors import InvalidManifest
from peatnet.models import Timestamp

FIRST = -62_135_596_800 * 10**9
LAST = 253_402_300_799 * 10**9 + 999_999_999


# As chrono 0.4 reads and writes them.
@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2025-12-02T10:11:12Z", "2025-12-02T10:11:12Z"),
        ("2025-12-02T10:11:12.123456789Z", "2025-12-02T10:11:12.123456789Z"),
        ("2025-12-02T10:11:12.1Z", "2025-12-02T10:11:12.100Z"),
        ("2025-12-02T10:11:12.000001Z", "2025-12-02T10:11:12.000001Z"),
        ("2025-12-02T10:11:12.000000001Z", "2025-12-02T10:11:12.000000001Z"),
        ("2025-12-02T10:11:12.000000000Z", "2025-12-02T10:11:12Z"),
        ("2025-12-02T10:11:12+02:00", "2025-12-02T08:11:12Z"),
        ("2025-12-02T10:11:12-00:00", "2025-12-02T10:11:12Z"),
        ("2025-12-31T23:30:00.25-01:30", "2026-01-01T01:00:00.250Z"),
        ("2025-12-02t10:11:12z", "2025-12-02T10:11:12Z"),
        ("2025-12-02 10:11:12Z", "2025-12-02T10:11:12Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
    ],
)
def test_the_canonical_text(text: str, canonical: str) -> None:
    assert Timestamp(text) == canonical
    assert Timestamp(canonical) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2025-12-02",
        "2025-12-02T10:11:12",
        "2025-12-02T10:11Z",
        "2025-12-02T10:11:12.Z",
        "2025-12-02T10:11:12.1234567891Z",
        "2025-12-02T10:11:60Z",
        "2025-12-02T24:00:00Z",
        "2025-13-02T10:11:12Z",
        "2025-02-29T10:11:12Z",
        "2025-12-02T10:11:12+24:00",
        "2025-12-02T10:11:12+02:60",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "+10000-01-01T00:00:00Z",
        "٢٠٢٥-12-02T10:11:12Z",
        " 2025-12-02T10:11:12Z",
        "2025-12-02T10:11:12Z\n",
        "2" * 10_000,
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        Timestamp(text)
    assert len(caught.value.message) < 120


@given(st.integers(FIRST, LAST))
@settings(deadline=None)
def test_nanoseconds_and_back(nanoseconds: int) -> None:
    stamp = Timestamp.from_unix_ns(nanoseconds)
    assert stamp.unix_ns == nanoseconds
    assert Timestamp(stamp) == stamp
    assert pickle.loads(pickle.dumps(stamp)) == stamp


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)))  # noqa: DTZ001  # Hypothesis wants naive bounds
@settings(deadline=None)
def test_datetimes_and_back(moment: datetime) -> None:
    utc = moment.replace(tzinfo=UTC)
    assert Timestamp.from_datetime(utc).to_datetime() == utc
    elsewhere = utc.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert Timestamp.from_datetime(elsewhere) == Timestamp.from_datetime(utc)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2025, 1, 1),  # noqa: DTZ001  # no time zone is the point
        datetime(2025, 1, 1, tzinfo=timezone(timedelta(seconds=1))),
    ],
)
def test_datetimes_without_a_usable_zone_are_refused(moment: datetime) -> None:
    with pytest.raises(InvalidManifest):
        Timestamp.from_datetime(moment)


@pytest.mark.parametrize("nanoseconds", [FIRST - 1, LAST + 1, 10**40])
def test_instants_out_of_range_are_refused(nanoseconds: int) -> None:
    with pytest.raises(InvalidManifest, match="years 1 to 9999"):
        Timestamp.from_unix_ns(nanoseconds)
