"""The data directory: made, checked, and locked, so that one process at a time works in it."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from peatnet.blobs.durable import make_dir
from peatnet.blobs.space import allocate
from peatnet.errors import DataDirLocked, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_NAME = "lock"
RESERVE_NAME = "reserve"
# What the database needs to be opened, and to note that some things are gone.
RESERVE = 512 * 1024


def unusable(path: Path, exc: OSError) -> StorageError:
    """The error for a data directory that the operating system does not let us use."""
    return StorageError(
        f"the data directory {path} cannot be used: {exc.strerror}",
        hint="check its owner and mode, or choose another one with --data-dir",
    )


@contextmanager
def locked_data_dir(path: Path) -> Iterator[None]:
    """Hold the data directory for as long as the context lasts; makes it (mode 0700) where it is missing.

    The lock is the kernel's (flock), so it ends with the process, however that dies.

    Raises:
        DataDirLocked: another process holds it.
        StorageError: it cannot be made, read or written.
    """
    try:
        fresh = not path.exists()
        make_dir(path)
        if fresh:
            path.chmod(0o700)
        fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise unusable(path, exc) from exc
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise DataDirLocked(
                f"another peatnet node runs on {path}",
                hint="stop it, or use another --data-dir; commands reach a running node by themselves",
            ) from exc
        except OSError as exc:
            raise unusable(path, exc) from exc
        yield
    finally:
        os.close(fd)


def keep_reserve(path: Path) -> None:
    """Have room for the database on a disk that is full, and give it up when that has come.

    Otherwise nothing could be opened then, also not to make room again, by ``rm`` or ``gc``. A reserve that cannot be had is no
    error: then it is as without one.
    """
    reserve = path / RESERVE_NAME
    with suppress(OSError):
        free = shutil.disk_usage(path).free
        if free < RESERVE:
            reserve.unlink(missing_ok=True)
        elif free > 8 * RESERVE and not reserve.exists():
            fd = os.open(reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                allocate(fd, RESERVE)
            finally:
                os.close(fd)
