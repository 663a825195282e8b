"""Hashing a file in one pass: BLAKE3 of the whole, BLAKE3 of each chunk, SHA-256.

SHA-256 is by far the slowest (1.3 GB/s a core where BLAKE3 does 5), so it runs in a thread of its own
beside everything else, over the same few buffers: hashers release the GIL, and a pass then takes
about as long as bare SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from blake3 import blake3

from peatnet.blobs.buffers import borrowed
from peatnet.blobs.hashes import Hash
from peatnet.blobs.oserrors import os_errors
from peatnet.blobs.table import ChunkTable, pick_chunk_size
from peatnet.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

Progress: TypeAlias = "Callable[[int], None]"
Sink: TypeAlias = "Callable[[memoryview], object]"
# What gives room for the next piece, and what gives that piece to the sinks.
_Feeding: TypeAlias = "tuple[Callable[[], memoryview], Callable[[memoryview], None]]"

# What several sinks may have before them, in buffers.
_RING = 4
# In bytes: with less to hash, threads cost more than they save.
_THREADS_FROM = 256 * 1024


@dataclass(frozen=True, slots=True)
class FileHashes:
    """What one pass over a file found."""

    blake3: Hash
    sha256: str
    """64 lower-case hex digits."""
    table: ChunkTable


class ChunkHasher:
    """BLAKE3 of each chunk of a stream that is fed in pieces of any length."""

    def __init__(self, chunk_size: int) -> None:
        self._chunk_size = chunk_size
        self._digests: list[bytes] = []
        self._current = blake3()
        self._room = chunk_size

    def update(self, data: memoryview) -> None:
        """Take the next bytes of the stream."""
        position = 0
        while position < len(data):
            piece = data[position : position + self._room]
            self._current.update(piece)
            position += len(piece)
            self._room -= len(piece)
            if self._room == 0:
                self._close_chunk()

    def digests(self) -> bytes:
        """The digests of all chunks, one after the other; ends the stream."""
        if self._room < self._chunk_size:
            self._close_chunk()
        return b"".join(self._digests)

    def _close_chunk(self) -> None:
        self._digests.append(self._current.digest())
        self._current.reset()
        self._room = self._chunk_size


class OnePass:
    """The three hashes of one stream; its sinks may run in different threads, each in order."""

    def __init__(self, chunk_size: int) -> None:
        self._chunk_size = chunk_size
        self._whole = blake3()
        self._chunks = ChunkHasher(chunk_size)
        self._sha256 = hashlib.sha256()

    @property
    def sinks(self) -> Sequence[Sink]:
        """Where the bytes go: one call for SHA-256, one for both kinds of BLAKE3."""
        return (self._sha256.update, self._blake3)

    def finish(self, size: int) -> FileHashes:
        """The result, once ``size`` bytes have gone through every sink."""
        return FileHashes(
            blake3=Hash(self._whole.digest()),
            sha256=self._sha256.hexdigest(),
            table=ChunkTable(size, self._chunk_size, self._chunks.digests()),
        )

    def _blake3(self, data: memoryview) -> None:
        self._chunks.update(data)
        self._whole.update(data)


def pump(
    fd: int,
    start: int,
    end: int,
    sinks: Sequence[Sink],
    *,
    tee: Callable[[memoryview, int], None] | None = None,
    progress: Progress | None = None,
    side_by_side: bool = True,
) -> int:
    """Read ``fd`` from ``start`` to ``end`` once and give every byte to every sink, in order.

    Several sinks run in a thread each, where that is wanted and there is enough to hash, else in this thread; memory is
    four buffers at most, whatever the length.

    Args:
        fd: where to read from; the file's own position is not used.
        start: first offset, in bytes.
        end: offset after the last byte.
        sinks: called with consecutive pieces; must not keep them.
        tee: called in this thread with each piece and its offset, as a copy does to write it.
        progress: called in this thread with the bytes read so far, counted from ``start``. What it
            raises ends the pass and comes out of here.
        side_by_side: whether the pass is to be over as soon as can be. Two thirds more CPU time where there is little
            to hash, a third where there is much.

    Returns:
        The offset that was reached: less than ``end`` when the file ends before it.

    Raises:
        OSError: reading failed.
    """
    alone = not side_by_side or len(sinks) == 1 or end - start < _THREADS_FROM
    offset = start
    with _in_turn(sinks) if alone else _side_by_side(sinks) as (room, give):
        while offset < end:
            view = room()[: end - offset]
            got = os.preadv(fd, [view], offset)
            if got == 0:
                break
            view = view[:got]
            give(view)
            if tee is not None:
                tee(view, offset)
            offset += got
            if progress is not None:
                progress(offset - start)
    return offset


@contextmanager
def _in_turn(sinks: Sequence[Sink]) -> Iterator[_Feeding]:
    """The sinks run in the reading thread. A buffer at a time: for each piece the thread waits for the interpreter twice."""
    with borrowed(1) as buffers:
        buffer = memoryview(buffers[0])

        def give(view: memoryview) -> None:
            for sink in sinks:
                sink(view)

        yield lambda: buffer, give


@contextmanager
def _side_by_side(sinks: Sequence[Sink]) -> Iterator[_Feeding]:
    """Each sink runs in a thread of its own, which keeps its pieces in order, while the next one is read."""
    # The buffers are entered first, so left last: no thread touches one that is back in the pool.
    with borrowed(_RING) as buffers, ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1, "hash")) for _ in sinks]
        slots = deque((memoryview(buffer), list[Future[object]]()) for buffer in buffers)

        def room() -> memoryview:
            slots.rotate(-1)
            buffer, pending = slots[0]
            while pending:
                pending.pop().result()
            return buffer

        def give(view: memoryview) -> None:
            pending = slots[0][1]
            for thread, sink in zip(threads, sinks, strict=True):
                pending.append(thread.submit(sink, view))

        yield room, give
        for _ in buffers:
            room()


def open_regular(path: Path) -> int:
    """Open a regular file that is not empty, for reading; follows symbolic links.

    Raises:
        UsageError: it is empty, or not a regular file.
        StorageError: it cannot be opened.
    """
    with os_errors("opening", path):
        # O_NONBLOCK: a FIFO must be refused, not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return fd
    os.close(fd)
    kind = "is empty" if stat.S_ISREG(status.st_mode) else "is not a regular file"
    raise UsageError(f"{path} {kind}", hint="give the path of a model file")


def hash_file(
    path: str | PathLike[str],
    *,
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> FileHashes:
    """All three hashes of a file, in one pass.

    Args:
        path: of a regular file that is not empty.
        chunk_size: in bytes; None picks one by the file's size, see `pick_chunk_size`.
        progress: called with the bytes done so far, in this thread; may raise to stop.

    Raises:
        UsageError: the file or the chunk size cannot be used.
        IntegrityError: the file changed meanwhile.
        StorageError: it cannot be read.
    """
    path = Path(path)
    fd = open_regular(path)
    try:
        return hash_fd(fd, path, chunk_size=chunk_size, progress=progress)
    finally:
        os.close(fd)


def hash_fd(
    fd: int,
    path: Path,
    *,
    chunk_size: int | None = None,
    tee: Callable[[memoryview, int], None] | None = None,
    progress: Progress | None = None,
) -> FileHashes:
    """Like `hash_file`, for an open file; ``path`` is for messages, ``tee`` as in `pump`."""
    before = os.fstat(fd)
    hasher = OnePass(pick_chunk_size(before.st_size, chunk_size))
    with os_errors("reading", path):
        reached = pump(fd, 0, before.st_size, hasher.sinks, tee=tee, progress=progress)
    after = os.fstat(fd)
    if reached != before.st_size or _identity(after) != _identity(before):
        raise IntegrityError(
            f"{path} changed while it was being read", hint="wait until it is written, then retry"
        )
    return hasher.finish(before.st_size)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
