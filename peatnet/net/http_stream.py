"""An HTTP server without ranges: one stream, read in order from the start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from peatnet.errors import HttpSourceError, IntegrityError
from peatnet.net import http_checks as checks
from peatnet.net.http_client import HttpClient, HttpSettings, Transient

if TYPE_CHECKING:
    import httpx

    from peatnet.transfer.source import SourceLink

# How many chunks ahead of an ordered stream are offered to the swarm.
STREAM_WINDOW = 4


class WrongBytes(HttpSourceError):
    """What the server sent is not what the chunk table says."""


class OrderedStream:
    """A server that can only send the whole file, from the start.

    Args:
        client: for the file's URL.
        link: of the download.
        settings: retries.
    """

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
        """Whether an answer without ranges was ever read from."""

    async def run(self) -> None:
        """Read the file, again from the start when it breaks off, until cancelled.

        Raises:
            HttpSourceError: the server refuses, sends something else, or failed too often in a row.
            DiskFull, StorageError: from ``link.write``.
        """
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
        """Read the whole file from an answer that is there already, its length checked.

        Raises:
            Transient: it broke off; ``run`` goes on.
            HttpSourceError, DiskFull, StorageError: as ``run``.
        """
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
        body = self._client.body(response, where, table.size)
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
                await deliver(self._link, index, view, where)
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


async def deliver(link: SourceLink, index: int, view: memoryview, where: str) -> None:
    """Write a chunk and report it.

    Raises:
        WrongBytes: it is not what the table says; the link was told.
        DiskFull, StorageError: from ``link.write``.
    """
    try:
        await trio.to_thread.run_sync(link.write, index, view)
    except IntegrityError as exc:
        link.corrupt(index)
        raise WrongBytes(
            f"{where}: chunk {index} is not what the manifest says",
            hint="the file there is not the one that the manifest describes",
        ) from exc
    link.arrived(index)
