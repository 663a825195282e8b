"""What is remembered of each of many peers; those unheard of for longest are forgotten first."""

from __future__ import annotations

from collections import OrderedDict

import trio

from peatnet.net.standing import Allowance

MAX_REMEMBERED = 4096


class Allowances:
    """An allowance for each of many.

    Args:
        rate: tokens a second.
        burst: the most tokens that one may have.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._each: OrderedDict[str, Allowance] = OrderedDict()

    def take(self, name: str) -> bool:
        """Take one of its tokens; False where there is none."""
        return self.of(name).take(trio.current_time())

    def of(self, name: str) -> Allowance:
        """What one of them has. Whoever keeps hold of it shares it with nobody once it is forgotten here."""
        allowance = self._each.setdefault(name, Allowance(self._rate, self._burst))
        self._each.move_to_end(name)
        if len(self._each) > MAX_REMEMBERED:
            self._each.popitem(last=False)
        return allowance


class Newest:
    """The greatest number that each of many has given; their numbers only grow."""

    def __init__(self) -> None:
        self._each: OrderedDict[str, int] = OrderedDict()

    def is_replay(self, name: str, number: int, late: int) -> bool:
        """Note a number, and tell whether one was heard that is greater by more than ``late``."""
        newest = self._each[name] = max(number, self._each.get(name, 0))
        self._each.move_to_end(name)
        if len(self._each) > MAX_REMEMBERED:
            self._each.popitem(last=False)
        return number < newest - late
