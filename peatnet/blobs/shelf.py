"""What the parts of the store share: the blobs in memory, who uses them, and how one gets in or out.

Locking: ``lock`` guards the dictionaries and is never held over I/O on data or over the database;
`exclusive` makes whole operations on one blob wait for each other.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from peatnet.blobs.durable import (
    make_dir,
    read_bounded,
    rename_durable,
    synced_dirs,
    unlink_durable,
    write_atomic,
)
from peatnet.blobs.handle import FileHandle
from peatnet.blobs.index import DOWNLOAD, Row
from peatnet.blobs.info import BlobInfo
from peatnet.blobs.layout import PARTIAL_KINDS
from peatnet.blobs.oserrors import os_errors
from peatnet.blobs.reader import Lease, Reader, Seen
from peatnet.blobs.table import MAX_ENCODED, ChunkTable
from peatnet.blobs.waking import Wakers
from peatnet.errors import DiskFull, IntegrityError, NotFound, StorageError
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from peatnet.blobs.hashes import Hash
    from peatnet.blobs.index import Index
    from peatnet.blobs.layout import Layout
    from peatnet.blobs.loose import LoosePartial
    from peatnet.blobs.partial import PartialBlob
    from peatnet.blobs.space import Space

_log = get_logger(__name__)


class Shelf:
    """The state of one open store."""

    def __init__(self, layout: Layout, index: Index, space: Space) -> None:
        self.layout = layout
        self.index = index
        self.space = space
        self.lock = threading.Condition(threading.Lock())
        self.blobs: dict[Hash, BlobInfo] = {}
        self.partials: dict[Hash, PartialBlob] = {}
        self.loose: dict[Hash, LoosePartial] = {}
        self.wakers = Wakers()
        self.on_damage: Callable[[], None] = lambda: None
        self._leases: dict[Hash, Lease] = {}
        self._seen: dict[Hash, Seen] = {}
        self._busy: set[Hash] = set()

    @contextmanager
    def exclusive(self, *blobs: Hash) -> Iterator[None]:
        """Wait until no other operation puts in or takes out any of these blobs, and be the one.

        All of them are taken at the same moment, so two that want the same blobs never wait for each other.
        """
        with self.lock:
            self.lock.wait_for(lambda: self._busy.isdisjoint(blobs))
            self._busy.update(blobs)
        try:
            yield
        finally:
            with self.lock:
                self._busy.difference_update(blobs)
                self.lock.notify_all()

    @contextmanager
    def idle(self, blob: Hash) -> Iterator[bool]:
        """Be the one, as in `exclusive`, where nobody else is; False where somebody is, without waiting for them."""
        with self.lock:
            free = blob not in self._busy
            if free:
                self._busy.add(blob)
        try:
            yield free
        finally:
            if free:
                with self.lock:
                    self._busy.discard(blob)
                    self.lock.notify_all()

    def get(self, blob: Hash) -> BlobInfo:
        """A complete blob.

        Raises:
            NotFound: it is not here.
        """
        info = self.blobs.get(blob)
        if info is None:
            raise NotFound(f"no complete blob {blob} here", hint="fetch it with `peatnet get`")
        return info

    def is_open(self, blob: Hash) -> bool:
        """Whether it is being filled in this process; ask under the lock or in `exclusive`."""
        return blob in self.partials or blob in self.loose

    def in_use(self, blob: Hash) -> bool:
        """Whether a reader is open on it; ask under the lock."""
        return blob in self._leases

    def open_reader(self, blob: Hash) -> Reader | None:
        """A reader on a complete blob or on one being filled; None when it is neither."""
        with self.lock:
            info, partial, seen = self.blobs.get(blob), self.partials.get(blob), None
            if info is not None:
                table, path, partial = info.table, info.path, None
                with os_errors("opening", path):
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    written_at = os.fstat(fd).st_mtime_ns
                seen = self._seen.get(blob)
                if seen is None or seen.written_at != written_at:
                    seen = self._seen[blob] = Seen(table.n_chunks, written_at)
            elif partial is not None:
                table, path = partial.table, self.layout.partial_file(blob, "blob")
                # Not by its name, which changes when it is committed.
                with partial.reading() as original, os_errors("opening", path):
                    fd = os.dup(original)
            else:
                return None
            lease = self._leases.setdefault(blob, Lease())
            lease.readers += 1
        handle = FileHandle(fd, path)
        return Reader(
            blob, table, handle, partial, seen, lease, self._reader_closed, self._found_damage
        )

    def _found_damage(self, reader: Reader, index: int) -> None:
        """Set a blob aside of which a chunk that was to be served is not what it was."""
        with self.exclusive(reader.hash):
            if reader.lease.gone or reader.hash not in self.blobs:
                return
            self.set_aside(reader.hash, f"chunk {index} is wrong")
        self.on_damage()

    def _reader_closed(self, reader: Reader) -> None:
        with self.lock:
            lease = reader.lease
            lease.readers -= 1
            if not lease.readers and self._leases.get(reader.hash) is lease:
                del self._leases[reader.hash]

    def end_leases(self, blob: Hash) -> None:
        """Readers of this blob deliver nothing more."""
        with self.lock:
            lease = self._leases.pop(blob, None)
            if lease is not None:
                lease.gone = True
        self.wakers.wake(blob)

    def install(
        self,
        temp: Path,
        blob: Hash,
        table: ChunkTable,
        sha256: str | None,
        pin: str | None = None,
    ) -> BlobInfo:
        """Make a verified file, whose data is synced, a complete blob, and pin it. In `exclusive` only.

        The row comes before the rename: a blob is complete when both are there, so a crash in
        between leaves a row without a file, which counts for nothing.
        """
        path = self.layout.blob(blob)
        make_dir(path.parent)
        self.keep_table(blob, table)
        self.index.put(Row(blob, table.size, table.chunk_size, table.table_hash, sha256), pin)
        rename_durable(temp, path)
        # Last, since a crash must not leave a partial file that cannot be opened for writing.
        make_read_only(path)
        info = BlobInfo(blob, table.size, sha256, table, path)
        self.space.hold(blob_key(blob), table.size)
        with os_errors("looking at", path):
            seen = Seen(table.n_chunks, path.stat().st_mtime_ns, all_right=True)
        with self.lock:
            self.blobs[blob], self._seen[blob] = info, seen
            partial = self.partials.pop(blob, None)
        if partial is not None:
            # It may be open still, where the blob has come by another way.
            partial.retire()
        self.wakers.wake(blob)
        return info

    def keep_table(self, blob: Hash, table: ChunkTable) -> None:
        """Have the table of a complete blob on disk, where it cannot be told from the blob's name and size."""
        if not table.is_plain:
            write_atomic(self.layout.table(blob), table.encode())

    def mend_table(self, blob: Hash, table: ChunkTable) -> None:
        """Do what `keep_table` does, where it does not matter much: without the file, the blob is hashed at the next start."""
        try:
            self.keep_table(blob, table)
        except (StorageError, DiskFull) as exc:
            _log.warning("a chunk table is not kept", hash=str(blob), reason=exc.message)

    def table_of(self, blob: Hash, size: int, chunk_size: int) -> ChunkTable | None:
        """The table of a complete blob, as `keep_table` left it; None when it is lost or damaged.

        Stores of before have a file also where none is needed: it is not looked at, and goes with the blob.
        """
        if size <= chunk_size:
            plain = ChunkTable.of_one_chunk(blob, size, chunk_size)
            if plain.is_plain:
                return plain
        return read_table(self.layout.table(blob))

    def know_sha256(self, blob: Hash, sha256: str) -> BlobInfo | None:
        """Note the SHA-256 of a complete blob; None where there is no such blob. In `exclusive` only."""
        info = self.blobs.get(blob)
        if info is None or info.sha256 is not None:
            return info
        table = info.table
        self.index.put(Row(blob, table.size, table.chunk_size, table.table_hash, sha256))
        known = replace(info, sha256=sha256)
        with self.lock:
            self.blobs[blob] = known
        return known

    def take_out(self, info: BlobInfo) -> None:
        """Delete a complete blob. In `exclusive` only.

        The file goes before the row: never the other way, or a crash would leave bytes that only a
        rebuild could find.
        """
        with self.lock:
            self.blobs.pop(info.hash, None)
            self._seen.pop(info.hash, None)
        try:
            unlink_durable(info.path, self.layout.table(info.hash))
        except BaseException:
            if info.path.exists():
                with self.lock:
                    self.blobs[info.hash] = info
            raise
        self.index.drop(info.hash)
        self.space.release(blob_key(info.hash))

    def set_aside(self, blob: Hash, reason: str) -> Path:
        """Move a damaged blob out of the way; it is served no longer. In `exclusive` only.

        Raises:
            StorageError: it could not be moved, and all is as it was; or it was, and the rest failed: then it counts for nothing,
                as any row without a file does.
        """
        path, target = self.layout.blob(blob), self.layout.damaged_blob(blob)
        make_dir(target.parent)
        with synced_dirs(target.parent, path.parent):
            with self.lock, os_errors("renaming to", target):
                path.replace(target)
                self.blobs.pop(blob, None)
                self._seen.pop(blob, None)
            self.end_leases(blob)
        unlink_durable(self.layout.table(blob))
        self.index.drop(blob)
        self.space.release(blob_key(blob))
        _log.error("damaged blob moved aside", hash=str(blob), reason=reason, path=str(target))
        return target

    def drop_partial(self, blob: Hash) -> None:
        """Delete all files of a download that is not open, and its pin; a directory in a file's place stays. In `exclusive` only."""
        named = [self.layout.partial_file(blob, kind) for kind in PARTIAL_KINDS]
        files = [path for path in named if os.path.lexists(path) and not is_dir(path)]
        if files:
            unlink_durable(*files)
        self.space.release(partial_key(blob))
        self.index.unpin(blob, DOWNLOAD)


def make_read_only(path: Path) -> None:
    """Take the write permissions off a file."""
    with os_errors("making read-only", path):
        path.chmod(0o444)


def is_dir(path: Path) -> bool:
    """Whether a directory is in the place of a file."""
    return path.is_dir() and not path.is_symlink()


def read_small(path: Path, limit: int) -> bytes | None:
    """The content of a file that could be made again; None when it is missing, too long, or cannot be read, which is logged."""
    try:
        return read_bounded(path, limit)
    except StorageError as exc:
        _log.warning("a file cannot be read", path=str(path), reason=exc.message)
        return None


def read_table(path: Path) -> ChunkTable | None:
    """The table in a file; None when there is none, or it is damaged or cannot be read."""
    data = read_small(path, MAX_ENCODED)
    if data is None:
        return None
    try:
        return ChunkTable.decode(data)
    except IntegrityError as exc:
        _log.warning("damaged table file", path=str(path), reason=exc.message)
        return None


def blob_key(blob: Hash) -> str:
    """Under which a complete blob is in the ledger of space."""
    return f"blob:{blob.hex()}"


def partial_key(blob: Hash) -> str:
    """Under which an unfinished blob is in the ledger of space."""
    return f"partial:{blob.hex()}"
