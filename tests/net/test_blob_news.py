"""The rhythm of news, on a virtual clock."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from peatnet.net.blob_news import (
    LONGEST_INTERVAL,
    PUSH_INTERVAL,
    PUSHES_PER_SECOND,
    Bell,
    Newsroom,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Watcher:
    """Has news when told so; notes when they were fetched."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.times: list[float] = []
        self._news = 0
        self._armed = True

    def gain(self) -> None:
        self._news += 1
        if self._armed:
            self._armed = False
            self.bell.ring()

    async def push(self) -> bool:
        await trio.lowlevel.checkpoint()
        if not self._news:
            self._armed = True
            return False
        self._news = 0
        self.times.append(trio.current_time())
        return True


def on_a_virtual_clock(test: Callable[[], Awaitable[None]]) -> None:
    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0.001))


def test_the_first_news_goes_at_once_and_the_next_are_collected() -> None:
    async def test() -> None:
        watcher = Watcher()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Newsroom().tell, watcher.bell, watcher.push)
            start = trio.current_time()
            for _ in range(30):
                watcher.gain()
                await trio.sleep(0.01)
            await trio.sleep(5)
            late = trio.current_time()
            watcher.gain()
            await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        *early, last = [time - start for time in watcher.times]
        assert early == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=0.02)
        assert last == pytest.approx(late - start)

    on_a_virtual_clock(test)


@pytest.mark.parametrize("watchers", [1, 4, 15, 60])
def test_all_together_get_so_many_pushes_and_none_waits_too_long(watchers: int) -> None:
    async def test() -> None:
        newsroom, all_of_them = Newsroom(), [Watcher() for _ in range(watchers)]
        async with trio.open_nursery() as nursery:
            for watcher in all_of_them:
                nursery.start_soon(newsroom.tell, watcher.bell, watcher.push)
            for _ in range(1000):
                for watcher in all_of_them:
                    watcher.gain()
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        pushes = sum(len(watcher.times) for watcher in all_of_them)
        most = max(PUSHES_PER_SECOND, watchers / LONGEST_INTERVAL)
        assert pushes <= 10 * most + 2 * watchers
        for watcher in all_of_them:
            gaps = [b - a for a, b in zip(watcher.times, watcher.times[1:], strict=False)]
            assert min(gaps) >= PUSH_INTERVAL - 1e-6
            assert max(gaps) <= LONGEST_INTERVAL + 0.02

    on_a_virtual_clock(test)


def test_a_bell_is_rung_by_any_thread_and_remembers() -> None:
    async def test() -> Bell:
        bell = Bell()
        bell.ring()
        bell.ring()
        await trio.to_thread.run_sync(bell.ring)
        await bell.wait()
        waited = trio.Event()

        async def wait() -> None:
            await bell.wait()
            waited.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not waited.is_set()
            threading.Thread(target=bell.ring).start()
            with trio.fail_after(20):
                await waited.wait()
        return bell

    trio.run(test).ring()  # trio has ended: nobody hears it, nothing happens
