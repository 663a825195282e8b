"""An open file that several threads use by offset and that one of them closes safely."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from peatnet.blobs.durable import write_all
from peatnet.blobs.oserrors import os_errors, translated
from peatnet.errors import LocalProtocolError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer


class FileHandle:
    """A file descriptor that is closed only when no call uses it.

    The kernel hands out a closed descriptor's number again: a `pwrite` that came too late would go
    into another file. So each call announces itself, under a lock that is not held over the I/O.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path
        self._users = 0
        self._closing = False
        self._idle = threading.Condition(threading.Lock())
        # The kernel lets one thread at a time write into a file, and lets the others wait for it in a busy loop.
        # Waiting for this instead costs nothing, and holds up nobody who would not have to wait anyway.
        self._writing = threading.Lock()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def acquire(self) -> int:
        """The descriptor, to be given back with `release`.

        Raises:
            LocalProtocolError: it is closed.
        """
        with self._idle:
            if self._closing:
                raise LocalProtocolError(f"{self._path} is closed")
            self._users += 1
            return self._fd

    def release(self) -> None:
        """Give the descriptor back."""
        with self._idle:
            self._users -= 1
            if self._closing and not self._users:
                self._idle.notify_all()

    def close(self) -> bool:
        """Wait for calls under way and close; False when it was closed already."""
        with self._idle:
            if self._closing:
                return False
            self._closing = True
            self._idle.wait_for(lambda: not self._users)
        os.close(self._fd)
        return True

    def write(self, data: Buffer, offset: int) -> None:
        """Write all of ``data`` at ``offset``.

        Raises:
            DiskFull: there is no room.
            StorageError: the write failed in another way.
        """
        fd = self.acquire()
        try:
            with self._writing:
                write_all(fd, data, offset)
        except OSError as exc:
            raise translated(exc, "writing", self._path) from exc
        finally:
            self.release()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from ``offset`` on.

        Raises:
            StorageError: reading failed, or the file ends before.
        """
        fd = self.acquire()
        try:
            done = os.preadv(fd, [buffer], offset)
            while done < len(buffer):
                got = os.preadv(fd, [buffer[done:]], offset + done)
                if got == 0:
                    raise StorageError(
                        f"{self._path} is shorter than it should be",
                        hint="run `peatnet verify`",
                    )
                done += got
        except OSError as exc:
            raise translated(exc, "reading", self._path) from exc
        finally:
            self.release()

    def sync(self, *, data_only: bool) -> None:
        """``fdatasync`` or ``fsync``.

        Raises:
            DiskFull: there is no room after all.
            StorageError: the disk failed.
        """
        fd = self.acquire()
        try:
            with os_errors("syncing", self._path):
                if data_only:
                    os.fdatasync(fd)
                else:
                    os.fsync(fd)
        finally:
            self.release()
