"""BLAKE3 and SHA-256 of the whole blob while it is still being filled."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from blake3 import blake3

from peatnet.blobs.hashes import Hash
from peatnet.blobs.hashing import pump
from peatnet.blobs.oserrors import os_errors
from peatnet.errors import LocalProtocolError, StorageError

if TYPE_CHECKING:
    from peatnet.blobs.hashing import Sink
    from peatnet.blobs.partial import PartialBlob


class WholeHasher:
    """Hashes a partial blob from its beginning, as far as it is there without a gap.

    One thread at a time, in which BLAKE3 and SHA-256 take turns: a thread for each would cost more than it saves, since
    BLAKE3 takes a fifth of the time and the pieces are short.

    Args:
        partial: the blob; it must stay open while `advance` runs.
        sha256: whether SHA-256 is wanted as well.
    """

    def __init__(self, partial: PartialBlob, *, sha256: bool) -> None:
        self._partial = partial
        self._blake3 = blake3()
        self._sha256 = hashlib.sha256() if sha256 else None
        self._sinks: list[Sink] = [self._blake3.update]
        if self._sha256 is not None:
            self._sinks.append(self._sha256.update)
        self._next_chunk = 0
        self._position = 0

    @property
    def position(self) -> int:
        """Bytes hashed so far, from the beginning."""
        return self._position

    @property
    def done(self) -> bool:
        """Whether the whole blob is hashed."""
        return self._position == self._partial.table.size

    @property
    def blake3(self) -> Hash:
        """The BLAKE3 of the whole.

        Raises:
            LocalProtocolError: not done yet.
        """
        self._check_done()
        return Hash(self._blake3.digest())

    @property
    def sha256(self) -> str | None:
        """The SHA-256 of the whole as 64 lower-case hex digits; None when it was not asked for.

        Raises:
            LocalProtocolError: not done yet.
        """
        self._check_done()
        return None if self._sha256 is None else self._sha256.hexdigest()

    def advance(self, max_bytes: int) -> int:
        """Hash what has become contiguous, at most about ``max_bytes`` (at least one chunk).

        Returns:
            Bytes hashed so far, from the beginning; the same as before when the next chunk is missing.

        Raises:
            StorageError: the file cannot be read. Nothing more can be hashed with this object then.
        """
        table = self._partial.table
        limit = self._position + max_bytes
        chunk = self._next_chunk
        while chunk < table.n_chunks and self._partial.has(chunk):
            if chunk > self._next_chunk and table.offset_of(chunk) >= limit:
                break
            chunk += 1
        end = min(table.size, table.offset_of(chunk))
        if end > self._position:
            with self._partial.reading() as fd, os_errors("reading", str(self._partial.hash)):
                reached = pump(fd, self._position, end, self._sinks, side_by_side=False)
            if reached != end:
                raise StorageError(f"the file of {self._partial.hash} became shorter")
            self._next_chunk, self._position = chunk, end
        return self._position

    def _check_done(self) -> None:
        if not self.done:
            raise LocalProtocolError("the whole is not hashed yet")
