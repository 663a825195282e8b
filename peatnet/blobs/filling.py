"""Opening, finishing and discarding downloads."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from peatnet.blobs.bitmap import Bitmap
from peatnet.blobs.durable import (
    fsync_dir,
    rename_durable,
    unlink_durable,
    write_atomic,
)
from peatnet.blobs.handle import FileHandle
from peatnet.blobs.hashes import is_sha256
from peatnet.blobs.hashing import hash_file
from peatnet.blobs.index import DOWNLOAD
from peatnet.blobs.loose import LoosePartial
from peatnet.blobs.oserrors import os_errors
from peatnet.blobs.partial import PartialBlob, recover
from peatnet.blobs.shelf import blob_key, partial_key, read_small, read_table
from peatnet.blobs.space import allocate
from peatnet.errors import (
    AlreadyExists,
    IntegrityError,
    InUse,
    LocalProtocolError,
    RemoteProtocolError,
)
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peatnet.blobs.hashes import Hash
    from peatnet.blobs.info import BlobInfo
    from peatnet.blobs.shelf import Shelf
    from peatnet.blobs.table import ChunkTable

_log = get_logger(__name__)


def start_partial(
    shelf: Shelf,
    table: ChunkTable,
    blob: Hash,
    *,
    replace: bool,
    progress: Callable[[int], None] | None,
) -> PartialBlob:
    """See `Store.start_partial`."""
    path = shelf.layout.partial_file(blob, "blob")
    with shelf.exclusive(blob):
        _check_free(shelf, blob)
        claimed = _prepare_table(shelf, table, blob, replace=replace)
        new = not os.path.lexists(path) and not _can_salvage(shelf, blob, table.size)
        shelf.index.pin(blob, DOWNLOAD)
        try:
            fd = _open_reserved(shelf, path, blob, table.size)
        except BaseException:
            if new:
                shelf.drop_partial(blob)
            raise
        try:
            have = recover(fd, table, claimed, path, progress)
        except BaseException:
            os.close(fd)
            raise
        partial = PartialBlob(
            blob,
            table,
            FileHandle(fd, path),
            have,
            shelf.layout.partial_file(blob, "have"),
            lambda closed: _closed(shelf, closed),
            lambda: shelf.wakers.wake(blob),
        )
        with shelf.lock:
            shelf.partials[blob] = partial
    shelf.wakers.wake(blob)
    return partial


def commit(shelf: Shelf, partial: PartialBlob, *, sha256: str | None, pin: str | None) -> BlobInfo:
    """See `Store.commit`."""
    if sha256 is not None and not is_sha256(sha256):
        raise LocalProtocolError(f"not a SHA-256: {sha256[:80]!r}")
    if not partial.complete:
        raise LocalProtocolError(f"{partial.hash} is not complete")
    blob = partial.hash
    with shelf.exclusive(blob):
        if shelf.partials.get(blob) is not partial and blob not in shelf.blobs:
            raise LocalProtocolError(f"{blob} is not open")
        info = shelf.blobs.get(blob)
        if info is None:
            partial.sync(data_only=False)
            path = shelf.layout.partial_file(blob, "blob")
            shelf.space.transfer(partial_key(blob), blob_key(blob))
            info = shelf.install(path, blob, partial.table, sha256)
        partial.abandon()
        if pin is not None:
            shelf.index.pin(blob, pin)
        shelf.drop_partial(blob)
    return info


def discard(shelf: Shelf, blob: Hash) -> None:
    """See `Store.discard`."""
    with shelf.exclusive(blob):
        partial, loose = shelf.partials.get(blob), shelf.loose.get(blob)
        if partial is not None:
            # Its readers must not go on serving what may have been wrong all along.
            shelf.end_leases(blob)
            partial.retire()
            partial.abandon()
        if loose is not None:
            loose.close()
        shelf.drop_partial(blob)


def start_loose(shelf: Shelf, name: Hash, size: int) -> LoosePartial:
    """See `Store.start_loose`."""
    if size <= 0:
        raise LocalProtocolError(f"a blob of {size} bytes")
    path = shelf.layout.partial_file(name, "loose")
    with shelf.exclusive(name):
        _check_free(shelf, name)
        shelf.index.pin(name, DOWNLOAD)
        try:
            on_disk = max(0, size - _allocated(path))
            shelf.space.claim(partial_key(name), size, on_disk=on_disk)
        except BaseException:
            if not os.path.lexists(path):
                shelf.drop_partial(name)
            raise
        fd = _open_file(path)
        try:
            with os_errors("opening", path):
                received = os.fstat(fd).st_size
                if received > size:
                    os.ftruncate(fd, 0)
                    received = 0
        except BaseException:
            os.close(fd)
            raise
        loose = LoosePartial(
            name,
            size,
            FileHandle(fd, path),
            received,
            shelf.layout.partial_file(name, "note"),
            lambda closed: _loose_closed(shelf, closed),
        )
        with shelf.lock:
            shelf.loose[name] = loose
    return loose


def adopt_loose(
    shelf: Shelf,
    loose: LoosePartial,
    *,
    expect_sha256: str | None,
    expect_blob_hash: Hash | None,
    pin: str | None,
    progress: Callable[[int], None] | None,
) -> BlobInfo:
    """See `Store.adopt_loose`."""
    if expect_sha256 is None and expect_blob_hash is None:
        raise LocalProtocolError("nothing to verify the bytes against")
    if not loose.complete:
        raise LocalProtocolError(f"{loose.name} is not complete")
    path = shelf.layout.partial_file(loose.name, "loose")
    loose.flush()
    hashes = hash_file(path, progress=progress)
    wrong = None
    if expect_sha256 is not None and hashes.sha256 != expect_sha256.lower():
        wrong = f"SHA-256 is {hashes.sha256}, not {expect_sha256}"
    elif expect_blob_hash is not None and hashes.blake3 != expect_blob_hash:
        wrong = f"BLAKE3 is {hashes.blake3}, not {expect_blob_hash}"
    if wrong is not None:
        discard(shelf, loose.name)
        raise IntegrityError(
            f"the {loose.size} bytes received are not the blob: {wrong}",
            hint="the server has another file, or the manifest is wrong",
        )
    blob = hashes.blake3
    with shelf.exclusive(blob):
        info = shelf.blobs.get(blob)
        if info is None:
            info = shelf.install(path, blob, hashes.table, hashes.sha256)
            if not shelf.is_open(blob):
                shelf.drop_partial(blob)
        if pin is not None:
            shelf.index.pin(blob, pin)
    discard(shelf, loose.name)
    return info


def close_all(shelf: Shelf) -> None:
    """See `Store.close`."""
    with shelf.lock:
        partials, loose = list(shelf.partials.values()), list(shelf.loose.values())
    for one in loose:
        one.close()
    try:
        for partial in partials:
            partial.flush()
    finally:
        for partial in partials:
            partial.abandon()


def _check_free(shelf: Shelf, blob: Hash) -> None:
    if blob in shelf.blobs:
        raise AlreadyExists(f"{blob} is complete already")
    if shelf.is_open(blob):
        raise InUse(f"{blob} is being fetched already")


def _prepare_table(shelf: Shelf, table: ChunkTable, blob: Hash, *, replace: bool) -> Bitmap:
    """Have the table on disk before the first byte; what the last bitmap on disk claims."""
    layout = shelf.layout
    table_path, have_path = layout.partial_file(blob, "table"), layout.partial_file(blob, "have")
    present = read_table(table_path)
    claimed = Bitmap(table.n_chunks)
    if present == table:
        data = read_small(have_path, (table.n_chunks + 7) // 8)
        try:
            if data is not None:
                claimed = Bitmap.from_bytes(data, table.n_chunks)
        except RemoteProtocolError as exc:
            _log.warning("damaged bitmap file", path=str(have_path), reason=exc.message)
        return claimed
    if present is not None and not replace:
        raise IntegrityError(
            f"{blob} was begun with another chunk table", hint="discard it and begin again"
        )
    unlink_durable(have_path)
    write_atomic(table_path, table.encode())
    return claimed


def _open_reserved(shelf: Shelf, path: Path, blob: Hash, size: int) -> int:
    """Open the file of a partial blob with all its room reserved."""
    key = partial_key(blob)
    before = _allocated(path)
    reuse = not before and _can_salvage(shelf, blob, size)
    if reuse:
        before = _allocated(shelf.layout.damaged_blob(blob))
    shelf.space.claim(key, size, on_disk=max(0, size - before))
    if reuse:
        _salvage(shelf, path, blob)
    fd = _open_file(path)
    try:
        with os_errors("reserving room for", path):
            if os.fstat(fd).st_size > size:
                os.ftruncate(fd, size)
            allocate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    finally:
        shelf.space.settle(key)
    return fd


def _open_file(path: Path) -> int:
    with os_errors("opening", path):
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, 0o644)
    try:
        fsync_dir(path.parent)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _can_salvage(shelf: Shelf, blob: Hash, size: int) -> bool:
    damaged = shelf.layout.damaged_blob(blob)
    if os.path.lexists(shelf.layout.partial_file(blob, "blob")) or not os.path.lexists(damaged):
        return False
    with os_errors("looking at", damaged):
        status = damaged.lstat()
    # With a second name it is also somebody's file, which must not be written to.
    return stat.S_ISREG(status.st_mode) and status.st_size == size and status.st_nlink == 1


def _salvage(shelf: Shelf, path: Path, blob: Hash) -> None:
    """Begin with a damaged copy that was set aside: most of its chunks will be right."""
    damaged = shelf.layout.damaged_blob(blob)
    with os_errors("reusing", damaged):
        damaged.chmod(0o644)
    rename_durable(damaged, path)


def _allocated(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _closed(shelf: Shelf, partial: PartialBlob) -> None:
    with shelf.lock:
        if shelf.partials.get(partial.hash) is partial:
            del shelf.partials[partial.hash]
    shelf.wakers.wake(partial.hash)


def _loose_closed(shelf: Shelf, loose: LoosePartial) -> None:
    with shelf.lock:
        if shelf.loose.get(loose.name) is loose:
            del shelf.loose[loose.name]
