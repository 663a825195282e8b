"""How far a download is: plain values for whoever shows them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

# The rate is a moving average with this time constant: long enough to read, short enough to follow.
RATE_SECONDS = 3.0
_SAMPLE = 0.25


class Stage(StrEnum):
    """What a download is doing."""

    NEW = "new"
    OPENING = "opening"
    FETCHING = "fetching"
    CHECKING = "checking"
    DONE = "done"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a download.

    Attributes:
        stage: what it is doing.
        size: bytes of the blob.
        verified_bytes: bytes on disk that match the chunk table, those of earlier runs included; never falls.
        recovered_bytes: those of earlier runs alone.
        bytes_by_source: new bytes of this run, by the name of the source that delivered them.
        rate: bytes a second, smoothed.
        alive: names of the sources that can be asked now.
    """

    stage: Stage
    size: int
    verified_bytes: int
    recovered_bytes: int
    bytes_by_source: dict[str, int]
    rate: float
    alive: tuple[str, ...]

    @property
    def eta(self) -> float | None:
        """Seconds until all bytes are there, at the present rate; None while there is none."""
        return (self.size - self.verified_bytes) / self.rate if self.rate > 0 else None


class RateMeter:
    """An exponentially weighted moving average of bytes a second.

    Args:
        now: the present, in seconds on a clock that the caller chooses.
    """

    __slots__ = ("_pending", "_rate", "_since", "_start")

    def __init__(self, now: float) -> None:
        self._start = self._since = now
        self._pending = 0
        self._rate = 0.0

    def add(self, count: int) -> None:
        """Count bytes that came; cheap."""
        self._pending += count

    def rate(self, now: float) -> float:
        """Bytes a second at ``now``, which must not go backwards."""
        elapsed = now - self._since
        if elapsed >= _SAMPLE:
            keep = math.exp(-elapsed / RATE_SECONDS)
            self._rate = keep * self._rate + (1 - keep) * self._pending / elapsed
            self._since, self._pending = now, 0
        # The average began at 0; without this, the first seconds would read low.
        grown = 1 - math.exp(-(self._since - self._start) / RATE_SECONDS)
        return self._rate / grown if grown > 0 else 0.0
