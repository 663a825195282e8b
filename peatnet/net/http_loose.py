"""Fetching a file of which there is no chunk table: one stream, verified only when it is complete.

Resumed with Range and If-Range (RFC 9110 13.1.5). What is here when it ends proves nothing; the store hashes it before
anybody may use it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from peatnet.errors import HttpSourceError
from peatnet.net import http_checks as checks
from peatnet.net.http_client import Body, HttpClient, HttpSettings, Transient

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from peatnet.blobs import LoosePartial

# Written at once; the most that a break or a cancellation loses.
_UNIT = 256 * 1024
# The longest time for which received bytes may not be on disk, and the most of them.
_FLUSH_SECONDS = 5.0
_FLUSH_BYTES = 256 * 1024 * 1024
_DEFAULTS = HttpSettings()


async def fetch_loose(
    url: str,
    loose: LoosePartial,
    *,
    size: int,
    progress: Callable[[int], None] | None = None,
    settings: HttpSettings = _DEFAULTS,
) -> None:
    """Fetch what is missing of a file.

    Cancellation: what has come is kept, and a later call goes on from there.

    Args:
        url: where the file is; http or https.
        loose: where the bytes go.
        size: the whole file's size in bytes, from the manifest; nothing beyond it is taken.
        progress: called with the bytes that are there, not verified. Falls back to 0 when the file has changed on
            the server and is fetched anew.
        settings: time limits and retries.

    Raises:
        HttpSourceError: the server refuses, sends something else, or failed too often in a row.
        DiskFull, StorageError: from the disk.
    """
    if loose.size != size:
        raise HttpSourceError(f"a partial file for {loose.size} bytes, the manifest says {size}")
    async with HttpClient(url, connections=1, settings=settings) as client:
        fetch = _Fetch(client, loose, progress or _silent)
        attempt = 0
        try:
            while not loose.complete:
                before = loose.received
                try:
                    await fetch.once()
                except Transient as exc:
                    attempt = 1 if loose.received > before else attempt + 1
                    if attempt >= settings.attempts:
                        raise exc.final(attempt) from exc
                    await trio.sleep(settings.wait(attempt, exc.wait))
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(loose.flush)


class _Fetch:
    def __init__(
        self, client: HttpClient, loose: LoosePartial, progress: Callable[[int], None]
    ) -> None:
        self._client = client
        self._loose = loose
        self._progress = progress
        self._buffer = memoryview(bytearray(min(_UNIT, loose.size)))
        self._flushed_at = time.monotonic()
        self._flushed = loose.received

    async def once(self) -> None:
        """One request, read to its end."""
        loose = self._loose
        start = loose.received
        headers = {}
        if start:
            headers["Range"] = f"bytes={start}-{loose.size - 1}"
            # Without a validator two versions could get mixed. The hash of the whole would tell, the file would be
            # thrown away, and the next try would start clean.
            if note := loose.note:
                headers["If-Range"] = note
        async with self._client.get(headers) as (response, where):
            await self._prepare(response, where, start)
            body = Body(response, where, loose.size - loose.received)
            try:
                await self._read(body)
            finally:
                await body.aclose()

    async def _prepare(self, response: httpx.Response, where: str, start: int) -> None:
        """Check the answer; start anew where it is the whole file."""
        loose = self._loose
        status = response.status_code
        if status == 416:
            raise checks.too_short(where, response.headers, loose.size)
        if status == 206:
            if not start:
                raise HttpSourceError(f"{where}: HTTP 206 to a request for the whole file")
            checks.check_range(
                where, response.headers, start=start, end=loose.size, size=loose.size
            )
            return
        checks.check_length(where, response.headers, loose.size)
        note = checks.validator(response.headers) or ""
        await trio.to_thread.run_sync(self._start_anew, note)
        self._progress(0)

    def _start_anew(self, note: str) -> None:
        if self._loose.received:
            self._loose.restart()
        self._loose.note = note
        self._flushed = 0

    async def _read(self, body: Body) -> None:
        loose = self._loose
        while not loose.complete:
            view = self._buffer[: min(len(self._buffer), loose.size - loose.received)]
            await body.read_into(view)
            if loose.received + len(view) == loose.size:
                await body.expect_end()
            await trio.to_thread.run_sync(self._write, view)
            self._progress(loose.received)

    def _write(self, view: memoryview) -> None:
        loose = self._loose
        loose.write_at(loose.received, view)
        now = time.monotonic()
        if (
            loose.received - self._flushed >= _FLUSH_BYTES
            or now - self._flushed_at >= _FLUSH_SECONDS
        ):
            loose.flush()
            self._flushed, self._flushed_at = loose.received, now


def _silent(_received: int) -> None:
    """No progress is wanted."""
