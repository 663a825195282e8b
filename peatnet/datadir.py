"""The data directory: made, checked, and locked, so that one process at a time works in it."""

from __future__ import annotations

import fcntl
import os
import re
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
NODE = "up"
"""What holds a data directory for as long as a node runs there, as the lock file says it."""

# In the lock file: whose it is, a process and what it does. Anybody who may write there may have written it.
_HOLDER = re.compile(rb"([0-9]{1,10}) ([a-z_]{1,32})\n")
_HOLDER_BYTES = 64
RESERVE_NAME = "reserve"
# What the database needs to be opened, and to note that some things are gone.
RESERVE = 512 * 1024


class HeldByVerb(DataDirLocked):
    """It is a command that holds the data directory, which will be done some time."""


def unusable(path: Path, exc: OSError) -> StorageError:
    """The error for a data directory that the operating system does not let us use."""
    return StorageError(
        f"the data directory {path} cannot be used: {exc.strerror}",
        hint="check its owner and mode, or choose another one with --data-dir",
    )


@contextmanager
def locked_data_dir(path: Path, verb: str = NODE) -> Iterator[None]:
    """Hold the data directory for as long as the context lasts; makes it (mode 0700) where it is missing.

    The lock is the kernel's (flock), so it ends with the process, however that dies.

    Args:
        path: the directory.
        verb: what it is held for, which others are told.

    Raises:
        HeldByVerb: another process holds it, for a verb that is not a node.
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
            raise _held(path, fd) from exc
        except OSError as exc:
            raise unusable(path, exc) from exc
        with suppress(OSError):  # on a full disk the file says nothing
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {verb}\n".encode(), 0)
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _held(path: Path, fd: int) -> DataDirLocked:
    try:
        found = _HOLDER.fullmatch(os.pread(fd, _HOLDER_BYTES, 0))
    except OSError:
        found = None
    pid, verb = (part.decode() for part in found.groups()) if found else ("", NODE)
    process = f" (process {pid})" if pid else ""
    if verb != NODE:
        return HeldByVerb(
            f"the command `{verb}`{process} works in {path}",
            hint="wait until it is done, or stop it",
        )
    return DataDirLocked(
        f"another peatnet node runs on {path}{process}",
        hint="stop it, or use another --data-dir; commands reach a running node by themselves",
    )


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
