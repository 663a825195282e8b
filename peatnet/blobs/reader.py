"""Reading chunks to serve them, from a complete blob or from one that is being filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from peatnet.blobs.bitmap import Bitmap
from peatnet.errors import LocalProtocolError, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peatnet.blobs.handle import FileHandle
    from peatnet.blobs.hashes import Hash
    from peatnet.blobs.partial import PartialBlob
    from peatnet.blobs.table import ChunkTable


class Seen:
    """Which chunks of a complete blob this process has seen to be right, as long as nobody writes to the file.

    Attributes:
        written_at: when somebody wrote to it last, in nanoseconds, as the file system tells.
    """

    __slots__ = ("_chunks", "written_at")

    def __init__(self, n_chunks: int, written_at: int, *, all_right: bool = False) -> None:
        self._chunks = Bitmap.full(n_chunks) if all_right else Bitmap(n_chunks)
        self.written_at = written_at

    def is_right(self, table: ChunkTable, index: int, chunk: memoryview) -> bool:
        """Whether a chunk that was read is what the table says; hashed when it is read for the first time."""
        if self._chunks.get(index):
            return True
        if not table.matches(index, chunk):
            return False
        # Of two threads that note chunks at the same moment, one may be lost: that is hashed once more.
        self._chunks.set(index)
        return True


class Lease:
    """What all readers of one blob share: how many they are, and whether it may still be served."""

    __slots__ = ("gone", "readers")

    def __init__(self) -> None:
        self.readers = 0
        self.gone = False


class Reader:
    """Chunks of one blob, for any number of threads. Made by `Store.open_reader`.

    While it is open the blob is not removed. A partial blob may be completed meanwhile; the reader
    goes on and sees what has become available.
    """

    hash: Hash
    table: ChunkTable

    def __init__(
        self,
        blob: Hash,
        table: ChunkTable,
        handle: FileHandle,
        partial: PartialBlob | None,
        seen: Seen | None,
        lease: Lease,
        on_close: Callable[[Reader], None],
        on_damage: Callable[[Reader, int], None],
    ) -> None:
        self.hash = blob
        self.table = table
        self.lease = lease
        self._handle = handle
        self._partial = partial
        self._seen = seen  # of a complete blob; what a partial one has was verified by this process
        self._on_close = on_close
        self._on_damage = on_damage

    @property
    def size(self) -> int:
        """Of the whole blob, in bytes."""
        return self.table.size

    @property
    def chunk_size(self) -> int:
        """In bytes; the last chunk may be shorter."""
        return self.table.chunk_size

    @property
    def n_chunks(self) -> int:
        """How many chunks the whole blob has."""
        return self.table.n_chunks

    @property
    def complete(self) -> bool:
        """Whether every chunk can be read."""
        return not self.lease.gone and (self._partial is None or self._partial.complete)

    def has(self, index: int) -> bool:
        """Whether chunk ``index`` can be read now; False once the blob was found damaged."""
        if self.lease.gone:
            return False
        if not 0 <= index < self.table.n_chunks:
            return False
        return self._partial is None or self._partial.has(index)

    def have(self) -> bytes:
        """The bitmap of the chunks that can be read now; lowest bit of a byte first."""
        if self.lease.gone:
            return Bitmap(self.table.n_chunks).to_bytes()
        if self._partial is None:
            return Bitmap.full(self.table.n_chunks).to_bytes()
        return self._partial.have()

    @property
    def stale(self) -> bool:
        """Whether it will gain nothing any more though chunks are missing: open another one then."""
        partial = self._partial
        return self.lease.gone or (partial is not None and partial.closed and not partial.complete)

    def mark(self) -> tuple[bytes, int]:
        """The bitmap, and the mark from which `gained` tells what comes after it."""
        if self._partial is None or self.lease.gone:
            return self.have(), 0
        return self._partial.mark()

    def gained(self, mark: int, most: int) -> Sequence[int]:
        """The first ``most`` chunks that have come since a mark; the mark after them is as many further on."""
        if self._partial is None or self.lease.gone:
            return ()
        return self._partial.gained(mark, most)

    def read_into(self, index: int, buffer: memoryview) -> int:
        """Read chunk ``index`` into the beginning of ``buffer``.

        Returns:
            Its length in bytes.

        Raises:
            NotFound: the chunk is not there, or the blob has been found damaged (just now, too) or discarded.
            LocalProtocolError: the buffer is too small, or this is closed.
            StorageError: reading failed.
        """
        if not self.has(index):
            raise NotFound(f"chunk {index} of {self.hash} is not here")
        length = self.table.length_of(index)
        if len(buffer) < length:
            raise LocalProtocolError(f"{len(buffer)} bytes are no room for a chunk of {length}")
        chunk = buffer[:length]
        self._handle.read_into(chunk, self.table.offset_of(index))
        if self._seen is not None and not self._seen.is_right(self.table, index, chunk):
            self._on_damage(self, index)
            raise NotFound(f"chunk {index} of {self.hash} is damaged")
        return length

    def close(self) -> None:
        """Close; reads under way are waited for. Closing again does nothing."""
        if self._handle.close():
            self._on_close(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
