"""Pushing news of a blob to those who watch it, without spending more on news than on chunks.

News goes out at once to one who has heard nothing for a while. After that it is collected: between two pushes to one
watcher pass PUSH_INTERVAL seconds, or, where many watch, so many that all of them together get PUSHES_PER_SECOND.
A node that fills at 12 chunks a second with 15 watchers tells each of them of some five chunks at a time.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PUSH_INTERVAL = 0.1
PUSHES_PER_SECOND = 40.0
LONGEST_INTERVAL = 0.5


class Bell:
    """Any thread rings it, one trio task hears it. Made in the trio thread."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._rung = trio.Event()

    def ring(self) -> None:
        """Wake the task, now or when it comes to wait. Any thread; harmless when trio has ended."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._rung.set, idempotent=True)

    async def wait(self) -> None:
        """Wait until it is rung, or has been since this returned last."""
        await self._rung.wait()
        self._rung = trio.Event()


class Newsroom:
    """Knows how many are being told news by this node, and so how often each can be. Trio thread only."""

    def __init__(self) -> None:
        self._busy = 0

    @property
    def interval(self) -> float:
        """Seconds between two pushes to one watcher."""
        return min(LONGEST_INTERVAL, max(PUSH_INTERVAL, self._busy / PUSHES_PER_SECOND))

    async def tell(self, bell: Bell, push: Callable[[], Awaitable[bool]]) -> None:
        """Tell one session's news until cancelled.

        Args:
            bell: rung when there may be news: ``Answers``'s ``on_news``.
            push: sends the next push, if there is one, and says whether there was: ``Answers.news``.
        """
        last = -math.inf
        while True:
            await bell.wait()
            self._busy += 1
            try:
                await trio.sleep_until(last + self.interval)
                while await push():
                    last = trio.current_time()
                    await trio.sleep(self.interval)
            finally:
                self._busy -= 1
