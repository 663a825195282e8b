"""How many chunks a holder has on their way at once: few, so that each arrives soon and whole, but enough.

Theory. Eight downloaders that are served at once over one slow link all wait eight times as long for their first
chunk; served one after the other, the first of them can pass its chunk on while the next is served. So the
window is small. But it must not be what limits the holder: where each downloader's own link is slow, or busy with
what others send it, many must be served at once. From here the cases look alike, a chunk takes long. So:

- what the best rate of the last seconds carries in `SOON_SECONDS` is let out in any case, 4 to 8 chunks, and up to 16
  of what it carries in `CHEAP_SECONDS`: that delays nobody much, and simulated swarms are slower with less than 8
- above that, twice the window is tried now and then where it was used up all the time, and kept only where that
  breaks the record by half; and half of it is tried, and kept where it costs nothing

A trial is a number of chunks, after those that were on their way before it began; idle time is no evidence.
"""

from __future__ import annotations

from peatnet.swarm.meters import Peak

SMALLEST = 4
USUAL = 8
SOON_SECONDS = 0.7
MOST_CHEAP = 16
CHEAP_SECONDS = 0.2
LARGEST = 64
# Twice the window has to give this many times the record to be kept, half of it may give this much less.
PAYS = 1.5
COSTS = 0.9
# After a trial that failed, time for so many others passes before the next, twice as much after each.
LONGEST_PATIENCE = 64
_FEWEST = 8  # chunks in a trial, at least
_ENOUGH = 1.5  # a trial that takes so many times as long as it would without is over
_FADES = 0.9  # the record, with each stretch of time
_PEAK_SECONDS = 10.0


class Window:
    """The number of chunks that may be on their way. Times are seconds on the caller's clock.

    Args:
        now: the present.

    Attributes:
        chunks: how many may be on their way at once.
    """

    __slots__ = (
        "_began",
        "_best",
        "_bytes",
        "_cheap",
        "_done",
        "_double",
        "_factor",
        "_last",
        "_limited",
        "_patience",
        "_settling",
        "_size",
        "_tried",
        "_typical",
        "_wait",
        "_wanted",
        "chunks",
    )

    def __init__(self, now: float) -> None:
        self._best = Peak(_PEAK_SECONDS)
        self._cheap = USUAL
        self._last = now
        self._size = 0.0  # smoothed bytes of a chunk
        self._factor = 1  # how many times the cheap window is let out
        self._tried: int | None = None  # the factor on trial
        self._typical = 0.0  # the record, in bytes a second, of the window that is not on trial
        self._wait = self._patience = 1
        self._double = True  # what to try next
        self._began = now
        self._bytes = self._done = 0
        self._limited = True
        self._settling = SMALLEST
        self._resize()

    def begin(self, now: float) -> None:
        """A chunk is sent while no other is on its way. Time in which nothing was is no evidence of anything."""
        if now > self._last:
            self._restart(now)

    def done(self, size: int, *, out: int, waiting: bool, now: float) -> None:
        """A chunk has been sent; ``out`` others are on their way, and others wait for their turn, or not."""
        self._last = now
        self._size = size if not self._size else 0.9 * self._size + 0.1 * size
        if self._settling:
            # Those that were on their way already, under another window, are no evidence of this one.
            self._settling -= 1
            self._began = now
            return
        self._bytes += size
        self._done += 1
        self._limited &= waiting
        elapsed, wanted = now - self._began, self._wanted
        # A trial that hurts is not seen through to its end.
        hurts = self._tried is not None and elapsed * self._typical > _ENOUGH * wanted * self._size
        if elapsed > 0 and (hurts or self._done >= wanted):
            self._measured(self._bytes / elapsed, now)
            self._resize()
            self._judge(self._bytes / elapsed)
            self._resize()
            self._restart(now)
            self._settling = max(self._settling, out)

    def _resize(self) -> None:
        """Follow what is cheap, kept and on trial."""
        factor = self._factor if self._tried is None else self._tried
        self.chunks = min(LARGEST, self._cheap * factor)
        self._wanted = max(_FEWEST, 2 * self.chunks)

    def _measured(self, rate: float, now: float) -> None:
        self._best.add(rate, now)
        carried = self._best.value(now) / self._size  # chunks a second
        soon, cheap = int(carried * SOON_SECONDS), int(carried * CHEAP_SECONDS)
        self._cheap = max(SMALLEST, min(USUAL, soon), min(MOST_CHEAP, cheap))

    def _restart(self, now: float) -> None:
        self._began = now
        self._bytes = self._done = 0
        self._limited = True
        self._settling = self.chunks

    def _judge(self, rate: float) -> None:
        """So many bytes a second were sent with this window."""
        if self._tried is None:
            # A record, which fades: what others are doing to our downloaders' links changes from moment to moment.
            self._typical = max(rate, _FADES * self._typical)
            self._wait -= 1
            if self._wait <= 0:
                self._begin_trial()
            return
        grew = self._tried > self._factor
        if rate >= (PAYS if grew else COSTS) * self._typical:
            self._factor, self._typical = self._tried, rate
            self._wait = self._patience = 1
            self._double = grew
        else:
            self._patience = min(LONGEST_PATIENCE, self._patience * 2)
            self._wait = self._patience
            self._double = not grew
        self._tried = None

    def _begin_trial(self) -> None:
        if not self._limited or self.chunks >= LARGEST:
            self._double = False  # more could not help
        elif self._factor == 1:
            self._double = True
        if self._double:
            self._tried = self._factor * 2
        elif self._factor > 1:
            self._tried = self._factor // 2
