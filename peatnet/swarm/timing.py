"""How fast a source is, and what follows: its window, its timeouts, when a chunk may be expected from it.

Two things are measured at each delivery. *Chunk time* is how long the source was busy with one chunk: since
its last delivery, or since the request where that is later, so that a full pipeline measures throughput
and an idle one latency. *Response* is the time from request to delivery, which also covers sources that
work on several requests at once. Both are moving averages.

The window is a time, not a number: requests that would wait longer than the horizon are not made yet. Whatever is
asked for is decided, though what is rarest then may be known only later, and what one source was asked for no other
is. So the horizon is short: as long as a source needs to be told of the next request, and some more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peatnet.swarm.settings import SwarmSettings

_WEIGHT = 0.25


class Pace:
    """The measured speed of one source. Times are seconds on the caller's clock.

    Attributes:
        measured: whether anything was delivered.
        chunk_time: seconds a chunk takes; a guess before the first.
        last_delivery: when the last one came.
    """

    __slots__ = ("_response", "_settings", "chunk_time", "last_delivery", "measured")

    def __init__(self, settings: SwarmSettings) -> None:
        self._settings = settings
        self._response = 0.0
        self.measured = False
        self.chunk_time = settings.guess
        self.last_delivery = -math.inf

    def delivered(self, asked: float, now: float) -> None:
        """A chunk asked for at `asked` arrived."""
        last = self.last_delivery
        busy = now - max(last, asked)
        if self.measured:
            self.chunk_time += _WEIGHT * (busy - self.chunk_time)
            self._response += _WEIGHT * (now - asked - self._response)
        else:
            self.measured = True
            self.chunk_time = busy
            self._response = now - asked
        self.last_delivery = now

    def window(self, pipeline: int) -> int:
        """How many requests it may have out, 1 to `pipeline`."""
        if not self.measured:
            return min(pipeline, self._settings.first_window)
        if self.chunk_time * pipeline <= self._settings.horizon:
            return pipeline
        return min(pipeline, 1 + int(self._settings.horizon / self.chunk_time))

    def expected(self, ahead: int) -> float:
        """How long a request with `ahead` others before it should take, as far as anything was measured."""
        queued = self.chunk_time * (ahead + 1)
        return max(self._response, queued)

    def overdue(self, ahead: int) -> float:
        """How long until a request that has `ahead` others before it is overdue, and may be asked elsewhere too."""
        chosen = self._settings
        if not self.measured:
            return chosen.timeout_first
        wanted = chosen.hedge_slack * self.expected(ahead)
        return max(chosen.hedge_min, wanted)

    def timeout(self, ahead: int) -> float:
        """How long to wait for a request that has `ahead` others before it."""
        chosen = self._settings
        if self.measured:
            wanted = chosen.timeout_slack * self.expected(ahead)
        else:
            wanted = chosen.timeout_first * (ahead + 1)
        if wanted < chosen.timeout_min:
            return chosen.timeout_min
        return min(wanted, chosen.timeout_max)
