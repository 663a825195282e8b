"""What runs behind a download, off the path of a chunk: making it durable, hashing the whole.

Both are told of each new chunk by a plain method call that adds two numbers; the work is done in worker threads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from peatnet.errors import PeatnetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.blobs import PartialBlob, WholeHasher
    from peatnet.transfer.settings import DownloadSettings

# Where bytes come slowly, the whole is hashed up to them in smaller steps, not more often than this, in seconds: what is
# not hashed when the last chunk comes, the end waits for.
_WORTH_A_LOOK: Final = 2 * 1024 * 1024
_LOOK_EVERY: Final = 0.25


class Flusher:
    """Flushes a partial every so many bytes or seconds, whichever comes first.

    Args:
        partial: what is flushed.
        settings: how often.
        on_error: called with DiskFull or StorageError when a flush fails; the flusher then ends.
    """

    def __init__(
        self,
        partial: PartialBlob,
        settings: DownloadSettings,
        on_error: Callable[[PeatnetError], None],
    ) -> None:
        self._partial = partial
        self._settings = settings
        self._on_error = on_error
        self._fresh = 0
        self._dirty = trio.Event()
        self._due = trio.Event()

    def note(self, count: int) -> None:
        """``count`` more bytes are in the file."""
        if not self._fresh:
            self._dirty.set()
        self._fresh += count
        if self._fresh >= self._settings.flush_bytes:
            self._due.set()

    async def run(self) -> None:
        """Flush until cancelled; a flush under way is always finished. The last flush is the caller's."""
        while True:
            await self._dirty.wait()
            with trio.move_on_after(self._settings.flush_interval):
                await self._due.wait()
            # Chunks that come during the flush start the next round.
            self._fresh = 0
            self._dirty, self._due = trio.Event(), trio.Event()
            try:
                await trio.to_thread.run_sync(self._partial.flush)
            except PeatnetError as exc:
                self._on_error(exc)
                return


class Follower:
    """Hashes the whole blob in order, as far as it is there, while the rest still comes in.

    Args:
        hasher: what hashes; used by one thread at a time.
        step: most bytes in one call, and new bytes after which it looks in any case whether it can go on.
        on_error: called with the StorageError when reading fails; the follower then ends.
    """

    def __init__(
        self, hasher: WholeHasher, step: int, on_error: Callable[[PeatnetError], None]
    ) -> None:
        self._hasher = hasher
        self._step = step
        self._on_error = on_error
        self._fresh = 0
        self._look = trio.Event()
        self._looked_at = -math.inf

    def note(self, count: int) -> None:
        """``count`` more bytes are in the file."""
        self._fresh += count
        if self._fresh >= self._step or (
            self._fresh >= _WORTH_A_LOOK and trio.current_time() >= self._looked_at + _LOOK_EVERY
        ):
            self._fresh = 0
            self._looked_at = trio.current_time()
            self._look.set()

    async def run(self) -> None:
        """Follow until cancelled; a call under way is always finished."""
        try:
            while True:
                while await self._advance() >= self._step:
                    pass
                await self._look.wait()
                self._look = trio.Event()
        except PeatnetError as exc:
            self._on_error(exc)

    async def finish(self) -> None:
        """Hash what is left of a complete file; not while ``run`` runs.

        Raises:
            StorageError: reading failed.
        """
        while not self._hasher.done:
            await self._advance()

    async def _advance(self) -> int:
        before = self._hasher.position
        return await trio.to_thread.run_sync(self._hasher.advance, self._step) - before
