"""Where a node meets the user's own files.

How one becomes a blob with a manifest: taken in, checked, and let go only when all is well; and whether a copy of a blob
may be put where the user wants one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peatnet.blobs import AddMode
from peatnet.blobs.durable import unlink_durable
from peatnet.errors import AlreadyExists, IntegrityError, NotFound, StorageError, UsageError
from peatnet.library import PUBLISHING
from peatnet.targets import check_against

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peatnet.blobs import BlobInfo, Store
    from peatnet.models import ModelManifest


def take_file(store: Store, path: Path, mode: AddMode, progress: Callable[[int], None]) -> BlobInfo:
    """Take a file into the store, pinned as being published. Blocks.

    A file that is to be moved keeps its own name for now: see :func:`let_go`.

    Raises:
        NotFound: there is no such file.
        UsageError: it is no regular file, or an empty one.
        DiskFull, StorageError: the store cannot take it.
    """
    if not path.exists():
        raise NotFound(f"there is no file {path}", hint="check the path")
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
    """
    if out.is_dir():
        raise UsageError(f"{out} is a directory", hint="give the name of a file")
    if out.exists() and not force:
        raise AlreadyExists(f"{out} exists", hint="--force overwrites it")
    if not out.parent.is_dir():
        raise NotFound(f"the directory {out.parent} does not exist", hint="make it first")
