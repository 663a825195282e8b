"""Fetching a file from its download_url without a chunk table: it can be verified only as a whole, at its end."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from peatnet.concurrency import cancellable
from peatnet.transfer import RateMeter
from peatnet.transfer.budget import Pacer
from peatnet.views import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.blobs import BlobInfo, Hash, Store
    from peatnet.transfer.budget import DownloadBudget

HTTP_CONNECTIONS = 4
# What is read, and counted by the budget, at a time.
UNIT = 256 * 1024


class LooseFetch:
    """One such fetch. Made once, run once.

    Args:
        url: where the file is.
        name: the blob's hash, or its SHA-256 where that is all that is known.
        size: its bytes.
        sha256: what it must have, in hex; None where that is not known.
        blob: its hash, where that is known.
        store: where it goes.
        progress: how far the fetch is that this is a part of.
        tell: called with each new progress.
    """

    def __init__(
        self,
        url: str,
        name: Hash,
        size: int,
        *,
        sha256: str | None,
        blob: Hash | None,
        store: Store,
        progress: Progress,
        tell: Callable[[Progress], None],
    ) -> None:
        self._url = url
        self._name = name
        self._size = size
        self._sha256 = sha256
        self._blob = blob
        self._store = store
        self._progress = progress
        self._tell = tell
        self._meter = RateMeter(trio.current_time())
        self._received = self._earlier = 0
        self._source = ""

    async def run(self, budget: DownloadBudget | None, priority: int) -> BlobInfo:
        """Fetch and verify.

        Cancellation: what is here stays, and a later fetch goes on from it.

        Raises:
            HttpSourceError: the server failed.
            IntegrityError: the bytes contradict the manifest.
            DiskFull, StorageError: from the store.
        """
        from peatnet.net.http_loose import fetch_loose  # noqa: PLC0415  # httpx takes long to import
        from peatnet.net.http_source import HttpSource  # noqa: PLC0415  # httpx takes long to import

        store, size = self._store, self._size
        self._source = HttpSource(self._url, size=size, chunk_size=size).name
        loose = await trio.to_thread.run_sync(store.start_loose, self._name, size)
        self._earlier = self._received = loose.received
        self._note(loose.received)
        try:
            with Pacer(budget, priority, UNIT) as pacer:
                await fetch_loose(
                    self._url,
                    loose,
                    size=size,
                    connections=HTTP_CONNECTIONS,
                    progress=self._note,
                    pace=pacer.wait,
                )
            adopt = partial(
                store.adopt_loose,
                loose,
                expect_sha256=self._sha256,
                expect_blob_hash=self._blob,
                progress=cancellable(),
            )
            info = await trio.to_thread.run_sync(adopt)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(loose.close)
        sources = self._progress.bytes_by_source
        self._tell(Progress(info.size, info.size, 0.0, 0.0, sources, received_bytes=info.size))
        return info

    def _note(self, received: int) -> None:
        # Not verified: that comes at the end, for the whole at once. Never shown as verified.
        if received < self._received:
            self._earlier = 0  # the server's file has changed, and is fetched anew
        self._meter.add(max(0, received - self._received))
        self._received = received
        rate = self._meter.rate(trio.current_time())
        self._progress = replace(
            self._progress,
            received_bytes=max(received, self._progress.received_bytes),
            rate=rate,
            eta_s=(self._size - received) / rate if rate > 0 else None,
            bytes_by_source={self._source: received - self._earlier},
        )
        self._tell(self._progress)
