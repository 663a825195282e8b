"""A blob that is being filled, chunk by chunk, in any order, by several threads.

What survives: `write` puts a verified chunk into the file; `flush` syncs the data and only then
writes the bitmap that claims it. After a crash neither is taken at its word: every chunk that the
file may hold is hashed again and counts only if it matches the table.
"""

from __future__ import annotations

import errno
import os
import threading
from array import array
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from peatnet.blobs.bitmap import Bitmap
from peatnet.blobs.buffers import borrowed_for
from peatnet.blobs.durable import write_atomic
from peatnet.blobs.oserrors import os_errors
from peatnet.errors import IntegrityError, LocalProtocolError, PeatnetError, StorageError
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Buffer

    from peatnet.blobs.handle import FileHandle
    from peatnet.blobs.hashes import Hash
    from peatnet.blobs.table import ChunkTable

_log = get_logger(__name__)


class PartialBlob:
    """An unfinished blob, open for filling. Made by `Store.start_partial`; thread-safe.

    Closing it, or leaving it as a context manager, flushes it and keeps it for later.
    """

    hash: Hash
    """The blob it is to become."""
    table: ChunkTable
    """What its chunks must be."""
    recovered_bytes: int
    """Bytes that were there, verified, when it was opened."""

    def __init__(
        self,
        blob: Hash,
        table: ChunkTable,
        handle: FileHandle,
        have: Bitmap,
        have_path: Path,
        on_close: Callable[[PartialBlob], None],
        on_gain: Callable[[], None],
    ) -> None:
        self.hash = blob
        self.table = table
        self._handle = handle
        self._have = have
        self._have_path = have_path
        self._on_close = on_close
        self._on_gain = on_gain
        # The chunks that were written since it was opened, in that order, each once.
        self._gained = array("I")
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._flushed_count = -1
        self._sync_failed = False
        self._retired = False
        self._verified = table.bytes_of(have)
        self.recovered_bytes = self._verified

    @property
    def verified_bytes(self) -> int:
        """Bytes that are there and match the table."""
        return self._verified

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return self._have.all()

    def have(self) -> bytes:
        """The bitmap of the chunks that are there, as it is now; lowest bit of a byte first."""
        with self._lock:
            return self._have.to_bytes()

    def mark(self) -> tuple[bytes, int]:
        """The same, and the mark from which `gained` tells what comes after it."""
        with self._lock:
            return self._have.to_bytes(), len(self._gained)

    def gained(self, mark: int, most: int) -> Sequence[int]:
        """The first ``most`` chunks that have come since a mark; the mark after them is as many further on."""
        # An append that is under way in another thread is seen whole or not at all.
        return self._gained[mark : mark + most]

    @property
    def closed(self) -> bool:
        """Whether it takes no more chunks."""
        return self._handle.closed

    def missing(self) -> list[int]:
        """The chunks that are not there, as it is now."""
        with self._lock:
            return list(self._have.iter_missing())

    def has(self, index: int) -> bool:
        """Whether chunk ``index`` is there."""
        return self._have.get(index)

    def write(self, index: int, data: Buffer) -> bool:
        """Check a chunk and put it in its place; no lock is held while hashing or writing.

        Args:
            index: which chunk.
            data: its bytes; not kept.

        Returns:
            True when it is new, False when it was there already (``data`` is not looked at then).

        Raises:
            IntegrityError: the bytes are not this chunk; nothing is written.
            DiskFull: there is no room; what was there stays.
            StorageError: the write failed.
            LocalProtocolError: there is no such chunk, or this is closed.
        """
        if self._have.get(index):
            return False
        if not self.table.matches(index, data):
            raise IntegrityError(f"chunk {index} of {self.hash} is not what the table says")
        # Two threads may write the same chunk at once: both have checked it, the bytes are equal.
        self._handle.write(data, self.table.offset_of(index))
        with self._lock:
            new = self._have.set(index)
            if new:
                self._verified += self.table.length_of(index)
                self._gained.append(index)
        if new:
            self._on_gain()
        return new

    def read_into(self, index: int, buffer: memoryview) -> int:
        """Read chunk ``index`` into the beginning of ``buffer``.

        Returns:
            Its length in bytes.

        Raises:
            LocalProtocolError: it is not there, or the buffer is too small, or this is closed.
            StorageError: reading failed.
        """
        if not self._have.get(index):
            raise LocalProtocolError(f"chunk {index} of {self.hash} is not there yet")
        length = self.table.length_of(index)
        if len(buffer) < length:
            raise LocalProtocolError(f"{len(buffer)} bytes are no room for a chunk of {length}")
        self._handle.read_into(buffer[:length], self.table.offset_of(index))
        return length

    @contextmanager
    def reading(self) -> Iterator[int]:
        """The file's descriptor, for reading by offset; closing waits for the block to end."""
        fd = self._handle.acquire()
        try:
            yield fd
        finally:
            self._handle.release()

    def flush(self) -> None:
        """Make what is there durable: the data first, then the bitmap that claims it.

        The bitmap holds exactly what was written before the sync began. Writers are not held up. Does nothing once it is
        retired.

        Raises:
            DiskFull: there is no room for the bitmap.
            StorageError: the disk failed. After a failed sync nothing in this file can be called
                durable any more, so every later flush fails as well: close it and open it again.
        """
        with self._flush_lock:
            if self._retired:
                return
            with self._lock:
                count, claim = self._have.count, self._have.to_bytes()
            if count == self._flushed_count:
                return
            self.sync(data_only=True)
            write_atomic(self._have_path, claim)
            self._flushed_count = count

    def sync(self, *, data_only: bool) -> None:
        """Sync the file itself, without the bitmap; see `flush` for what a failure means."""
        if self._sync_failed:
            raise StorageError(
                f"an earlier sync of {self.hash} failed", hint="check the disk, then start again"
            )
        try:
            self._handle.sync(data_only=data_only)
        except PeatnetError as exc:
            # The kernel reports a write-back error once and may drop the pages: the next
            # fsync would succeed and mean nothing.
            self._sync_failed = not isinstance(exc, LocalProtocolError)
            raise

    def close(self) -> None:
        """Flush and close; calls under way are waited for. Closing again does nothing.

        Raises:
            DiskFull: the flush found no room; it is closed all the same.
            StorageError: the flush failed; it is closed all the same.
        """
        try:
            if not self._handle.closed:
                self.flush()
        finally:
            self.abandon()

    def retire(self) -> None:
        """Its blob is complete, or it is not wanted: its files go, and no flush may leave a bitmap behind. One under way is waited for."""
        with self._flush_lock:
            self._retired = True

    def abandon(self) -> None:
        """Close without flushing."""
        if self._handle.close():
            self._on_close(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def recover(
    fd: int,
    table: ChunkTable,
    claimed: Bitmap,
    path: Path,
    progress: Callable[[int], None] | None = None,
) -> Bitmap:
    """Which chunks of a file match the table, by hashing every one that may be there.

    A chunk may be there when the bitmap claims it or the file system has data in its place; the
    rest was never written and is not read. One chunk is in memory at a time.

    Args:
        fd: the open file, as long as the blob.
        table: what the chunks must be.
        claimed: what the last bitmap on disk says.
        path: for messages.
        progress: called with the bytes looked at so far; may raise to stop.

    Raises:
        StorageError: the file cannot be read.
    """
    candidates = Bitmap.from_bytes(claimed.to_bytes(), table.n_chunks)
    with os_errors("looking for data in", path):
        for start, end in _data_segments(fd, table.size):
            for index in range(start // table.chunk_size, -(-end // table.chunk_size)):
                candidates.set(index)
    found = Bitmap(table.n_chunks)
    done = lost = 0
    with borrowed_for(table.chunk_size) as buffer, os_errors("reading", path):
        for index in candidates.iter_set():
            view = buffer[: table.length_of(index)]
            if _read_full(fd, view, table.offset_of(index)) and table.matches(index, view):
                found.set(index)
            elif claimed.get(index):
                lost += 1
            done += len(view)
            if progress is not None:
                progress(done)
    if lost:
        _log.warning("chunks lost, to be fetched again", file=str(path), chunks=lost)
    return found


def _read_full(fd: int, view: memoryview, offset: int) -> bool:
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], offset + done)
        if got == 0:
            return False
        done += got
    return True


def _data_segments(fd: int, size: int) -> list[tuple[int, int]]:
    segments = []
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
            position = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                break
            if exc.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                # The file system cannot tell: everything may be data.
                return [(0, size)]
            raise
        segments.append((start, min(position, size)))
    return segments
