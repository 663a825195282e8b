"""Where a fetch without a chunk table writes: at the end of what is there, made durable now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from peatnet.blobs import LoosePartial

# The longest time for which received bytes may not be on disk, and the most of them.
_FLUSH_SECONDS = 5.0
_FLUSH_BYTES = 256 * 1024 * 1024


class Sink:
    """Appends to a loose partial, in worker threads; for one task at a time.

    Cancellation: a call that has begun ends first.

    Args:
        loose: the file.
    """

    def __init__(self, loose: LoosePartial) -> None:
        self.loose = loose
        self._flushed = loose.received
        self._flushed_at = time.monotonic()

    async def append(self, view: memoryview) -> None:
        """Write bytes behind those that are there.

        Raises:
            DiskFull, StorageError: from the disk.
        """
        await trio.to_thread.run_sync(self._append, view)

    async def start_anew(self, note: str) -> None:
        """Throw away what is there, and keep ``note``, the validator of what will come ("" for none).

        Raises:
            StorageError: from the disk.
        """
        await trio.to_thread.run_sync(self._start_anew, note)

    async def flush(self) -> None:
        """Make everything durable.

        Raises:
            StorageError: from the disk.
        """
        await trio.to_thread.run_sync(self.loose.flush)

    def _append(self, view: memoryview) -> None:
        loose = self.loose
        loose.write_at(loose.received, view)
        now = time.monotonic()
        if (
            loose.received - self._flushed >= _FLUSH_BYTES
            or now - self._flushed_at >= _FLUSH_SECONDS
        ):
            loose.flush()
            self._flushed, self._flushed_at = loose.received, now

    def _start_anew(self, note: str) -> None:
        if self.loose.received:
            self.loose.restart()
        self.loose.note = note
        self._flushed = 0
