"""An HTTP server as a source of chunks: the manifest's ``download_url``.

Nothing is sent before the engine wants a chunk. The first chunk is asked for with a Range header; the answer says
what the server can do:

* 206: ranges work. A few connections each fetch one chunk at a time. If-Range with the server's validator makes sure
  that all of them see the same file; when it changes midway, the new one is taken, and the chunk hashes decide.
* 200: no ranges. One stream is read in order from the start. The source then says that it has only the few chunks
  just ahead of the stream, so that the swarm asks for what can come soon; chunks that pass by and are still missing are
  kept, asked for or not. While nothing ahead is wanted, the stream pauses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import trio

from peatnet.errors import HttpSourceError, UsageError
from peatnet.net import http_checks as checks
from peatnet.net.http_client import HttpClient, HttpSettings, Transient
from peatnet.net.http_stream import STREAM_WINDOW, OrderedStream, WrongBytes, deliver
from peatnet.swarm import Tier

if TYPE_CHECKING:
    from peatnet.blobs import ChunkTable, Hash
    from peatnet.transfer.source import SourceLink

MAX_CONNECTIONS = 16
# After so many refused validators we stop sending them: some servers never take one back. The chunk hashes
# are what proves the bytes; If-Range only notices a change sooner.
MAX_CHANGES = 3

# What became of one try to fetch a chunk.
_Outcome = Literal["done", "cancelled", "changed", "streamed"]


class HttpSource:
    """A file on an HTTP server, as a source of chunks.

    Args:
        url: where the file is; http or https.
        size: the whole file's size in bytes, from the manifest. A server that says otherwise is refused.
        chunk_size: bytes in a chunk.
        connections: requests at once where the server allows ranges.
        settings: time limits and retries.

    Attributes:
        contradicted: set when the server sent something else than the chunk table says, and is used no longer.

    Raises:
        HttpSourceError: the URL cannot be used.
        UsageError: a number is out of range.
    """

    tier = Tier.HTTP

    def __init__(
        self,
        url: str,
        *,
        size: int,
        chunk_size: int,
        connections: int = 4,
        settings: HttpSettings | None = None,
    ) -> None:
        if not 1 <= connections <= MAX_CONNECTIONS:
            raise UsageError(f"{connections} HTTP connections: 1 to {MAX_CONNECTIONS} are possible")
        if size < 1 or chunk_size < 1:
            raise UsageError(f"a file of {size} bytes in chunks of {chunk_size} cannot be fetched")
        parsed = checks.parse_url(url)
        self.name = f"http:{parsed.netloc.decode('ascii')}"
        self.pipeline = max(connections, STREAM_WINDOW)
        self.contradicted = trio.Event()
        self._url = url
        self._size = size
        self._chunk_size = chunk_size
        self._connections = connections
        self._settings = settings or HttpSettings()

    async def table(self, hash: Hash) -> ChunkTable | None:  # noqa: A002 - as in the Source protocol
        """An HTTP server has no chunk tables: always None."""
        del hash
        await trio.lowlevel.checkpoint()
        return None

    async def run(self, link: SourceLink) -> None:
        """Fetch what the engine asks for, until cancelled.

        Cancellation: open connections are closed; chunks not yet complete are forgotten.

        Raises:
            HttpSourceError: the server refuses, sends something else, or failed too often in a row.
            DiskFull, StorageError: from ``link.write``.
        """
        if link.table.size != self._size or link.table.chunk_size != self._chunk_size:
            raise UsageError(f"{self.name}: made for a blob of another size or chunk size")
        try:
            await self._fetch(link)
        except BaseExceptionGroup as group:
            if group.subgroup(WrongBytes) is not None:
                self.contradicted.set()
            raise
        except WrongBytes:
            self.contradicted.set()
            raise

    async def _fetch(self, link: SourceLink) -> None:
        async with HttpClient(
            self._url, connections=self._connections, settings=self._settings
        ) as client:
            link.has(None)
            ranges = _Ranges(client, link, self._settings)
            if await ranges.probe():
                async with trio.open_nursery() as nursery:
                    for _ in range(self._connections):
                        nursery.start_soon(ranges.work)
            else:
                await ranges.stream.run()


class _Ranges:
    """A server that gives ranges, as far as we know."""

    def __init__(self, client: HttpClient, link: SourceLink, settings: HttpSettings) -> None:
        self._client = client
        self._link = link
        self._settings = settings
        self._validator: str | None = None
        self._changes = 0
        self._proven = False  # ranges were given
        self.stream = OrderedStream(client, link, settings)

    async def probe(self) -> bool:
        """Fetch the first chunk that is wanted; False when the server gives no ranges.

        In that case the answer was the whole file, and has been read as far as it was wanted.
        """
        buffer = memoryview(bytearray(self._link.table.chunk_size))
        while True:
            index = await self._link.next_request()
            outcome = await self._fetch(index, buffer)
            if outcome != "cancelled":
                return outcome == "done"

    async def work(self) -> None:
        """Fetch chunk after chunk over one connection."""
        buffer = memoryview(bytearray(self._link.table.chunk_size))
        while True:
            await self._fetch(await self._link.next_request(), buffer)

    async def _fetch(self, index: int, buffer: memoryview) -> _Outcome:
        """Fetch one chunk, with retries; "changed" never comes out of here."""
        attempt = 0
        while not self._link.cancelled(index):
            try:
                outcome = await self._try(index, buffer)
            except Transient as exc:
                attempt += 1
                if attempt >= self._settings.attempts:
                    raise exc.final(attempt) from exc
                await trio.sleep(self._settings.wait(attempt, exc.wait))
                if self.stream.started:
                    return "streamed"
            else:
                if outcome != "changed":
                    return outcome
        return "cancelled"

    async def _try(self, index: int, buffer: memoryview) -> _Outcome:
        table = self._link.table
        start, length = table.offset_of(index), table.length_of(index)
        view = buffer[:length]
        headers = {"Range": f"bytes={start}-{start + length - 1}"}
        conditional = self._validator
        if conditional is not None:
            headers["If-Range"] = conditional
        async with self._client.get(headers) as (response, where):
            if response.status_code == 416:
                raise checks.too_short(where, response.headers, table.size)
            if response.status_code == 200:
                # What it is now, not what it was; or the server knows no ranges at all.
                checks.check_length(where, response.headers, table.size)
                if conditional is None:
                    if self._proven:
                        raise HttpSourceError(f"{where}: the server stopped giving ranges")
                    await self.stream.read(response, where)
                    return "streamed"
                if self._validator == conditional:
                    self._validator = None
                    self._changes += 1
                return "changed"
            checks.check_range(
                where, response.headers, start=start, end=start + length, size=table.size
            )
            self._proven = True
            body = self._client.body(response, where, length)
            try:
                if not await body.read_into(view, lambda: self._link.cancelled(index)):
                    return "cancelled"
                await body.expect_end()
            finally:
                await body.aclose()
            if self._validator is None and self._changes < MAX_CHANGES:
                self._validator = checks.validator(response.headers)
        await deliver(self._link, index, view, where)
        return "done"
