"""Running a lane's loop in a worker thread that never outlives the trio task it works for."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from peatnet.concurrency import bare_errors
from peatnet.errors import PeerLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

T = TypeVar("T")

# How long a thread is waited for where all are taken: a stream could serve meanwhile.
THREAD_PATIENCE = 1.0


async def in_lane_thread(
    work: Callable[[], T], shut: Callable[[], None], limiter: trio.CapacityLimiter
) -> T:
    """Run ``work`` in a worker thread, with ``shut`` to end it.

    Cancellation: ``shut`` is called, upon which ``work`` must soon raise PeerLost or return; it is waited for.

    Args:
        work: blocks on a socket.
        shut: makes whatever ``work`` waits for on that socket fail; any thread.
        limiter: how many threads there may be.

    Raises:
        PeerLost, or whatever ``work`` raises; PeerLost as well where no thread was free for THREAD_PATIENCE seconds.
    """
    end = _End()
    with bare_errors():
        async with _place(limiter, end), trio.open_nursery() as nursery:
            nursery.start_soon(_shut_when_cancelled, shut, end)
            try:
                result = await trio.to_thread.run_sync(work, limiter=_placed())
            except PeerLost:
                # Where we shut it, that is how it ends: the cancellation is what counts.
                await trio.lowlevel.checkpoint_if_cancelled()
                raise
            finally:
                end.reached = True
            nursery.cancel_scope.cancel()
    return result


@asynccontextmanager
async def _place(limiter: trio.CapacityLimiter, borrower: object) -> AsyncIterator[None]:
    with trio.move_on_after(THREAD_PATIENCE) as scope:
        await limiter.acquire_on_behalf_of(borrower)
    if scope.cancelled_caught:
        raise PeerLost("all threads for lanes are in use here")
    try:
        yield
    finally:
        limiter.release_on_behalf_of(borrower)


def _placed() -> trio.CapacityLimiter:
    """Bounds nothing: for a thread that has its place already."""
    return trio.CapacityLimiter(math.inf)


class _End:
    reached = False


async def _shut_when_cancelled(shut: Callable[[], None], end: _End) -> None:
    try:
        await trio.sleep_forever()
    finally:
        if not end.reached:
            shut()
