"""What is to happen in a virtual fleet, and when."""

from __future__ import annotations

import heapq
from bisect import insort
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Entry = tuple[float, int, Callable[..., None], tuple[Any, ...]]

_SLOTS = 64  # in a second


class Agenda:
    """Entries in the order of their times; those of the same time, in the order in which they were added.

    They wait in short slots of time, unsorted, and a slot is sorted when it comes. A heap of all of them, ten thousand in
    a large fleet, would look at a dozen entries from all over the memory for each that is added or taken.
    """

    __slots__ = ("_coming", "_entries", "_next", "_order", "_serial", "_slot")

    def __init__(self) -> None:
        self._entries: list[Entry] = []  # of the present slot, sorted
        self._next = 0  # the first of them that was not taken
        self._slot = -1
        self._coming: dict[int, list[Entry]] = {}
        self._order: list[int] = []  # a heap of the slots that are coming
        self._serial = 0

    def add(self, time: float, what: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Something is to happen at a time, which is not before that of the entry taken last."""
        self._serial += 1
        entry = time, self._serial, what, arguments
        slot = int(time * _SLOTS)
        if slot <= self._slot:
            insort(self._entries, entry, self._next)
            return
        coming = self._coming.get(slot)
        if coming is None:
            self._coming[slot] = [entry]
            heapq.heappush(self._order, slot)
        else:
            coming.append(entry)

    def next(self) -> Entry | None:
        """Take the first entry; None without any."""
        if self._next == len(self._entries):
            if not self._order:
                return None
            self._slot = heapq.heappop(self._order)
            self._entries = self._coming.pop(self._slot)
            self._entries.sort()
            self._next = 0
        entry = self._entries[self._next]
        self._next += 1
        return entry
