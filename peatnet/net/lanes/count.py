"""How many lanes to one peer. Pure: time is passed in.

One more lane is worth its threads and memory when chunks come at least a tenth faster with it. So the rate is measured
over enough chunks, all the while that there is something to fetch; then with one lane more; and the larger
number stays if it pays. What did not pay is tried again later, and after each vain try later still: lines change. By
turns a smaller number is tried, too, and stays unless the larger one pays.

    HOLD  --window full, time to try-->  TRY (one more or one fewer)  --window full-->  HOLD
"""

from __future__ import annotations

import math

# What one more lane must bring.
PAYS = 1.1
# A rate counts when it is that of so many chunks, and of so many seconds.
WINDOW_CHUNKS = 64
WINDOW_SECONDS = 0.5
# Chunks after a change that do not count: what was under way before.
SETTLING = 16
# The pause after a vain try; it doubles with each one up to the longest.
FIRST_PAUSE = 4.0
LONGEST_PAUSE = 256.0
# Seconds there and back that are more than a local network's, even where its queues are full.
FAR = 0.08
FIRST_OF_FAR = 4


def is_far(round_trip: float) -> bool:
    """Whether a peer that is so many seconds away, there and back, is far enough that round trips are to be spared."""
    return round_trip >= FAR


def first_count(round_trip: float) -> int:
    """How many lanes to begin with to a peer that is so many seconds away, there and back.

    Each connection carries little in its first round trips, and in those after a packet was lost; several carry more.
    """
    return FIRST_OF_FAR if is_far(round_trip) else 1


def share_of(asked: int, lanes: int) -> int:
    """How many requests each of so many lanes may have out, if so many are out in all: two at least, so that none ever waits."""
    return max(2, -(-asked // max(1, lanes)))


class LaneCount:
    """Says how many lanes there should be. Its size does not grow.

    Args:
        most: the most there may be, at least 1.
        first: how many to begin with.

    Attributes:
        target: how many there should be now.
    """

    def __init__(self, most: int, first: int = 1) -> None:
        self.target = self._held = min(most, first)  # the number that has paid
        self._most = most
        self._base: float | None = None  # its rate, while another number is tried
        self._pause = FIRST_PAUSE
        self._try_at = -math.inf
        self._upward = True
        self._begin(SETTLING)

    def arrived(self, size: int, now: float) -> None:
        """A chunk of so many bytes came."""
        if self._unsettled:
            self._unsettled -= 1
            self._since = now
            return
        self._chunks += 1
        self._bytes += size
        elapsed = now - self._since
        if self._chunks >= WINDOW_CHUNKS and elapsed >= WINDOW_SECONDS:
            self._measured(self._bytes / elapsed, now)

    def idle(self) -> None:
        """Nothing is to be fetched at present: what was measured up to now says nothing of the line."""
        self._begin(SETTLING)

    def unavailable(self, now: float) -> None:
        """There are fewer lanes than there should be, and no more can be had for now."""
        if self.target > 1:
            self._hold(max(1, self.target - 1), now)

    def lost(self, left: int, now: float) -> None:
        """A lane has broken, and so many are left. Fewer are made do with, for a while."""
        self._hold(max(1, min(left, self._held)), now)

    def _begin(self, unsettled: int, now: float = 0.0) -> None:
        self._unsettled = unsettled
        self._chunks = 0
        self._bytes = 0
        self._since = now

    def _measured(self, rate: float, now: float) -> None:
        if self._base is not None:
            self._judge(rate, self._base, now)
        elif now >= self._try_at and self._most > 1:
            self._try(rate)
        else:
            self._begin(0, now)

    def _try(self, rate: float) -> None:
        upward = self._held == 1 or (self._upward and self._held < self._most)
        self._base = rate
        self.target = self._held + (1 if upward else -1)
        self._begin(SETTLING)

    def _judge(self, rate: float, base: float, now: float) -> None:
        upward = self.target > self._held
        more, fewer = (rate, base) if upward else (base, rate)
        pays = more >= PAYS * fewer
        if pays == upward:
            self._held = self.target
            self._base = None
            self._pause = FIRST_PAUSE
            # What has paid may pay again at once; what was too many has its pause.
            self._try_at = now if upward else now + self._pause
            self._begin(0, now)
        else:
            self._hold(self._held, now)
            self._upward = not upward

    def _hold(self, count: int, now: float) -> None:
        """Be content with this number, after a try that was in vain."""
        self.target = self._held = count
        self._base = None
        self._try_at = now + self._pause
        self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        self._begin(SETTLING)
