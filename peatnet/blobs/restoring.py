"""A blob whose file is gone, made again from another name of it: the last one that there may be."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peatnet.blobs.clone import export_file, hard_link
from peatnet.blobs.durable import make_dir, temp_path
from peatnet.blobs.giving import Checker
from peatnet.blobs.hashing import hash_file
from peatnet.blobs.oserrors import os_errors
from peatnet.blobs.shelf import blob_key
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peatnet.blobs.hashes import Hash
    from peatnet.blobs.hashing import FileHashes
    from peatnet.blobs.info import BlobInfo
    from peatnet.blobs.shelf import Shelf

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Spare:
    """A file outside ``blobs/`` that is a blob, as it was when all of it was read."""

    path: Path
    hashes: FileHashes
    identity: tuple[int, int, int, int]


def has_file(shelf: Shelf, blob: Hash) -> bool:
    """Whether there is anything in a blob's place, good or not, or that cannot be told."""
    try:
        return _status(shelf.layout.blob(blob)) is not None
    except OSError:
        return True


def examine(
    shelf: Shelf,
    blob: Hash,
    path: Path,
    *,
    chunk_size: int | None,
    progress: Callable[[int], None] | None,
) -> Spare | None:
    """See `Store.examine`."""
    with os_errors("looking at", path):
        status, aside = _status(path), _status(shelf.layout.damaged_blob(blob))
    if status is None or not stat.S_ISREG(status.st_mode) or not status.st_size:
        return None
    row = shelf.index.get(blob)
    if row is not None and row.size != status.st_size:
        return None
    if aside is not None and os.path.samestat(aside, status):
        return None  # read already
    hashes = hash_file(
        path, chunk_size=chunk_size if row is None else row.chunk_size, progress=progress
    )
    return Spare(path, hashes, _identity(status)) if hashes.blake3 == blob else None


def restore(shelf: Shelf, spare: Spare) -> BlobInfo | None:
    """See `Store.restore`."""
    blob, table = spare.hashes.blake3, spare.hashes.table
    target = shelf.layout.blob(blob)
    with shelf.exclusive(blob):
        if has_file(shelf, blob):
            return None
        make_dir(target.parent)
        temp = temp_path(target.parent)
        with os_errors("opening", spare.path):
            fd = os.open(spare.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if _identity(os.fstat(fd)) != spare.identity:
                return None
            with os_errors("linking", spare.path):
                linked = hard_link(spare.path, temp)
                if linked and not os.path.samestat(os.fstat(fd), temp.lstat()):
                    return None
            if not linked:
                shelf.space.claim(blob_key(blob), table.size, on_disk=table.size)
                export_file(fd, table.size, temp, force=True, checker=Checker(blob, table))
            with os_errors("syncing", spare.path):
                os.fsync(fd)
            info = shelf.install(temp, blob, table, spare.hashes.sha256)
        finally:
            os.close(fd)
            temp.unlink(missing_ok=True)
            if blob not in shelf.blobs:
                shelf.space.release(blob_key(blob))
        if not shelf.is_open(blob):
            shelf.drop_partial(blob)
    _log.warning("lost blob put back", hash=str(blob), source=str(spare.path))
    return info


def _status(path: Path) -> os.stat_result | None:
    """Of what is there; None where nothing is."""
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
