"""Segments side by side: whatever the order they come in, bytes leave in order, and memory is bounded."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.net.http_window import Segment, Window

if TYPE_CHECKING:
    from collections.abc import Callable

BYTES = random.Random(5).randbytes(1000)


def fill(window: Window, segment: Segment, count: int) -> None:
    count = min(count, segment.end - segment.position)
    there = segment.position
    segment.view[segment.filled : segment.filled + count] = BYTES[there : there + count]
    window.grown(segment, count)


def take(window: Window, least: int) -> bytes:
    data = bytes(window.ready(least))
    if data:
        window.left(len(data))
    return data


class Fillers:
    """Several who fill, and one who writes, moved by hand."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.held: list[Segment] = []
        self.got = b""

    def begin(self, _which: int, _count: int) -> None:
        if (begun := self.window.begin()) is not None:
            self.held.append(begun)

    def fill(self, which: int, count: int) -> None:
        if self.held:
            chosen = self.held[which % len(self.held)]
            fill(self.window, chosen, count)
            if chosen.full:
                self.held.remove(chosen)

    def give_up(self, which: int, _count: int) -> None:
        if self.held:
            self.window.give_up(self.held.pop(which % len(self.held)))

    def take(self, _which: int, count: int) -> None:
        self.got += take(self.window, count)

    def finish(self) -> None:
        """Go on until nobody can do anything."""
        while True:
            while data := take(self.window, 1):
                self.got += data
            self.begin(0, 0)
            if not self.held:
                return
            self.fill(-1, len(BYTES))


@settings(deadline=None)
@given(
    start=st.integers(0, 999),
    segment=st.integers(1, 300),
    buffers=st.integers(1, 6),
    moves=st.lists(
        st.tuples(
            st.sampled_from([Fillers.begin, Fillers.fill, Fillers.give_up, Fillers.take]),
            st.integers(0, 9),
            st.integers(1, 300),
        ),
        max_size=60,
    ),
)
def test_any_order(
    start: int,
    segment: int,
    buffers: int,
    moves: list[tuple[Callable[[Fillers, int, int], None], int, int]],
) -> None:
    window = Window(start, len(BYTES), segment=segment, buffers=buffers)
    fillers = Fillers(window)
    for move, which, count in moves:
        move(fillers, which, count)
        assert window.received <= start + len(fillers.got) + buffers * segment
        assert BYTES[start:].startswith(fillers.got)
    fillers.finish()
    assert fillers.got == BYTES[start:]
    assert window.received == len(BYTES)
    assert window.begin() is None


async def test_who_waits_for_a_buffer_gets_the_one_that_is_freed() -> None:
    window = Window(0, 30, segment=10, buffers=2)
    first, second = await window.next(), await window.next()
    assert first is not None
    assert second is not None
    third: list[Segment | None] = []

    async def wait() -> None:
        third.append(await window.next())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        fill(window, second, 10)
        await trio.testing.wait_all_tasks_blocked()
        assert third == []  # the earliest is not there, so nothing can leave
        fill(window, first, 10)
        assert take(window, 1) == BYTES[:10]
    (segment,) = third
    assert segment is not None
    assert segment.start == 20
    assert await window.next() is None


async def test_what_was_given_up_goes_first_the_earliest_of_it_before_all() -> None:
    window = Window(0, 100, segment=10, buffers=4)
    begun = [await window.next() for _ in range(3)]
    for segment in reversed(begun):
        assert segment is not None
        fill(window, segment, 3)
        window.give_up(segment)
    again = [await window.next() for _ in range(3)]
    assert again == begun
    assert [segment.position for segment in again if segment] == [3, 13, 23]
    fresh = await window.next()
    assert fresh is not None
    assert fresh.start == 30


@pytest.mark.parametrize("least", [1, 4, 10])
async def test_the_writer_waits_for_enough_or_the_end_of_a_segment(least: int) -> None:
    window = Window(0, 15, segment=10, buffers=2)
    sizes: list[int] = []

    async def write() -> None:
        while view := await window.wait_ready(least):
            sizes.append(len(view))
            window.left(len(view))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while (segment := await window.next()) is not None:
            while not segment.full:
                fill(window, segment, 2)
                await trio.testing.wait_all_tasks_blocked()
    assert sizes == {1: [2, 2, 2, 2, 2, 2, 2, 1], 4: [4, 4, 2, 4, 1], 10: [10, 5]}[least]
