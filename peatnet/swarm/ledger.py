"""What a download has to show: bytes verified, bytes that came twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peatnet.errors import LocalProtocolError

if TYPE_CHECKING:
    from peatnet.swarm.availability import ChunkSet


class Ledger:
    """The byte counts of one blob. `verified` never falls.

    Args:
        n_chunks: chunks in the blob.
        chunk_size: bytes in each but the last.
        size: bytes in the blob.

    Raises:
        LocalProtocolError: if these do not fit each other.
    """

    __slots__ = ("_last", "_last_length", "chunk_size", "duplicates", "verified")

    def __init__(self, n_chunks: int, chunk_size: int, size: int) -> None:
        if chunk_size < 1 or n_chunks < 1 or -(-size // chunk_size) != n_chunks:
            raise LocalProtocolError(
                f"swarm: {size} bytes in chunks of {chunk_size} are not {n_chunks} chunks"
            )
        self.chunk_size = chunk_size
        self._last = n_chunks - 1
        self._last_length = size - self._last * chunk_size
        self.verified = 0
        self.duplicates = 0

    def length(self, index: int) -> int:
        """Bytes in a chunk."""
        return self.chunk_size if index < self._last else self._last_length

    def recovered(self, have: ChunkSet) -> None:
        """These chunks were there before the download began."""
        self.verified = have.count * self.chunk_size
        if self._last in have:
            self.verified -= self.chunk_size - self._last_length

    def found(self, index: int) -> int:
        """A missing chunk is there now: so many bytes."""
        length = self.length(index)
        self.verified += length
        return length

    def came_twice(self, index: int) -> None:
        """A source brought a chunk that was there."""
        self.duplicates += self.length(index)
