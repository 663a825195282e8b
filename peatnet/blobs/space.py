"""Who holds how much of the quota, and whether the disk has room: asked before the first byte."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from peatnet.blobs.oserrors import os_errors
from peatnet.errors import DiskFull

if TYPE_CHECKING:
    from pathlib import Path


class Space:
    """The ledger of a store's bytes. Thread-safe.

    The quota counts the full size of every blob, complete or not; the floor is about what the file
    system says is free to us.

    Args:
        root: a directory on the file system in question.
        quota: the most bytes that may be held in all; None for no limit.
        free_floor: bytes that must stay free on the file system.
    """

    def __init__(self, root: Path, *, quota: int | None, free_floor: int) -> None:
        self._root = root
        self._quota = quota
        self._floor = free_floor
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        self._promised: dict[str, int] = {}
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    def hold(self, key: str, size: int) -> None:
        """Enter what is there already; never refused. Replaces what ``key`` held before."""
        with self._lock:
            self._used += size - self._held.get(key, 0)
            self._held[key] = size
            self._promised.pop(key, None)

    def claim(self, key: str, size: int, *, on_disk: int) -> None:
        """Ask for room for something new.

        Args:
            key: who holds it.
            size: bytes counted against the quota.
            on_disk: bytes that will be written; they count as gone from the free space until
                `settle`, when the file system itself knows of them.

        Raises:
            DiskFull: the quota or the floor would be broken; nothing is held then.
        """
        with os_errors("looking at the free space of", self._root):
            status = os.statvfs(self._root)
        free = status.f_bavail * status.f_frsize
        with self._lock:
            used = self._used - self._held.get(key, 0)
            if self._quota is not None and used + size > self._quota:
                raise DiskFull(
                    f"{size} bytes do not fit: the quota of {self._quota} bytes has"
                    f" {max(0, self._quota - used)} left",
                    hint="raise the quota, or free some space with `peatnet gc`",
                )
            promised = sum(self._promised.values()) - self._promised.get(key, 0)
            if on_disk and free - promised - on_disk < self._floor:
                raise DiskFull(
                    f"{on_disk} bytes do not fit in {self._root}: {max(0, free - promised)} are"
                    f" free, of which {self._floor} must stay free",
                    hint="free some space, for example with `peatnet gc`",
                )
            self._used = used + size
            self._held[key] = size
            self._promised[key] = on_disk

    def settle(self, key: str) -> None:
        """The bytes of ``key`` are allocated: the file system counts them from now on."""
        with self._lock:
            self._promised.pop(key, None)

    def transfer(self, source: str, target: str) -> None:
        """What ``source`` holds is held by ``target`` from now on."""
        with self._lock:
            self._used -= self._held.get(target, 0)
            self._held[target] = self._held.pop(source, 0)
            self._promised.pop(source, None)

    def release(self, key: str) -> None:
        """``key`` holds nothing any more; fine when it never did."""
        with self._lock:
            self._used -= self._held.pop(key, 0)
            self._promised.pop(key, None)


def allocate(fd: int, size: int) -> None:
    """Make a file ``size`` bytes long with its blocks reserved; raises OSError when full."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as exc:
        # A file system without allocation: the length alone must do.
        if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(fd, size)
