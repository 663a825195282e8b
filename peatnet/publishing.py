"""Where a node meets the user's own files.

How one becomes a blob with a manifest: taken in, or read where it is small, checked, and let go only when all is well;
and whether a copy of a blob may be put where the user wants one.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peatnet.blobs import AddMode, BlobInfo, ChunkTable, Hash, SmallBlob
from peatnet.blobs.durable import unlink_durable
from peatnet.blobs.hashing import open_regular
from peatnet.blobs.oserrors import os_errors
from peatnet.blobs.table import SMALL_CHUNK_SIZE
from peatnet.errors import (
    AlreadyExists,
    IntegrityError,
    NotFound,
    PeatnetError,
    StorageError,
    UsageError,
)
from peatnet.library import PUBLISHING
from peatnet.targets import check_against

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from peatnet.blobs import Store
    from peatnet.models import ModelManifest
    from peatnet.records import Record

    Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Publication:
    """A file that is to be published.

    Args:
        path: the model file.
        manifest: what it is. Sizes and hashes may be left empty; where they are given, they must be right.
        mode: how the file gets into the store.
    """

    path: Path
    manifest: ModelManifest
    mode: AddMode = AddMode.AUTO

    @property
    def may_be_copied(self) -> bool:
        """Whether its mode lets the store have a copy."""
        return self.mode in {AddMode.AUTO, AddMode.COPY}


@dataclass(slots=True, eq=False)
class SmallFile:
    """A small file that was read and is to be published with others.

    Attributes:
        blob: its bytes.
        manifest: as it is to be signed.
        record: the manifest, signed and on disk, its blob ready; None before, or where it must be published by itself.
        error: why it was not signed.
    """

    blob: SmallBlob
    manifest: ModelManifest
    record: Record | None = None
    error: PeatnetError | None = None


def read_small(wanted: Publication, progress: Progress) -> SmallFile | None:
    """Read a file that is small enough to be published with others; None where it is not, or may not be copied.

    Blocks, for no longer than reading 256 KiB takes.

    Raises:
        NotFound: there is no such file.
        UsageError: it is no regular file, or an empty one.
        IntegrityError: the manifest says something else, or the file changed while it was read.
        InvalidManifest: the manifest, filled in, breaks a rule.
        StorageError: it cannot be read.
    """
    if not wanted.may_be_copied:
        return None
    path = wanted.path
    with opened_model(path) as fd, os_errors("reading", path):
        before = os.fstat(fd)
        if before.st_size > SMALL_CHUNK_SIZE:
            return None
        data = os.pread(fd, SMALL_CHUNK_SIZE + 1, 0)
        after = os.fstat(fd)
    if len(data) != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
        raise IntegrityError(
            f"{path} changed while it was being read", hint="wait until it is written, then retry"
        )
    name = Hash.of(data)
    table = ChunkTable.of_one_chunk(name, len(data), SMALL_CHUNK_SIZE)
    blob = SmallBlob(name, table, hashlib.sha256(data).hexdigest(), data)
    progress(len(data))
    info = BlobInfo(name, len(data), blob.sha256, table, path)
    return SmallFile(blob, fill_in(wanted.manifest, path, info))


@contextmanager
def opened_model(path: Path) -> Iterator[int]:
    """The descriptor of a file that can be published, for the time of the block. Blocks.

    Raises:
        NotFound: there is no such file.
        UsageError: it is no regular file, or an empty one.
        StorageError: it cannot be read.
    """
    _check_there(path)
    fd = open_regular(path)
    try:
        yield fd
    finally:
        os.close(fd)


def _check_there(path: Path) -> None:
    with os_errors("looking for", path):
        if not path.exists():
            raise no_such_file(path)


def take_file(store: Store, path: Path, mode: AddMode, progress: Progress) -> BlobInfo:
    """Take a file into the store, pinned as being published. Blocks.

    A file that is to be moved keeps its own name for now: see :func:`let_go`.

    Raises:
        NotFound: there is no such file.
        UsageError: it is no regular file, or an empty one.
        DiskFull, StorageError: the store cannot take it.
    """
    _check_there(path)
    if mode is not AddMode.MOVE:
        return store.add_file(path, mode=mode, progress=progress, pin=PUBLISHING)
    if path.is_symlink():
        raise UsageError(f"{path} is a symbolic link", hint="give the file itself, or copy it")
    try:
        return store.add_file(path, mode=AddMode.HARDLINK, progress=progress, pin=PUBLISHING)
    except StorageError:  # another file system
        return store.add_file(path, mode=AddMode.COPY, progress=progress, pin=PUBLISHING)


def fill_in(manifest: ModelManifest, path: Path, info: BlobInfo) -> ModelManifest:
    """The manifest with what was measured of the file.

    Raises:
        IntegrityError: the manifest says something else.
        InvalidManifest: filled in, it breaks a rule.
    """
    wrong = check_against(manifest, info)
    if wrong is None and manifest.blob_hash not in {None, info.hash.hex()}:
        wrong = f"the file's BLAKE3 is {info.hash.hex()}, the manifest says {manifest.blob_hash}"
    if wrong is not None:
        raise IntegrityError(
            f"{path}: {wrong}",
            hint="take the field out of the manifest, or name the right file",
        )
    return manifest.with_blob(
        blob_hash=info.hash.hex(),
        size_bytes=info.size,
        sha256=info.sha256 or "",  # known of what was added; the rule is the manifest's
        chunk_size=info.table.chunk_size,
        table_hash=info.table.table_hash.hex(),
    )


def no_such_file(path: Path) -> NotFound:
    """What there is to say where there is no file."""
    return NotFound(f"there is no file {path}", hint="check the path")


def let_go(path: Path, info: BlobInfo) -> None:
    """Remove a file that was moved into the store, once a manifest names its blob. Blocks.

    Raises:
        StorageError: the operating system refused; the file is in both places then.
    """
    if path.resolve() != info.path.resolve():
        unlink_durable(path)


def check_out(out: Path, *, force: bool) -> None:
    """Whether a copy can be left at a path; ``force``: also in the place of a file. Blocks.

    Raises:
        UsageError: it is a directory.
        AlreadyExists: there is a file.
        NotFound: its directory does not exist.
        StorageError: it may not be looked for.
    """
    with os_errors("looking for", out):
        if out.is_dir():
            raise UsageError(f"{out} is a directory", hint="give the name of a file")
        if out.exists() and not force:
            raise AlreadyExists(f"{out} exists", hint="--force overwrites it")
        if not out.parent.is_dir():
            raise NotFound(f"the directory {out.parent} does not exist", hint="make it first")
