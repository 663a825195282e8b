"""A token bucket: how much may pass now, and when more may. It never sleeps; time is passed in."""

from __future__ import annotations

import math

from peatnet.errors import LocalProtocolError

# A bucket holds what its rate gives in this many seconds: enough that waking up late loses nothing, little enough
# that nobody sees a burst.
BURST_SECONDS = 0.2


class TokenBucket:
    """Lets bytes pass at a rate.

    What is taken may be more than there is: one chunk passes as soon as the bucket is not in debt, and the debt is
    waited off afterwards. So a chunk larger than the bucket passes too, and in any time t at most
    ``rate * (t + burst_seconds)`` bytes and one chunk pass.

    Args:
        rate: bytes a second; None for no limit.
        now: the present, in seconds on a clock of the caller's that does not go back.
        burst_seconds: the bucket holds what the rate gives in this time.

    Raises:
        LocalProtocolError: the rate is not above 0.
    """

    __slots__ = ("_at", "_burst_seconds", "_level", "rate")

    def __init__(
        self, rate: float | None, now: float, burst_seconds: float = BURST_SECONDS
    ) -> None:
        check_rate(rate)
        self.rate = rate
        self._burst_seconds = burst_seconds
        self._at = now
        self._level = 0.0 if rate is None else rate * burst_seconds

    def set_rate(self, rate: float | None, now: float) -> None:
        """Change the rate from now on. Debt stays, unless there is no limit any more.

        Raises:
            LocalProtocolError: the rate is not above 0.
        """
        check_rate(rate)
        self._settle(now)
        self.rate = rate
        self._level = 0.0 if rate is None else min(self._level, rate * self._burst_seconds)

    def level(self, now: float) -> float:
        """Bytes that may pass now, below 0 in debt; infinity without a limit."""
        if self.rate is None:
            return math.inf
        self._settle(now)
        return self._level

    def take(self, count: float, now: float) -> None:
        """Let so many bytes pass, or give them back where ``count`` is negative."""
        if self.rate is not None:
            self._settle(now)
            self._level = min(self._level - count, self.rate * self._burst_seconds)

    def ready_at(self, now: float) -> float:
        """When the next chunk may pass: ``now``, or when the debt will be paid."""
        if self.rate is None:
            return now
        self._settle(now)
        return now if self._level >= 0 else now - self._level / self.rate

    def _settle(self, now: float) -> None:
        elapsed, self._at = max(0.0, now - self._at), max(now, self._at)
        if self.rate is not None:
            self._level = min(self._level + elapsed * self.rate, self.rate * self._burst_seconds)


def check_rate(rate: float | None) -> None:
    """Refuse what is no rate.

    Raises:
        LocalProtocolError: it is not above 0, or not finite.
    """
    if rate is not None and not 0 < rate < math.inf:
        raise LocalProtocolError(f"a rate of {rate} bytes a second")
