"""How a file of the user's becomes a blob."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from peatnet.blobs.clone import hard_link, reflink
from peatnet.blobs.durable import temp_file, temp_path, unlink_durable, write_all
from peatnet.blobs.hashing import hash_fd, hash_file, open_regular
from peatnet.blobs.info import AddMode
from peatnet.blobs.oserrors import os_errors
from peatnet.blobs.space import allocate
from peatnet.blobs.table import pick_chunk_size
from peatnet.errors import DiskFull, IntegrityError, StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from peatnet.blobs.hashing import FileHashes
    from peatnet.blobs.info import BlobInfo
    from peatnet.blobs.shelf import Shelf

    Progress = Callable[[int], None]


def add_file(
    shelf: Shelf,
    path: Path,
    *,
    mode: AddMode,
    chunk_size: int | None,
    progress: Progress | None,
    pin: str | None,
) -> BlobInfo:
    """See `Store.add_file`."""
    if mode is AddMode.MOVE and path.is_symlink():
        raise UsageError(f"{path} is a symbolic link", hint="give the file itself, or copy it")
    source = open_regular(path)
    key = None
    try:
        size = os.fstat(source).st_size
        chunk_size = pick_chunk_size(size, chunk_size)
        temp = temp_path(shelf.layout.partial)
        key = f"add:{temp.name}"
        try:
            shelf.space.claim(key, size, on_disk=0)
        except DiskFull:
            # What is here already needs no room.
            hashes = hash_file(path, chunk_size=chunk_size)
            with shelf.exclusive(hashes.blake3):
                known = shelf.know_sha256(hashes.blake3, hashes.sha256)
                if known is None:
                    raise
                return _finish(shelf, path, known, mode=mode, pin=pin)
        with _brought_in(shelf, path, source, mode, key, chunk_size, progress) as (temp, hashes):
            blob = hashes.blake3
            with shelf.exclusive(blob):
                info = shelf.know_sha256(blob, hashes.sha256)
                if info is None:
                    shelf.space.release(key)
                    info = shelf.install(temp, blob, hashes.table, hashes.sha256, pin)
                    pin = None
                    if not shelf.is_open(blob):
                        shelf.drop_partial(blob)
            return _finish(shelf, path, info, mode=mode, pin=pin)
    finally:
        if key is not None:
            shelf.space.release(key)
        os.close(source)


def _finish(
    shelf: Shelf, path: Path, info: BlobInfo, *, mode: AddMode, pin: str | None
) -> BlobInfo:
    if pin is not None:
        shelf.index.pin(info.hash, pin)
    if mode is AddMode.MOVE and path.resolve() != info.path.resolve():
        unlink_durable(path)
    return info


@contextmanager
def _brought_in(
    shelf: Shelf,
    path: Path,
    source: int,
    mode: AddMode,
    key: str,
    chunk_size: int,
    progress: Progress | None,
) -> Iterator[tuple[Path, FileHashes]]:
    """A temporary file in the store with the source's bytes, synced, and its hashes.

    A moved file is linked first and its own name goes last: a crash never leaves the only copy under
    a temporary name.
    """
    directory = shelf.layout.partial
    if mode in (AddMode.HARDLINK, AddMode.MOVE):
        temp = temp_path(directory)
        try:
            with os_errors("linking", path):
                linked = hard_link(path.resolve(), temp)
            if linked:
                if not os.path.samestat(temp.stat(), os.fstat(source)):
                    raise IntegrityError(f"{path} was replaced while it was being read")
                with os_errors("syncing", path):
                    os.fsync(source)
                yield temp, hash_fd(source, path, chunk_size=chunk_size, progress=progress)
                return
        finally:
            temp.unlink(missing_ok=True)
        if mode is AddMode.HARDLINK:
            raise StorageError(
                f"{path} cannot be hard-linked into {directory}",
                hint="the two must be on one file system; use a copy instead",
            )
    with temp_file(directory) as (temp, fd):
        with os_errors("writing", temp):
            shared = mode is not AddMode.COPY and reflink(source, fd)
        if shared:
            # The clone is hashed, not the source, which may still be changing.
            hashes = hash_fd(fd, path, chunk_size=chunk_size, progress=progress)
        elif mode is AddMode.REFLINK:
            raise StorageError(
                f"{path} cannot be reflinked into {directory}",
                hint="both must be on one Btrfs, XFS or similar file system; use a copy instead",
            )
        else:
            size = os.fstat(source).st_size
            shelf.space.claim(key, size, on_disk=size)
            with os_errors("writing", temp):
                allocate(fd, size)
                shelf.space.settle(key)
                hashes = hash_fd(
                    source,
                    path,
                    chunk_size=chunk_size,
                    tee=lambda data, offset: write_all(fd, data, offset),
                    progress=progress,
                )
        with os_errors("syncing", temp):
            os.fsync(fd)
        yield temp, hashes
