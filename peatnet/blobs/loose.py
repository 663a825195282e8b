"""A download without a chunk table: bytes in order, verified only when all of them are there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from peatnet.blobs.durable import read_bounded, unlink_durable, write_atomic
from peatnet.blobs.oserrors import os_errors
from peatnet.errors import IntegrityError, LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import Buffer

    from peatnet.blobs.handle import FileHandle
    from peatnet.blobs.hashes import Hash

MAX_NOTE = 512
"""The most bytes a note may have."""


class LoosePartial:
    """An unverified file that grows from its beginning. Made by `Store.start_loose`; one user.

    Its length on disk is what has been received; nothing of it is served or trusted.
    """

    name: Hash
    """What it is kept under: the blob's hash, or its SHA-256 where that is all that is known."""
    size: int
    """Of the whole, in bytes, as the manifest says."""

    def __init__(
        self,
        name: Hash,
        size: int,
        handle: FileHandle,
        received: int,
        note_path: Path,
        on_close: Callable[[LoosePartial], None],
    ) -> None:
        self.name = name
        self.size = size
        self._handle = handle
        self._received = received
        self._note_path = note_path
        self._on_close = on_close

    @property
    def received(self) -> int:
        """Bytes that are there, from the beginning."""
        return self._received

    @property
    def complete(self) -> bool:
        """Whether all bytes are there (which says nothing about their being right)."""
        return self._received == self.size

    @property
    def note(self) -> str:
        """What was left here to resume with, such as an HTTP validator; empty when nothing was."""
        data = read_bounded(self._note_path, MAX_NOTE)
        try:
            return "" if data is None else data.decode()
        except UnicodeDecodeError:
            return ""

    @note.setter
    def note(self, text: str) -> None:
        data = text.encode()
        if len(data) > MAX_NOTE:
            raise LocalProtocolError(f"a note of {len(data)} bytes")
        write_atomic(self._note_path, data)

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write bytes at or before the end of what is there.

        Raises:
            IntegrityError: they run beyond the size that the manifest gives; nothing is written.
            DiskFull: there is no room; what was there stays.
            StorageError: the write failed.
            LocalProtocolError: they would leave a gap, or this is closed.
        """
        end = offset + memoryview(data).nbytes
        if not 0 <= offset <= self._received:
            raise LocalProtocolError(f"offset {offset} with {self._received} bytes there")
        if end > self.size:
            raise IntegrityError(f"more than the {self.size} bytes that the manifest declares")
        self._handle.write(data, offset)
        self._received = max(self._received, end)

    def restart(self) -> None:
        """Throw away what is there, note and all, as when the server's file has changed."""
        fd = self._handle.acquire()
        try:
            with os_errors("truncating", str(self.name)):
                os.ftruncate(fd, 0)
        finally:
            self._handle.release()
        self._received = 0
        unlink_durable(self._note_path)

    def flush(self) -> None:
        """Make what is there durable.

        Raises:
            StorageError: the disk failed.
        """
        self._handle.sync(data_only=False)

    def close(self) -> None:
        """Close; it stays on disk for later. Closing again does nothing."""
        if self._handle.close():
            self._on_close(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
