"""Making many new files and directories durable together.

On the file systems listed here that is one ``syncfs``: it writes out all data and commits the journal, names of files
and directories included, and returns when the disk has it. So it does for every file at once what an fsync of each
and of its directory does, at the price of one commit instead of hundreds. From Linux 5.8 on it also reports what could
not be written since its descriptor was opened, and so that is opened first; an older kernel would lose such an error.
What others have written to the same file system has to reach the disk too, which can take longer than our part of it.

On all other file systems (on a network, in user space, layered) each file and directory is synced by itself, a few at
a time.
"""

from __future__ import annotations

import ctypes
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from peatnet.blobs.oserrors import os_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SYNCFS_REACHES_THE_DISK = frozenset({"ext4", "xfs", "f2fs"})
REPORTS_ERRORS_FROM = (5, 8)
# Syncs that are under way at once, where each file has its own: those that wait share a commit of the journal.
SYNCS = 8


@contextmanager
def syncing(root: Path) -> Iterator[Callable[[Iterable[Path]], None]]:
    """For what is written below ``root``, on its file system, while the context lasts.

    Yields:
        What makes the given files and directories durable; raises StorageError or DiskFull where the disk refused.

    Raises:
        StorageError: the directory cannot be opened.
    """
    with os_errors("opening", root):
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs = _syncfs() if _kind_of(root) in SYNCFS_REACHES_THE_DISK else None

        def sync(paths: Iterable[Path]) -> None:
            wanted = list(paths)
            if syncfs is None:
                _sync_each(wanted)
            elif wanted:
                with os_errors("syncing", root):
                    syncfs(fd)

        yield sync
    finally:
        os.close(fd)


def _sync_each(paths: list[Path]) -> None:
    with ThreadPoolExecutor(SYNCS, "sync") as pool:
        for done in [pool.submit(_sync_one, path) for path in paths]:
            done.result()


def _sync_one(path: Path) -> None:
    with os_errors("syncing", path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@cache
def _syncfs() -> Callable[[int], None] | None:
    """The system call; None where there is none that tells of errors."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if release is None or (int(release[1]), int(release[2])) < REPORTS_ERRORS_FROM:
        return None
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if os.uname().sysname != "Linux" or call is None:
        return None

    def syncfs(fd: int) -> None:
        if call(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return syncfs


def _kind_of(root: Path) -> str | None:
    """The type of the file system that a directory is on, as the kernel calls it; None where that is not told."""
    try:
        device = root.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        # 36 35 98:0 /root /mount/point options [optional fields] - type source options
        fields, _, rest = line.partition(" - ")
        if fields.split(" ", 3)[2:3] == [wanted]:
            return rest.partition(" ")[0]
    return None
