"""Waiting for something to become true, with a bound."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# Generous, because machines that run tests are shared; a wait that succeeds never takes this long.
DEFAULT_TIMEOUT = 30.0


def wait_until(
    condition: Callable[[], T],
    timeout: float = DEFAULT_TIMEOUT,
    *,
    what: str = "",
    every: float = 0.05,
) -> T:
    """Polls until the condition gives something true, and returns that.

    Args:
        condition: called again and again.
        timeout: seconds after which the wait fails.
        what: what is waited for, for the message.
        every: seconds between two calls.

    Raises:
        AssertionError: it did not become true in time; the message holds the last value.
    """
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(
                f"not within {timeout:g} s: {what or condition}; last value: {value!r}"
            )
        time.sleep(every)


async def until(condition: Callable[[], object], what: str = "", *, every: float = 0.005) -> None:
    """The same within trio, where other tasks run meanwhile.

    Args:
        condition: called again and again.
        what: what is waited for, for the message.
        every: seconds between two calls; on a clock that jumps each takes as long as a jump does.
    """
    with trio.move_on_after(DEFAULT_TIMEOUT) as waited:
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await trio.sleep(every)
    assert not waited.cancelled_caught, f"not within {DEFAULT_TIMEOUT:g} s: {what or condition}"
