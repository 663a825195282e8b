"""The stretch of a file that is under way: its segments come side by side, and leave in order.

Memory is bounded by a pool of buffers: while the earliest segment is not all gone, no more of them than the pool has
buffers are begun, however fast the later ones come. A segment that somebody gives up goes, with what is there of it,
to whoever asks next, before any new one: the earliest segment can never be the one that nobody works on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import trio


@dataclass(slots=True, eq=False)
class Segment:
    """A run of bytes of the file, and a buffer of its length.

    Attributes:
        start: where in the file it begins.
        view: its bytes; the first ``filled`` of them are there.
        filled: changed by ``Window.grown`` alone.
    """

    start: int
    view: memoryview
    filled: int = 0

    @property
    def position(self) -> int:
        """Where in the file the first byte lies that is not there."""
        return self.start + self.filled

    @property
    def end(self) -> int:
        """One past its last byte."""
        return self.start + len(self.view)

    @property
    def full(self) -> bool:
        """Whether all of it is there."""
        return self.filled == len(self.view)


class Window:
    """Segments of ``start`` to ``end``, for several fillers and one writer, all in one trio thread.

    Args:
        start: the first byte wanted.
        end: one past the last.
        segment: bytes in a segment; the last one may be shorter.
        buffers: how many segments may be under way; each is allocated when it is first needed.
    """

    def __init__(self, start: int, end: int, *, segment: int, buffers: int) -> None:
        self.received = start
        """Bytes of the file that are there, in order or not, those before ``start`` included."""
        self._end = end
        self._next = start  # where the next segment begins
        self._segment = segment
        self._unmade = buffers
        self._free: list[memoryview] = []
        self._under_way: deque[Segment] = deque()  # without a gap, the earliest first
        self._given_up: list[Segment] = []
        self._gone = 0  # bytes of the earliest segment that have left
        self._changed = trio.Event()  # a new one after each change

    # For those who fill

    def begin(self) -> Segment | None:
        """The segment to work on next; None when all are begun, or no buffer is free."""
        if self._given_up:
            earliest = min(self._given_up, key=lambda segment: segment.start)
            self._given_up.remove(earliest)
            return earliest
        length = min(self._segment, self._end - self._next)
        if not length:
            return None
        if self._free:
            buffer = self._free.pop()
        elif self._unmade:
            self._unmade -= 1
            buffer = memoryview(bytearray(length))
        else:
            return None
        begun = Segment(self._next, buffer[:length])
        self._next = begun.end
        self._under_way.append(begun)
        return begun

    async def next(self) -> Segment | None:
        """The segment to work on next, as soon as there is one; None when all are begun."""
        while True:
            changed = self._changed
            if (segment := self.begin()) is not None or self._next == self._end:
                return segment
            await changed.wait()

    def grown(self, segment: Segment, count: int) -> None:
        """Count ``count`` more bytes of a segment as there."""
        segment.filled += count
        self.received += count
        self._wake()

    def give_up(self, segment: Segment) -> None:
        """Leave a segment to others, with what is there of it."""
        self._given_up.append(segment)
        self._wake()

    # For the one who writes

    def ready(self, least: int) -> memoryview:
        """The next bytes in order, up to a segment's end; empty when that is further away and fewer than ``least`` are there."""
        if self._under_way:
            earliest = self._under_way[0]
            if earliest.full or earliest.filled - self._gone >= least:
                return earliest.view[self._gone : earliest.filled]
        return memoryview(b"")

    async def wait_ready(self, least: int) -> memoryview:
        """As ``ready``, once it is not empty; empty when everything has left."""
        while True:
            changed = self._changed
            if (view := self.ready(least)) or (self._next == self._end and not self._under_way):
                return view
            await changed.wait()

    def left(self, count: int) -> None:
        """Count the first ``count`` bytes of ``ready`` as gone; a segment that is all gone frees its buffer."""
        self._gone += count
        earliest = self._under_way[0]
        if self._gone == len(earliest.view):
            self._under_way.popleft()
            self._gone = 0
            self._free.append(earliest.view)
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
