"""How fast a source is, and what follows: its window, its timeouts, when a chunk may be expected from it.

Two things are measured at each delivery. *Chunk time* is how long the source was busy with one chunk: since
its last delivery, or since the request where that is later, so that a full pipeline measures throughput
and an idle one latency. *Response* is the time from request to delivery, which also covers sources that
work on several requests at once. Both are moving averages.

The window is a time, not a number: requests that would wait longer than the horizon are not made yet. Whatever is
asked for is decided, though what is rarest then may be known only later, and what one source was asked for no other
is. So the horizon is short: as long as a source needs to be told of the next request, and some more. A source whose
chunks come within a few milliseconds gets more requests than usual, so that it need not be told of each by itself.

A request may take long though its source is fast: where many sources share the downloader's own link, each of them
gets little of it. So what requests take here, whoever is asked, counts as well (`Crowd`): for sources that have
delivered nothing yet, and for those that delivered before there were so many. Else a node with a thin link and twenty
neighbors gives up most of what it asks for, shortly before it comes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peatnet.swarm.settings import SwarmSettings

_WEIGHT = 0.25
_CROWD_WEIGHT = 1 / 16


class Crowd:
    """What requests take in one download, over all of its sources.

    Attributes:
        patience: how long to wait for any request at the least, whatever the settings say; 0 before one has come to an end.
    """

    __slots__ = ("_response", "_settings", "patience")

    def __init__(self, settings: SwarmSettings) -> None:
        self._settings = settings
        self._response = -1.0
        self.patience = 0.0

    def waited(self, seconds: float) -> None:
        """So long did a request take, or was it waited for before it was given up."""
        # What never comes must not make us wait longer and longer.
        seconds = min(seconds, self._settings.timeout_max)
        if self._response < 0:
            self._response = seconds
        else:
            self._response += _CROWD_WEIGHT * (seconds - self._response)
        self.patience = self._settings.crowd_slack * self._response

    @property
    def longest(self) -> float:
        """How long to wait for a request at the most, while another source could deliver the chunk."""
        return max(self._settings.timeout_max, self.patience)


class Pace:
    """The measured speed of one source. Times are seconds on the caller's clock.

    Attributes:
        measured: whether anything was delivered.
        chunk_time: seconds a chunk takes; a guess before the first.
        last_delivery: when the last one came.
    """

    __slots__ = ("_crowd", "_response", "_settings", "chunk_time", "last_delivery", "measured")

    def __init__(self, settings: SwarmSettings, crowd: Crowd) -> None:
        self._settings = settings
        self._crowd = crowd
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
        settings = self._settings
        if not self.measured:
            return min(pipeline, settings.first_window)
        if self.chunk_time * pipeline <= settings.brisk:
            return pipeline
        usual = min(pipeline, settings.usual_window)
        if self.chunk_time * usual <= settings.horizon:
            return max(usual, int(settings.brisk / self.chunk_time))
        return 1 + int(settings.horizon / self.chunk_time)

    def expected(self, ahead: int) -> float:
        """How long a request with `ahead` others before it should take, as far as anything was measured."""
        queued = self.chunk_time * (ahead + 1)
        if queued > self._response:
            return queued
        return self._response

    def overdue(self, ahead: int) -> float:
        """How long until a request that has `ahead` others before it is overdue, and may be asked elsewhere too."""
        return self.limits(ahead)[0]

    def timeout(self, ahead: int) -> float:
        """How long to wait for a request that has `ahead` others before it."""
        return self.limits(ahead)[1]

    def limits(self, ahead: int) -> tuple[float, float]:
        """How long until a request behind `ahead` others is overdue, and how long to wait for it."""
        chosen = self._settings
        if self.measured:
            expected = self.expected(ahead)
            overdue = max(chosen.hedge_slack * expected, chosen.hedge_min)
            wanted = chosen.timeout_slack * expected
        else:
            overdue = chosen.timeout_first
            wanted = chosen.timeout_first * (ahead + 1)
        patience = self._crowd.patience
        if wanted <= patience:
            return overdue, max(patience, chosen.timeout_min)
        if wanted >= chosen.timeout_max:
            return overdue, max(chosen.timeout_max, patience)
        return overdue, max(wanted, chosen.timeout_min)
