"""A small pool of large buffers, so that no chunk costs an allocation."""

from __future__ import annotations

from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BUFFER_SIZE = 1024 * 1024
"""Bytes in a pooled buffer: small enough for a core's cache, large enough to hide a call's cost."""

_KEEP = 16
_idle: SimpleQueue[bytearray] = SimpleQueue()


@contextmanager
def borrowed(count: int) -> Iterator[list[bytearray]]:
    """``count`` buffers of `BUFFER_SIZE` bytes with any content, for as long as the block runs.

    Nothing may hold on to them, or to a view of them, afterwards.
    """
    buffers = [_take() for _ in range(count)]
    try:
        yield buffers
    finally:
        for buffer in buffers:
            # The bound is soft: a race keeps a buffer or two more, which is harmless.
            if _idle.qsize() < _KEEP:
                _idle.put(buffer)


@contextmanager
def borrowed_for(size: int) -> Iterator[memoryview]:
    """One buffer of at least ``size`` bytes: from the pool where it is large enough."""
    if size > BUFFER_SIZE:
        yield memoryview(bytearray(size))
        return
    with borrowed(1) as buffers:
        yield memoryview(buffers[0])


def _take() -> bytearray:
    try:
        return _idle.get_nowait()
    except Empty:
        return bytearray(BUFFER_SIZE)
