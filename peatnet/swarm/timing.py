"""How fast a source is, and what follows: its window, its timeouts, when a chunk may be expected from it.

Two things are measured at each delivery. *Chunk time* is how long the source was busy with one chunk: since
its last delivery, or since the request where that is later, so that a full pipeline measures throughput
and an idle one latency. *Response* is the time from request to delivery, which also covers sources that
work on several requests at once. Both are moving averages.

The window is a time, not a number: requests that would wait longer than the horizon are not made yet. Whatever is
asked for is decided, though what is rarest then may be known only later, and what one source was asked for no other
is. So the horizon is short: as long as a source needs to be told of the next request, and some more. A source whose
chunks come within a few milliseconds gets more requests than usual, so that it need not be told of each by itself.

Nothing can come of a request before it has been there and back. Over a satellite that takes longer than many chunks,
so a *round trip* that is known is no part of a chunk's time, the horizon is twice as long at least, and as many requests more
may be out as chunks come in it. Taken for work of the source's, it would be measured with each chunk, leave one request out at a
time, and so be measured with each chunk.

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
# Of a chunk's time, what a source may have nothing to do for want of another request.
_NEGLIGIBLE = 0.1
# Deliveries after which the pace is that of the line, not of its beginning.
LEARNS = 16


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
        round_trip: what a request takes there and back at least.
        lanes: on how many connections chunks come at once.
    """

    __slots__ = (
        "_crowd",
        "_learns",
        "_response",
        "_settings",
        "chunk_time",
        "lanes",
        "last_delivery",
        "measured",
        "round_trip",
    )

    def __init__(self, settings: SwarmSettings, crowd: Crowd) -> None:
        self._settings = settings
        self._crowd = crowd
        self._response = 0.0
        self.measured = False
        self.chunk_time = settings.guess
        self.last_delivery = -math.inf
        self.round_trip = 0.0
        self.lanes = 1
        self._learns = LEARNS

    def delivered(self, asked: float, now: float) -> None:
        """A chunk asked for at `asked` arrived."""
        last = self.last_delivery
        begun = asked + self.round_trip
        busy = now - (max(begun, last))
        busy = max(busy, 0.0)  # it is nearer than it was
        if self.measured:
            self.chunk_time += _WEIGHT * (busy - self.chunk_time)
            self._response += _WEIGHT * (now - asked - self._response)
        else:
            self.measured = True
            self.chunk_time = busy
            self._response = now - asked
        self.last_delivery = now
        if self._learns:
            self._learns -= 1

    def window(self, pipeline: int) -> tuple[int, int]:
        """How many requests it may have out, 1 to `pipeline`: by its pace alone, and in fact."""
        usual = min(pipeline, self._usual_window(pipeline))
        least = 1
        if self.lanes > 1:
            # Each may be slow, as where packets are lost: they are for carrying several chunks at a time.
            least = 2 * self.lanes
        if self._learns and self.round_trip:
            # TCP begins slowly, and goes on so where it is given little to carry.
            least = max(least, 1 + int(self.round_trip / self._settings.far_pace))
        return usual, max(usual, min(pipeline, least))

    def _usual_window(self, pipeline: int) -> int:
        settings = self._settings
        if not self.measured:
            return settings.first_window
        away = self.round_trip
        if self.chunk_time * pipeline <= settings.brisk + away:
            return pipeline
        # In a round trip come so many; with one more the source always has something to do.
        coming = int(away / self.chunk_time + 1 - _NEGLIGIBLE)
        usual = min(pipeline, settings.usual_window + coming)
        horizon = max(settings.horizon, 2 * away)
        if self.chunk_time * usual <= horizon:
            return max(usual, int((settings.brisk + away) / self.chunk_time))
        return 1 + max(coming, int(horizon / self.chunk_time))

    def queued(self, ahead: int) -> float:
        """How long a request with `ahead` others before it should take by the source's pace alone."""
        return self.round_trip + self.chunk_time * (ahead + 1)

    def expected(self, ahead: int) -> float:
        """How long a request with `ahead` others before it should take, as far as anything was measured."""
        queued = self.queued(ahead)
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
