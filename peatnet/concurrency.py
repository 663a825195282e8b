"""Small things that trio leaves to its users: cancelling threads, lone errors in groups, waking, change feeds."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from peatnet.errors import PeatnetError
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

log = get_logger(__name__)


def cancellable(progress: Callable[..., None] | None = None) -> Callable[..., None]:
    """A progress callback for work in a trio worker thread that lets the work be cancelled between its calls."""

    def report(*done: int) -> None:
        trio.from_thread.check_cancelled()
        if progress is not None:
            progress(*done)

    return report


@contextmanager
def bare_errors() -> Iterator[None]:
    """Take errors out of the groups that nurseries wrap them in, so that callers can catch them by their class.

    A lone error comes out bare. Of several errors of peatnet's own (tasks that failed together, mostly for one
    reason) the first does. Anything else stays in its group.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        errors = list(_flat(group))
        if len(errors) > 1 and not all(isinstance(error, PeatnetError) for error in errors):
            raise
        raise errors[0] from errors[0].__cause__


def first_error(group: BaseExceptionGroup[E]) -> E:
    """The first of the errors that came at once, for where only one can be told."""
    error = group.exceptions[0]
    return first_error(error) if isinstance(error, BaseExceptionGroup) else error


def _flat(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flat(error)
        else:
            yield error


class Stirring:
    """Something that happens again and again, and that several tasks wait for.

    To miss nothing, take ``event`` before looking at what it may have changed, and wait for it afterwards.
    """

    def __init__(self) -> None:
        self.event = trio.Event()

    def stir(self) -> None:
        """Wake everybody who waits now."""
        self.event.set()
        self.event = trio.Event()


class Feed(Generic[T]):
    """Tells any number of subscribers of changes, without ever waiting for one.

    Args:
        buffer: how many changes a slow subscriber may leave unread before it misses the next ones.
    """

    def __init__(self, buffer: int) -> None:
        self._buffer = buffer
        self._subscribers: set[trio.MemorySendChannel[T]] = set()

    def __bool__(self) -> bool:
        return bool(self._subscribers)

    def tell(self, change: T) -> None:
        """Give a change to all subscribers that have room for it."""
        for channel in self._subscribers:
            try:
                channel.send_nowait(change)
            except trio.WouldBlock:
                log.debug("subscriber is slow; change dropped", change=change)
            except trio.BrokenResourceError:
                log.debug("subscriber has closed its end; change dropped", change=change)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[trio.MemoryReceiveChannel[T]]:
        """Changes as they happen, for as long as the context lasts."""
        send, receive = trio.open_memory_channel[T](self._buffer)
        self._subscribers.add(send)
        try:
            with receive:
                yield receive
        finally:
            self._subscribers.discard(send)
            send.close()
