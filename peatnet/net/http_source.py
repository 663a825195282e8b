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

from peatnet.errors import HttpSourceError, IntegrityError, UsageError
from peatnet.net import http_checks as checks
from peatnet.net.http_client import Body, HttpClient, HttpSettings, Transient
from peatnet.swarm import Tier

if TYPE_CHECKING:
    import httpx

    from peatnet.blobs import ChunkTable, Hash
    from peatnet.transfer.source import SourceLink

# How many chunks ahead of an ordered stream are offered to the swarm.
STREAM_WINDOW = 4
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
        self.stream = _Stream(client, link, settings)

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
            body = Body(response, where, length)
            try:
                if not await body.read_into(view, lambda: self._link.cancelled(index)):
                    return "cancelled"
                await body.expect_end()
            finally:
                await body.aclose()
            if self._validator is None and self._changes < MAX_CHANGES:
                self._validator = checks.validator(response.headers)
        await _deliver(self._link, index, view, where)
        return "done"


class _Stream:
    """A server that can only send the whole file, from the start."""

    def __init__(self, client: HttpClient, link: SourceLink, settings: HttpSettings) -> None:
        self._client = client
        self._link = link
        self._settings = settings
        self._buffer = memoryview(bytearray(link.table.chunk_size))
        self._nothing = bytes((link.table.n_chunks + 7) // 8)
        self._missing: list[int] = []  # when this reading began
        self._pending: set[int] = set()  # asked for, and not cancelled or delivered
        self._progress = False
        self.started = False

    async def run(self) -> None:
        """Read the file, again from the start when it breaks off, until cancelled."""
        attempt = 0
        while True:
            self._progress = False
            try:
                await self._pass()
            except Transient as exc:
                attempt = 1 if self._progress else attempt + 1
                if attempt >= self._settings.attempts:
                    raise exc.final(attempt) from exc
                await trio.sleep(self._settings.wait(attempt, exc.wait))
            else:
                # All chunks that were missing have come, or came from elsewhere: the engine ends this soon.
                attempt = 0

    async def _pass(self) -> None:
        """One reading of the file, from its first byte."""
        if not self._offer():
            await self._link.next_request()
            return
        # Nothing is asked of the server before a chunk is wanted from it.
        self._pending.add(await self._link.next_request())
        async with self._client.get({}) as (response, where):
            if response.status_code != 200:
                raise HttpSourceError(
                    f"{where}: HTTP {response.status_code} to a request for the whole file"
                )
            checks.check_length(where, response.headers, self._link.table.size)
            await self._read_through(response, where)

    async def read(self, response: httpx.Response, where: str) -> None:
        """Read the whole file from an answer that is there already, its length checked."""
        self.started = True
        if self._offer():
            await self._read_through(response, where)

    def _offer(self) -> bool:
        """Take back all that was said to be here but the first chunks missing; whether there are any."""
        table = self._link.table
        self._missing = [index for index in range(table.n_chunks) if self._link.wants(index)]
        self._pending.clear()
        self._link.has(self._nothing)
        self._link.gained(self._missing[:STREAM_WINDOW])
        return bool(self._missing)

    async def _read_through(self, response: httpx.Response, where: str) -> None:
        table = self._link.table
        body = Body(response, where, table.size)
        position = 0
        try:
            for rank, index in enumerate(self._missing):
                if not self._link.wants(index):
                    continue
                start, length = table.offset_of(index), table.length_of(index)
                if start - position > STREAM_WINDOW * table.chunk_size:
                    # A long way to go: nothing is to be had from us before we are there.
                    self._link.has(self._nothing)
                    self._pending.clear()
                    await body.skip(start - position)
                    position = start
                self._link.gained(self._missing[rank : rank + STREAM_WINDOW])
                await self._wait_until_wanted()
                await body.skip(start - position)
                view = self._buffer[:length]
                await body.read_into(view)
                position = start + length
                if position == table.size:
                    await body.expect_end()
                self._pending.discard(index)
                await _deliver(self._link, index, view, where)
                self._progress = True
        finally:
            await body.aclose()

    async def _wait_until_wanted(self) -> None:
        """Go on once a chunk ahead is asked for; a stream that nobody wants must not load the server."""
        pending = self._pending
        while True:
            while (index := self._link.poll_request()) is not None:
                pending.add(index)
            for index in [each for each in pending if self._link.cancelled(each)]:
                pending.remove(index)
            if pending:
                return
            pending.add(await self._link.next_request())


async def _deliver(link: SourceLink, index: int, view: memoryview, where: str) -> None:
    try:
        await trio.to_thread.run_sync(link.write, index, view)
    except IntegrityError as exc:
        link.corrupt(index)
        raise HttpSourceError(
            f"{where}: chunk {index} is not what the manifest says",
            hint="the file there is not the one that the manifest describes",
        ) from exc
    link.arrived(index)
