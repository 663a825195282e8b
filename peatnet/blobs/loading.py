"""Opening a store: what the disk and the index say together, whatever a crash left behind."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, ParamSpec

from peatnet.blobs.bitmap import Bitmap
from peatnet.blobs.hashes import Hash
from peatnet.blobs.hashing import hash_file
from peatnet.blobs.index import DOWNLOAD
from peatnet.blobs.info import BlobInfo, PartialInfo
from peatnet.blobs.layout import named_hash
from peatnet.blobs.oserrors import translated
from peatnet.blobs.shelf import blob_key, make_read_only, partial_key, read_small, read_table
from peatnet.errors import DiskFull, IntegrityError, RemoteProtocolError, StorageError, UsageError
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peatnet.blobs.index import Row
    from peatnet.blobs.layout import Layout
    from peatnet.blobs.shelf import Shelf
    from peatnet.blobs.table import ChunkTable

P = ParamSpec("P")

_log = get_logger(__name__)


def load(shelf: Shelf) -> None:
    """Fill a shelf from disk. A blob counts when its row and its file agree.

    Reads tables and looks at sizes; the blobs themselves are not read, except one whose table is
    lost.

    Raises:
        StorageError: a directory cannot be made or read.
    """
    shelf.layout.create()
    for row in shelf.index.rows():
        info = _load_blob(shelf, row)
        if info is not None:
            shelf.blobs[row.hash] = info
            shelf.space.hold(blob_key(row.hash), row.size)
    pins = shelf.index.pins()
    done = {name for info in shelf.blobs.values() for name in _names(info)}
    begun = {named_hash(path, path.suffix[1:]) for path in shelf.layout.scan_partial()}
    for blob in done:
        # A crash between the last steps of a commit; `drop_partial` is its very last one.
        if DOWNLOAD in pins.get(blob, ()) or blob in begun:
            _logged(shelf.drop_partial, blob)
    for partial in scan_partials(shelf.layout):
        shelf.space.hold(partial_key(partial.hash), partial.size)
    for path in shelf.layout.scan_partial():
        name = named_hash(path, "loose")
        if name is not None:
            shelf.space.hold(partial_key(name), size_of(path))


def _names(info: BlobInfo) -> list[Hash]:
    # A download without a chunk table may have been kept under its SHA-256.
    other = [Hash(bytes.fromhex(info.sha256))] if info.sha256 is not None else []
    return [info.hash, *other]


def _load_blob(shelf: Shelf, row: Row) -> BlobInfo | None:
    path = shelf.layout.blob(row.hash)
    try:
        status = path.lstat()
    except FileNotFoundError:
        # Not forgotten: the directory may be one that is mounted later.
        if not shelf.layout.partial_file(row.hash, "blob").exists():
            _log.warning("a blob in the index has no file", hash=str(row.hash), path=str(path))
        return None
    except OSError as exc:
        raise translated(exc, "looking at", path) from exc
    if not stat.S_ISREG(status.st_mode):
        _log.warning("not a file where a blob should be", path=str(path))
        return None
    if status.st_size != row.size:
        _logged(shelf.set_aside, row.hash, f"has {status.st_size} bytes instead of {row.size}")
        return None
    table = shelf.table_of(row.hash, row.size, row.chunk_size)
    if table is None or table.table_hash != row.table_hash or table.size != row.size:
        table = _table_again(shelf, row, path)
        if table is None:
            return None
    if status.st_mode & 0o222:
        _logged(make_read_only, path)
    return BlobInfo(row.hash, row.size, row.sha256, table, path)


def _table_again(shelf: Shelf, row: Row, path: Path) -> ChunkTable | None:
    _log.warning("the table of a blob is lost; hashing the blob again", hash=str(row.hash))
    try:
        hashes = hash_file(path, chunk_size=row.chunk_size)
    except (IntegrityError, UsageError) as exc:
        _logged(shelf.set_aside, row.hash, exc.message)
        return None
    except StorageError as exc:
        _log.warning("a blob cannot be read", hash=str(row.hash), reason=exc.message)
        return None
    if hashes.blake3 != row.hash or hashes.table.table_hash != row.table_hash:
        _logged(shelf.set_aside, row.hash, f"its BLAKE3 is {hashes.blake3}")
        return None
    shelf.mend_table(row.hash, hashes.table)
    return hashes.table


def scan_partials(layout: Layout) -> list[PartialInfo]:
    """The unfinished blobs on disk, as far as their tables can be read."""
    found = []
    for path in layout.scan_partial():
        blob = named_hash(path, "blob")
        if blob is None or path.is_symlink() or not path.is_file():
            continue
        table = read_table(layout.partial_file(blob, "table"))
        if table is None:
            _log.warning("an unfinished blob without a table", path=str(path))
            found.append(PartialInfo(blob, size_of(path), 0))
            continue
        found.append(PartialInfo(blob, table.size, claimed_bytes(layout, blob, table)))
    return found


def claimed_bytes(layout: Layout, blob: Hash, table: ChunkTable) -> int:
    """How much of an unfinished blob its bitmap on disk claims."""
    data = read_small(layout.partial_file(blob, "have"), (table.n_chunks + 7) // 8)
    if data is None:
        return 0
    try:
        bitmap = Bitmap.from_bytes(data, table.n_chunks)
    except RemoteProtocolError:
        return 0
    return table.bytes_of(bitmap)


def _logged(step: Callable[P, object], *args: P.args, **named: P.kwargs) -> None:
    """Do something to one file of which nothing else depends; the store opens all the same where that is refused."""
    try:
        step(*args, **named)
    except (StorageError, DiskFull) as exc:
        _log.warning("a file is left as it was", reason=exc.message)


def size_of(path: Path) -> int:
    """The length of a file that may be gone, 0 then."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
