"""Measuring rates: how many bytes a second lately, and the highest of such values lately."""

from __future__ import annotations

import math


class Meter:
    """Bytes a second, an average that forgets with a time constant.

    Args:
        now: when measuring begins.
        seconds: the time constant; may be changed.
    """

    __slots__ = ("_at", "_bytes", "_span", "seconds")

    def __init__(self, now: float, seconds: float) -> None:
        self.seconds = seconds
        self._at = now
        self._bytes = 0.0
        self._span = 0.0

    def add(self, count: float, now: float) -> None:
        """So many bytes came at ``now``."""
        self._age(now)
        self._bytes += count

    def rate(self, now: float) -> float:
        """Bytes a second."""
        self._age(now)
        return self._bytes / self._span if self._span > 0 else 0.0

    def _age(self, now: float) -> None:
        elapsed, self._at = max(0.0, now - self._at), max(now, self._at)
        if elapsed:
            keep = math.exp(-elapsed / self.seconds)
            self._bytes *= keep
            # The weight of the time that just passed, so that bytes / span is right from the first moment on.
            self._span = self._span * keep + (1 - keep) * self.seconds


class Peak:
    """The highest value of the last few seconds.

    Args:
        seconds: how long a value counts, give or take an eighth.
    """

    __slots__ = ("_slot_seconds", "_slots")

    _SLOTS = 8

    def __init__(self, seconds: float) -> None:
        self._slot_seconds = seconds / self._SLOTS
        self._slots: dict[int, float] = {}

    def add(self, value: float, now: float) -> None:
        """Note a value."""
        slot = int(now // self._slot_seconds)
        self._slots[slot] = max(value, self._slots.get(slot, value))
        if len(self._slots) > self._SLOTS + 1:
            self._forget(slot)

    def value(self, now: float) -> float:
        """The highest value that still counts; 0 without any."""
        self._forget(int(now // self._slot_seconds))
        return max(self._slots.values(), default=0.0)

    def _forget(self, slot: int) -> None:
        if not self._slots or min(self._slots) >= slot - self._SLOTS:
            return
        self._slots = {at: value for at, value in self._slots.items() if at >= slot - self._SLOTS}
