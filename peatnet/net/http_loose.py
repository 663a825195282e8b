"""Fetching a file of which there is no chunk table: verified only when it is complete.

The first request asks for a range, and its answer decides: after a 206 the rest comes as ranges, a few at once; a 200 is
the whole file, and is read as one stream. Either way the file grows from its beginning, and is resumed with Range and
If-Range (RFC 9110 13.1.5). What is here when it ends proves nothing; the store hashes it before anybody may use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from peatnet.errors import HttpSourceError
from peatnet.net import http_checks as checks
from peatnet.net.http_client import HttpClient, HttpSettings, Transient
from peatnet.net.http_ranges import Changed, ParallelRanges
from peatnet.net.http_sink import Sink

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from peatnet.blobs import LoosePartial
    from peatnet.net.http_ranges import Pace

# Bytes in a request, where ranges are given: large beside what a round trip costs.
SEGMENT = 4 * 1024 * 1024
# Received and written at once; the most that a break loses.
_UNIT = 256 * 1024
# So often ranges are tried; some servers never take their own validator back, and the stream needs none.
_RANGE_TRIES = 2
# After so many changes the file is never going to stand still.
_MAX_CHANGES = 4
_DEFAULTS = HttpSettings()


async def fetch_loose(
    url: str,
    loose: LoosePartial,
    *,
    size: int,
    progress: Callable[[int], None] | None = None,
    pace: Pace | None = None,
    connections: int = 4,
    segment: int = SEGMENT,
    settings: HttpSettings = _DEFAULTS,
) -> None:
    """Fetch what is missing of a file.

    Memory: a segment for each connection, and two more.

    Cancellation: what has come without a gap is kept, and a later call goes on from there.

    Args:
        url: where the file is; http or https.
        loose: where the bytes go.
        size: the whole file's size in bytes, from the manifest; nothing beyond it is taken.
        progress: called with the bytes that are there, on disk or in memory, not verified. Falls back to 0 when the
            file has changed on the server, or the server gives no ranges, and it is fetched anew.
        pace: waited for before each 256 KiB that are read, over any connection.
        connections: requests at once, where the server gives ranges.
        segment: bytes in each of them.
        settings: time limits and retries.

    Raises:
        HttpSourceError: the server refuses, sends something else, or failed too often in a row.
        DiskFull, StorageError: from the disk.
    """
    if loose.size != size:
        raise HttpSourceError(f"a partial file for {loose.size} bytes, the manifest says {size}")
    async with HttpClient(url, connections=connections, settings=settings) as client:
        fetch = _Fetch(
            client, loose, progress or _silent, pace or _no_wait, connections, segment, settings
        )
        try:
            await fetch.run()
        finally:
            with trio.CancelScope(shield=True):
                await fetch.sink.flush()


class _Fetch:
    def __init__(
        self,
        client: HttpClient,
        loose: LoosePartial,
        progress: Callable[[int], None],
        pace: Pace,
        connections: int,
        segment: int,
        settings: HttpSettings,
    ) -> None:
        self.sink = Sink(loose)
        self._client = client
        self._loose = loose
        self._progress = progress
        self._pace = pace
        self._connections = connections
        self._segment = segment
        self._settings = settings
        self._changes = 0

    async def run(self) -> None:
        """Fetch until the file is complete."""
        loose, settings = self._loose, self._settings
        attempt = 0
        while not loose.complete:
            before = loose.received
            try:
                if self._changes < _RANGE_TRIES:
                    await self._by_ranges()
                else:
                    await self._by_stream()
            except Changed as exc:
                await self._start_over(exc)
            except Transient as exc:
                attempt = 1 if loose.received > before else attempt + 1
                if attempt >= settings.attempts:
                    raise exc.final(attempt) from exc
                await trio.sleep(settings.wait(attempt, exc.wait))

    async def _start_over(self, change: Changed) -> None:
        self._changes += 1
        if self._changes > _MAX_CHANGES:
            raise HttpSourceError(
                f"{change.where}: the file there changed {self._changes} times during the download",
                hint="try again when the server's file stands still",
            )
        await self.sink.start_anew("")
        self._progress(0)

    async def _by_ranges(self) -> None:
        """Ask for a range first, and go on with what the answer allows."""
        ranges = ParallelRanges(
            self._client,
            self.sink,
            self._progress,
            self._pace,
            connections=self._connections,
            segment=self._segment,
            unit=min(_UNIT, self._segment),
            settings=self._settings,
        )
        start, end = ranges.first
        async with self._client.get(self._headers(start, end)) as (response, where):
            if response.status_code == 200:
                await self._read_whole(response, where)
                return
            await self._check_part(response, where, start, end)
            validator = self._note(start) or checks.validator(response.headers)
            if not start:
                await self.sink.start_anew(validator or "")
            await ranges.run(response, where, validator)

    async def _by_stream(self) -> None:
        """One request for all that is missing, read to its end."""
        start, end = self._loose.received, self._loose.size
        headers = self._headers(start, end) if start else {}
        async with self._client.get(headers) as (response, where):
            if response.status_code == 200:
                await self._read_whole(response, where)
                return
            if not start and response.status_code == 206:
                raise HttpSourceError(f"{where}: HTTP 206 to a request for the whole file")
            await self._check_part(response, where, start, end)
            await self._read(response, where)

    def _headers(self, start: int, end: int) -> dict[str, str]:
        headers = {"Range": f"bytes={start}-{end - 1}"}
        # Without a validator two versions could get mixed. The hash of the whole would tell, the file would be
        # thrown away, and the next try would start clean.
        if note := self._note(start):
            headers["If-Range"] = note
        return headers

    def _note(self, start: int) -> str | None:
        """The validator of what is here; None when that is nothing, or it has none."""
        note = self._loose.note if start else ""
        return note if checks.can_be_sent(note) else None

    async def _check_part(self, response: httpx.Response, where: str, start: int, end: int) -> None:
        size = self._loose.size
        if response.status_code == 416:
            raise checks.too_short(where, response.headers, size)
        checks.check_range(where, response.headers, start=start, end=end, size=size)
        if checks.is_another_version(self._note(start), response.headers):
            raise Changed(where)

    async def _read_whole(self, response: httpx.Response, where: str) -> None:
        """Read a 200: the whole file, whatever was asked for and is here."""
        checks.check_length(where, response.headers, self._loose.size)
        await self.sink.start_anew(checks.validator(response.headers) or "")
        self._progress(0)
        await self._read(response, where)

    async def _read(self, response: httpx.Response, where: str) -> None:
        """Read a body that holds all that is missing."""
        loose = self._loose
        buffer = memoryview(bytearray(min(_UNIT, loose.size)))
        body = self._client.body(response, where, loose.size - loose.received)
        try:
            while not loose.complete:
                view = buffer[: min(len(buffer), loose.size - loose.received)]
                await self._pace()
                await body.read_into(view)
                if loose.received + len(view) == loose.size:
                    await body.expect_end()
                await self.sink.append(view)
                self._progress(loose.received)
        finally:
            await body.aclose()


def _silent(_received: int) -> None:
    """No progress is wanted."""


async def _no_wait() -> None:
    """No limit holds."""
