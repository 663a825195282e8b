"""When requests that are out become overdue."""

from __future__ import annotations

import heapq
import math
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peatnet.swarm.sources import Ask, Source


class Timers:
    """A heap of deadlines. A request that was answered leaves its entry behind, to be skipped later.

    Entries live no longer than the longest timeout, so there are at most as many as requests in that time.

    Attributes:
        first: the first deadline of all, answered or not; nothing is due before.
    """

    __slots__ = ("_heap", "_serial", "first")

    def __init__(self) -> None:
        self.first = math.inf
        self._heap: list[tuple[float, int, Source, int, Ask]] = []
        self._serial = count()  # orders deadlines of the same time

    def watch(self, deadline: float, source: Source, index: int, ask: Ask) -> None:
        """Look at this request at `deadline`."""
        heapq.heappush(self._heap, (deadline, next(self._serial), source, index, ask))
        self.first = self._heap[0][0]

    def due(self, now: float) -> Iterator[tuple[Source, int, Ask]]:
        """Take the requests whose time has come and that are out still."""
        heap = self._heap
        while self.first <= now:
            _, _, source, index, ask = heapq.heappop(heap)
            self.first = heap[0][0] if heap else math.inf
            if source.out.get(index) is ask:
                yield source, index, ask

    def soonest(self) -> float:
        """The first deadline of a request that is out; infinity without any."""
        heap = self._heap
        while heap:
            self.first, _, source, index, ask = heap[0]
            if source.out.get(index) is ask:
                return self.first
            heapq.heappop(heap)
        self.first = math.inf
        return math.inf
