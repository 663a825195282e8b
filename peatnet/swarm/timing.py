"""How fast a source is, and what follows: its window, its timeouts, when a chunk may be expected from it.

Two things are measured at each delivery. *Chunk time* is how long the source was busy with one chunk: since
its last delivery, or since the request where that is later, so that a full pipeline measures throughput
and an idle one latency. *Response* is the time from request to delivery, which also covers sources that
work on several requests at once. Both are moving averages.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peatnet.swarm.settings import SwarmSettings

_WEIGHT = 0.25


def _mix(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)


class Pace:
    """The measured speed of one source. Times are seconds on the caller's clock."""

    __slots__ = ("_chunk_time", "_response", "_settings", "last_delivery")

    def __init__(self, settings: SwarmSettings) -> None:
        self._settings = settings
        self._chunk_time: float | None = None
        self._response: float | None = None
        self.last_delivery = -math.inf

    @property
    def measured(self) -> bool:
        """Whether anything was delivered."""
        return self._chunk_time is not None

    @property
    def chunk_time(self) -> float:
        """Seconds a chunk takes; a guess before the first."""
        return self._settings.guess if self._chunk_time is None else self._chunk_time

    def delivered(self, asked: float, now: float) -> None:
        """A chunk asked for at `asked` arrived."""
        self._chunk_time = _mix(self._chunk_time, now - max(asked, self.last_delivery))
        self._response = _mix(self._response, now - asked)
        self.last_delivery = now

    def window(self, pipeline: int) -> int:
        """How many requests it may have out, 1 to `pipeline`."""
        if self._chunk_time is None:
            return min(pipeline, self._settings.first_window)
        if self._chunk_time * pipeline <= self._settings.horizon:
            return pipeline
        return min(pipeline, 1 + int(self._settings.horizon / self._chunk_time))

    def expected(self, ahead: int) -> float | None:
        """How long a request with `ahead` others before it should take; None before anything was measured."""
        if self._chunk_time is None or self._response is None:
            return None
        return max(self._response, self._chunk_time * (ahead + 1))

    def overdue(self, ahead: int) -> float:
        """How long until a request that has `ahead` others before it is overdue, and may be asked elsewhere too."""
        chosen = self._settings
        expected = self.expected(ahead)
        if expected is None:
            return chosen.timeout_first
        return max(chosen.hedge_slack * expected, chosen.hedge_min)

    def timeout(self, ahead: int) -> float:
        """How long to wait for a request that has `ahead` others before it."""
        chosen = self._settings
        expected = self.expected(ahead)
        if expected is None:
            wanted = chosen.timeout_first * (ahead + 1)
        else:
            wanted = chosen.timeout_slack * expected
        return min(max(wanted, chosen.timeout_min), chosen.timeout_max)
