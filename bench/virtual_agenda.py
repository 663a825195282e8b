"""What is to happen in a virtual fleet, and when."""

from __future__ import annotations

import heapq
from bisect import insort
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Entry = tuple[float, int, Callable[..., None], tuple[Any, ...]]

_SLOTS = 64  # in a second


class Agenda:
    """Entries in the order of their times; those of the same time, in the order in which they were added.

    They wait in short slots of time, unsorted, and a slot is sorted when it comes. A heap of all of them, ten thousand in
    a large fleet, would look at a dozen entries from all over the memory for each that is added or taken.
    """

    __slots__ = ("_coming", "_entries", "_order", "_serial", "_slot")

    def __init__(self) -> None:
        self._entries: list[Entry] = []  # of the present slot, sorted
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
            # Behind what was taken: its time is not before that of any, and its serial is above.
            insort(self._entries, entry)
            return
        coming = self._coming.get(slot)
        if coming is None:
            self._coming[slot] = [entry]
            heapq.heappush(self._order, slot)
        else:
            coming.append(entry)

    def __iter__(self) -> Iterator[Entry]:
        """Take the entries one by one, those that are added meanwhile as well. Only once: the rest of a slot is lost."""
        while self._order:
            self._slot = heapq.heappop(self._order)
            self._entries = self._coming.pop(self._slot)
            self._entries.sort()
            yield from self._entries
