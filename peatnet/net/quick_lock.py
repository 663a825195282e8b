"""A lock that is taken at once where nobody holds it.

Every ``async with`` on a trio.Lock is a turn of the scheduler, contended or not, and py-libp2p takes up to ten of them on
a message's way. Where what they guard does not wait for anything, nobody ever holds them for long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from types import TracebackType

    from libp2p.abc import INetStream


class QuickLock:
    """To be put in the place of a trio.Lock that is used by ``async with``, before anybody uses it.

    A loop around such a lock may go on without giving way to other tasks; see ``ReadAhead`` for who does instead.
    """

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def __aenter__(self) -> None:
        """Take it. Only where it has to be waited for, this is a checkpoint."""
        if self._lock.locked():
            await self._lock.acquire()
        else:
            self._lock.acquire_nowait()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give it back."""
        self._lock.release()


def spare_turns(stream: INetStream) -> None:
    """Give a stream's state a lock of this kind; nothing is waited for under it."""
    stream._state_lock = QuickLock()  # type: ignore[attr-defined]  # noqa: SLF001
