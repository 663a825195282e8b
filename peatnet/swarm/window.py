"""How many chunks a holder has on their way at once: few, so that each arrives soon and whole, but enough.

Theory. Eight downloaders that are served at once over one slow link all wait eight times as long for their first
chunk; served one after the other, the first of them can pass its chunk on while the next is served. So the
window is small. But it must not be what limits the holder: where each downloader's own link is slow, many must be
served at once. From here the two cases look alike, a chunk takes long; only trying tells them apart. So:

- what the measured rate carries in `CHEAP_SECONDS` is let out in any case, 2 to 16 chunks: it delays nobody
- above that the window is tried at twice its size now and then, and keeps it where that pays; and is tried at half
  its size, and keeps that where it costs nothing

A trial is a number of chunks done while others waited all the time; idle time is no evidence.
"""

from __future__ import annotations

from peatnet.swarm.meters import Meter

SMALLEST = 2
CHEAP_SECONDS = 0.1
MOST_CHEAP = 16
LARGEST = 64
# Twice the window has to give this much more to be kept, half the window may give this much less.
PAYS = 1.25
COSTS = 0.9
# After a trial that failed, so many others of the same length pass before the next.
PATIENCE = 6
_FEWEST = 8  # chunks in a trial, at least
_RATE_SECONDS = 1.0


class Window:
    """The number of chunks that may be on their way. Times are seconds on the caller's clock.

    Args:
        now: the present.
    """

    __slots__ = (
        "_began",
        "_bytes",
        "_chunks",
        "_done",
        "_double",
        "_factor",
        "_last",
        "_rate",
        "_rate_now",
        "_settling",
        "_size",
        "_tried",
        "_typical",
        "_wait",
    )

    def __init__(self, now: float) -> None:
        self._rate = Meter(now, _RATE_SECONDS)
        self._rate_now = 0.0
        self._last = now
        self._size = 0.0  # smoothed bytes of a chunk
        self._factor = 1  # how many times the cheap window is let out
        self._tried: int | None = None  # the factor on trial
        self._typical = 0.0  # bytes a second at the factor that is not on trial
        self._wait = 1
        self._double = True  # what to try next
        self._began = now
        self._bytes = self._done = 0
        self._settling = SMALLEST

    @property
    def chunks(self) -> int:
        """How many chunks may be on their way at once."""
        factor = self._factor if self._tried is None else self._tried
        return min(LARGEST, self._cheap() * factor)

    def begin(self, now: float) -> None:
        """A chunk is sent while no other is on its way. Time in which nothing was is no evidence of anything."""
        if now > self._last:
            self._rate.skip(now)
            self._restart(now)

    def done(self, size: int, *, waiting: bool, now: float) -> None:
        """A chunk has been sent; ``waiting``: others wait for their turn."""
        self._rate.add(size, now)
        self._rate_now = self._rate.rate(now)
        self._last = now
        self._size = size if not self._size else 0.9 * self._size + 0.1 * size
        if not waiting:
            self._restart(now)
            return
        if self._settling:
            # Those that were on their way already, under another window.
            self._settling -= 1
            self._began = now
            return
        self._bytes += size
        self._done += 1
        if self._done >= max(_FEWEST, 2 * self.chunks) and now > self._began:
            self._judge(self._bytes / (now - self._began))
            self._restart(now)

    def _cheap(self) -> int:
        if not self._size:
            return SMALLEST
        return max(SMALLEST, min(MOST_CHEAP, int(self._rate_now * CHEAP_SECONDS / self._size)))

    def _restart(self, now: float) -> None:
        self._began = now
        self._bytes = self._done = 0
        self._settling = self.chunks

    def _judge(self, rate: float) -> None:
        """One stretch of time in which all of the window was used gave this rate."""
        if self._tried is None:
            self._typical = rate
            self._wait -= 1
            if self._wait <= 0:
                self._begin_trial()
            return
        grew = self._tried > self._factor
        if rate >= (PAYS if grew else COSTS) * self._typical:
            self._factor, self._typical = self._tried, rate
            self._wait = 1
            self._double = grew
        else:
            self._wait = PATIENCE
            self._double = not grew
        self._tried = None

    def _begin_trial(self) -> None:
        if self._factor == 1:
            self._double = True
        elif self.chunks >= LARGEST:
            self._double = False
        self._tried = self._factor * 2 if self._double else self._factor // 2
