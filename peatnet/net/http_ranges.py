"""Fetching the rest of a file as ranges, a few at once, written in order.

Each worker fetches one segment at a time over its own connection, and goes on in the middle of it after a break. A
server that turns parallel requests away (429, 503), or breaks one again and again, is left with one worker fewer,
whose segment the others finish; what the last one meets decides. Workers that have left do not come back in this run:
the server has said what it can bear.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import trio

from peatnet.errors import HttpSourceError, LocalProtocolError, PeatnetError
from peatnet.log import get_logger
from peatnet.net import http_checks as checks
from peatnet.net.http_client import HttpClient, HttpSettings, Transient
from peatnet.net.http_window import Window

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx

    from peatnet.net.http_sink import Sink
    from peatnet.net.http_window import Segment

    Pace: TypeAlias = Callable[[], Awaitable[None]]
    # A response that has a body to be read, and its URL for messages.
    _Answer: TypeAlias = tuple[httpx.Response, str]

# Buffers beyond one for each connection: so many segments may be done while an earlier one is still coming.
_SPARE = 2

log = get_logger(__name__)


class Changed(Exception):
    """The server no longer gives ranges of the file that was begun.

    Args:
        where: the URL, for messages.
    """

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


class ParallelRanges:
    """Fetches what is missing of a file; made for one run, before its first request.

    Args:
        client: for the file's URL.
        sink: where the bytes go; says where to begin.
        progress: called with the bytes that are there, on disk or in memory.
        pace: waited for before each unit.
        connections: requests at once.
        segment: bytes in each.
        unit: bytes received, and written, at a time.
        settings: retries.
    """

    def __init__(
        self,
        client: HttpClient,
        sink: Sink,
        progress: Callable[[int], None],
        pace: Pace,
        *,
        connections: int,
        segment: int,
        unit: int,
        settings: HttpSettings,
    ) -> None:
        self._client = client
        self._sink = sink
        self._progress = progress
        self._pace = pace
        self._workers = connections
        self._unit = unit
        self._settings = settings
        self._size = sink.loose.size
        self._window = Window(
            sink.loose.received, self._size, segment=segment, buffers=connections + _SPARE
        )
        first = self._window.begin()
        if first is None:
            raise LocalProtocolError("nothing is missing")
        self._first = first
        self._validator: str | None = None
        self._failure: Exception | None = None

    @property
    def first(self) -> tuple[int, int]:
        """The range to ask for first: its first byte, and one past its last."""
        return self._first.start, self._first.end

    async def run(self, response: httpx.Response, where: str, validator: str | None) -> None:
        """Fetch everything, beginning with the answer to the request for ``first``.

        Cancellation: what is there without a gap is kept.

        Args:
            response: a 206, its head checked.
            where: its URL, for messages.
            validator: what every answer must match, for If-Range.

        Raises:
            Changed: another file than at the beginning, or no ranges any more.
            HttpSourceError: the server refuses, sends something else, or failed too often in a row.
            DiskFull, StorageError: from the disk.
        """
        self._validator = validator
        try:
            async with trio.open_nursery() as nursery:

                async def ending(task: Callable[[], Awaitable[None]]) -> None:
                    """The first failure of a task ends them all."""
                    try:
                        await task()
                    except (PeatnetError, Changed) as exc:
                        self._failure = self._failure or exc
                        nursery.cancel_scope.cancel()

                nursery.start_soon(ending, self._write)
                nursery.start_soon(ending, partial(self._work, self._first, (response, where)))
                for _ in range(self._workers - 1):
                    nursery.start_soon(ending, self._work)
        finally:
            if self._failure is None or isinstance(self._failure, HttpSourceError):
                with trio.CancelScope(shield=True):
                    while view := self._window.ready(1):
                        await self._append(view)
        if self._failure is not None:
            raise self._failure

    async def _write(self) -> None:
        while view := await self._window.wait_ready(self._unit):
            await self._append(view)

    async def _append(self, view: memoryview) -> None:
        await self._sink.append(view)
        self._window.left(len(view))

    async def _work(self, segment: Segment | None = None, answer: _Answer | None = None) -> None:
        """Fetch segment after segment, beginning with one and an answer for it that may be there already."""
        segment = segment or await self._window.next()
        while segment is not None and await self._fetch(segment, answer):
            segment, answer = await self._window.next(), None
        if segment is None:
            self._workers -= 1

    async def _fetch(self, segment: Segment, answer: _Answer | None) -> bool:
        """Fetch a segment, with retries; False when it was left to the other workers."""
        attempt = 0
        while not segment.full:
            before = segment.filled
            try:
                if answer is None:
                    await self._request(segment)
                else:
                    await self._read(segment, *answer)
            except Transient as exc:
                attempt = 1 if segment.filled > before else attempt + 1
                worn_out = attempt >= self._settings.attempts
                if self._workers > 1 and (exc.refused or worn_out):
                    self._workers -= 1
                    self._window.give_up(segment)
                    log.info(
                        "going on with fewer HTTP connections",
                        connections=self._workers,
                        reason=exc.message,
                    )
                    return False
                if worn_out:
                    raise exc.final(attempt) from exc
                await trio.sleep(self._settings.wait(attempt, exc.wait))
            answer = None
        return True

    async def _request(self, segment: Segment) -> None:
        """Ask for what is missing of a segment, and read it."""
        headers = {"Range": f"bytes={segment.position}-{segment.end - 1}"}
        if self._validator is not None:
            headers["If-Range"] = self._validator
        async with self._client.get(headers) as (response, where):
            if response.status_code == 416:
                raise checks.too_short(where, response.headers, self._size)
            if response.status_code == 200:
                checks.check_length(where, response.headers, self._size)
                raise Changed(where)
            checks.check_range(
                where, response.headers, start=segment.position, end=segment.end, size=self._size
            )
            if checks.is_another_version(self._validator, response.headers):
                raise Changed(where)
            await self._read(segment, response, where)

    async def _read(self, segment: Segment, response: httpx.Response, where: str) -> None:
        body = self._client.body(response, where, segment.end - segment.position)
        try:
            while not segment.full:
                view = segment.view[segment.filled :][: self._unit]
                await self._pace()
                await body.read_into(view)
                if segment.position + len(view) == segment.end:
                    await body.expect_end()
                self._window.grown(segment, len(view))
                self._progress(self._window.received)
        finally:
            await body.aclose()
