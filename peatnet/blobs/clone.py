"""Getting the bytes of one file into another: reflink, or a copy through pooled buffers."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Protocol

from peatnet.blobs.durable import fsync_dir, rename_durable, temp_file, temp_path, write_all
from peatnet.blobs.hashing import pump
from peatnet.blobs.oserrors import os_errors
from peatnet.blobs.space import allocate
from peatnet.errors import AlreadyExists

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.blobs.hashing import Progress

FICLONE = 0x40049409
"""The ioctl that makes a file share all blocks of another, copy-on-write; ioctl_ficlone(2)."""

_CANNOT = frozenset(
    {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}
)
_CANNOT_LINK = _CANNOT | {errno.EMLINK, errno.EACCES}


def reflink(source: int, target: int) -> bool:
    """Make open file ``target`` a reflink of ``source``; False where the file system cannot.

    Raises:
        OSError: it can, and failed (no room, an I/O error).
    """
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as exc:
        if exc.errno in _CANNOT:
            return False
        raise
    return True


def hard_link(source: Path, target: Path) -> bool:
    """Link ``target`` to the file at ``source``; False where that cannot be done.

    Raises:
        FileExistsError: ``target`` is there.
        OSError: anything else that a copy would not avoid either.
    """
    try:
        os.link(source, target)
    except OSError as exc:
        if exc.errno in _CANNOT_LINK:
            return False
        raise
    return True


class Checker(Protocol):
    """Looks at the bytes of a copy while they pass."""

    def update(self, data: memoryview) -> object:
        """Take the next bytes; called in another thread."""

    def finish(self) -> None:
        """All bytes have passed; raises IntegrityError when they are not what they should be."""


def copy_file(
    source: int, target: int, size: int, checker: Checker, progress: Progress | None = None
) -> None:
    """Copy ``size`` bytes between open files, with the room reserved first, and tell how far it is.

    Raises:
        OSError: reading or writing failed, or there is no room.
        IntegrityError: the source is not what it should be.
    """
    allocate(target, size)
    pump(
        source,
        0,
        size,
        [checker.update],
        tee=lambda data, offset: write_all(target, data, offset),
        progress=progress,
    )
    checker.finish()


def export_file(
    source: int,
    size: int,
    out: Path,
    *,
    force: bool,
    checker: Checker,
    progress: Progress | None = None,
) -> None:
    """Put a copy of an open file at ``out``, whole and durable; a reflink where possible, else with ``progress``.

    Raises:
        AlreadyExists: ``out`` is there and ``force`` is not given.
        IntegrityError: the source is not what it should be.
        DiskFull: there is no room.
        StorageError: the operating system refused something else.
    """
    if not force and os.path.lexists(out):
        raise _taken(out)
    with temp_file(out.parent) as (temp, fd), os_errors("writing", out):
        if not reflink(source, fd):
            copy_file(source, fd, size, checker, progress)
        os.fsync(fd)
        if force:
            rename_durable(temp, out)
            return
        try:
            # Unlike a rename, a link never replaces what appeared meanwhile.
            linked = hard_link(temp, out)
        except FileExistsError as exc:
            raise _taken(out) from exc
        if linked:
            fsync_dir(out.parent)
        elif os.path.lexists(out):
            raise _taken(out)
        else:
            rename_durable(temp, out)


def place_link(blob: Path, source: int, target: Path, *, checker: Checker) -> None:
    """Make ``target`` the same bytes as the blob at no cost: hard link, reflink, else a copy.

    What was at ``target`` is replaced atomically, or left alone where it is this very file, or a copy
    of it as told by length and modification time.

    Args:
        blob: the file.
        source: the same, open.
        target: where; the directory must be there.
        checker: for the copy.

    Raises:
        IntegrityError: it had to be copied, and is not what it should be.
        DiskFull: there is no room for the copy.
        StorageError: the operating system refused something else.
    """
    with os_errors("linking", target):
        status = os.fstat(source)
        if os.path.lexists(target) and is_copy(target.lstat(), status):
            return
        temp = temp_path(target.parent)
        try:
            if hard_link(blob, temp):
                rename_durable(temp, target)
                return
        finally:
            temp.unlink(missing_ok=True)
        export_file(source, status.st_size, target, force=True, checker=checker)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def is_copy(present: os.stat_result, blob: os.stat_result) -> bool:
    """Whether a file is this blob, or a copy that was made of it, as told by length and modification time."""
    if (present.st_dev, present.st_ino) == (blob.st_dev, blob.st_ino):
        return True
    return (
        stat.S_ISREG(present.st_mode)
        and present.st_size == blob.st_size
        and present.st_mtime_ns == blob.st_mtime_ns
    )


def _taken(out: Path) -> AlreadyExists:
    return AlreadyExists(f"{out} exists", hint="use --force to replace it, or take another name")
