"""What a server may send before the head of an answer is whole: 1xx answers, as many as it likes, and the head itself.

The HTTP library drops 1xx answers without a word and without a limit, and takes in all that one read has brought
before anybody else gets a turn. So a head is read in small reads, and only so many bytes are read for one.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from peatnet.errors import HttpSourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from httpcore import AsyncNetworkStream

MAX_HEAD = 256 * 1024
"""Bytes until the head of an answer is whole, with those of 1xx answers before it. The library bounds each at 100 KiB."""

READ_UNIT = 4096
"""Bytes that are read at once until then, at most."""

_CONNECTED = (".connect_tcp.complete", ".start_tls.complete")


class _Head:
    """The head that a task waits for."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.left = MAX_HEAD


# A request is written and its head is read in the task that asks.
_awaited: ContextVar[_Head | None] = ContextVar("_awaited", default=None)


@contextmanager
def awaiting_head(where: str) -> Iterator[None]:
    """Send a request within this block, and read as far as the end of its answer's head; the body is read after it.

    The request must have ``watch`` as its extension ``trace``.

    Args:
        where: the URL, for messages.

    Raises:
        HttpSourceError: in the block, when no head has come in ``MAX_HEAD`` bytes.
    """
    token = _awaited.set(_Head(where))
    try:
        yield
    finally:
        _awaited.reset(token)


async def watch(event: str, info: dict[str, Any]) -> None:
    """For the HTTP library to call: every new connection is read by the rules of this module."""
    if event.endswith(_CONNECTED):
        _keep_rules(info["return_value"])


def _keep_rules(stream: AsyncNetworkStream) -> None:
    read_all = stream.read

    async def read(max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # the library's signature
        head = _awaited.get()
        if head is None:
            return await read_all(max_bytes, timeout)
        if not head.left:
            raise HttpSourceError(
                f"{head.where}: no head of an answer in {MAX_HEAD} bytes",
                hint="the server there does not speak HTTP as it should",
            )
        data = await read_all(min(max_bytes, READ_UNIT, head.left), timeout)
        head.left -= len(data)
        return data

    stream.read = read  # type: ignore[method-assign]  # of this one connection
