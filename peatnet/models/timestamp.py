"""Instants as Rust's chrono writes them: RFC 3339 in UTC, with as many digits as the nanoseconds need."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from peatnet.errors import InvalidManifest

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_NS: Final = 1_000_000_000
_MAX_CHARS: Final = 40

_RFC_3339 = re.compile(
    r"(?P<second>\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)"
    r"(?:\.(?P<fraction>\d{1,9}))?"
    r"(?P<zone>[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)


class Timestamp(str):
    """An instant in UTC with nanoseconds, kept as its canonical text ("2025-12-02T10:11:12.123456789Z").

    Two of them are equal when they are the same instant. To order them compare `unix_ns`: as texts, a
    whole second sorts behind its own fractions.

    Args:
        text: an RFC 3339 date and time. Another offset than Z is converted; the fraction is written with 0, 3, 6
            or 9 digits, whichever is enough, as chrono's serde does.

    Raises:
        InvalidManifest: it is no such text, has a leap second or more than nine digits, or leaves the
            years 1 to 9999.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Make one; see the class."""
        match = _RFC_3339.fullmatch(text) if len(text) <= _MAX_CHARS else None
        if match is None:
            raise InvalidManifest(
                f"{text[:_MAX_CHARS]!a} is not an RFC 3339 time with at most 9 digits"
            )
        zone = match["zone"].upper().replace("Z", "+00:00")
        second = match["second"].upper().replace(" ", "T")
        try:
            moment = datetime.fromisoformat(second + zone).astimezone(UTC)
        except (ValueError, OverflowError) as exc:
            raise InvalidManifest(f"{text!a} is no date and time that exists") from exc
        nanoseconds = int((match["fraction"] or "").ljust(9, "0"))
        return super().__new__(cls, _canonical(moment, nanoseconds))

    @classmethod
    def from_datetime(cls, moment: datetime) -> Self:
        """The instant of an aware datetime.

        Raises:
            InvalidManifest: the datetime has no time zone, or its offset has odd seconds.
        """
        return cls(moment.isoformat())

    @classmethod
    def from_unix_ns(cls, nanoseconds: int) -> Self:
        """The instant so many nanoseconds after 1970-01-01T00:00:00Z, as time.time_ns() counts them.

        Raises:
            InvalidManifest: it is not within the years 1 to 9999.
        """
        seconds, rest = divmod(nanoseconds, _SECOND_NS)
        try:
            moment = _EPOCH + timedelta(seconds=seconds)
        except OverflowError as exc:
            raise InvalidManifest(f"{nanoseconds} ns is outside the years 1 to 9999") from exc
        return cls(_canonical(moment, rest))

    @property
    def unix_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""
        whole = datetime.fromisoformat(str(self[:19])).replace(tzinfo=UTC) - _EPOCH
        fraction = int(self[20:-1].ljust(9, "0"))
        return (whole.days * 86_400 + whole.seconds) * _SECOND_NS + fraction

    def to_datetime(self) -> datetime:
        """The same instant as an aware datetime, cut to microseconds."""
        return _EPOCH + timedelta(microseconds=self.unix_ns // 1_000)


def _canonical(moment: datetime, nanoseconds: int) -> str:
    digits = f"{nanoseconds:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    fraction = f".{digits}" if digits else ""
    return f"{moment.replace(tzinfo=None, microsecond=0).isoformat()}{fraction}Z"
