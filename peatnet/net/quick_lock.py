"""A lock that is taken at once where nobody holds it, and what its users owe the other tasks for that.

Every ``async with`` on a trio.Lock is a turn of the scheduler, contended or not, and py-libp2p takes up to ten of them on
a message's way. Where what they guard does not wait for anything, nobody ever holds them for long. But then nothing
may be left in a loop that lets others have their turn, as long as a hostile peer has more for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from types import TracebackType

    from libp2p.abc import INetStream


# Steps of a loop before other tasks have their turn: of tiny messages there may be thousands in what one look brings.
IN_A_ROW = 32


class QuickLock:
    """To be put in the place of a trio.Lock that is used by ``async with``, before anybody uses it.

    A loop around such a lock gives way by itself where it has no other reason to wait; see ``GiveWay``.
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


class GiveWay:
    """Lets other tasks have their turn now and then, in a loop that does not wait while there is something to do."""

    def __init__(self) -> None:
        self._steps = 0

    async def step(self) -> None:
        """One step of the loop; each IN_A_ROW-th is a checkpoint."""
        self._steps += 1
        if self._steps >= IN_A_ROW:
            self._steps = 0
            await trio.lowlevel.checkpoint()


def spare_turns(stream: INetStream) -> None:
    """Give a stream's state a lock of this kind; nothing is waited for under it."""
    stream._state_lock = QuickLock()  # type: ignore[attr-defined]  # noqa: SLF001
