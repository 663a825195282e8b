"""Chunk tables: how a blob is cut, and the BLAKE3 of each piece."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from blake3 import blake3

from peatnet.blobs.hashes import HASH_BYTES, Hash
from peatnet.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from peatnet.blobs.bitmap import Bitmap

MIN_CHUNK_SIZE = 64 * 1024
MAX_CHUNK_SIZE = 4 * 1024 * 1024
DEFAULT_CHUNK_SIZE = 1024 * 1024
"""Bytes in a chunk unless said otherwise, of a large blob; a power of two, as all chunk sizes are."""

SMALL_CHUNK_SIZE = 256 * 1024
ENOUGH_CHUNKS = 256
"""A smaller blob is cut into as many chunks as this, if they need not be smaller than `SMALL_CHUNK_SIZE`.

Peers pass on whole chunks, so each of them waits for its first one and for its last: with few large chunks, that
waiting is a large part of the whole (see bench/simulate.py). Each chunk costs work, so there are no more than help.
"""

MAX_CHUNKS = 2**20
"""The most chunks a blob may have: its table is then 32 MiB."""

_MAGIC = b"peatnet table 1\n"
_HEAD = struct.Struct(">QI")
_OVERHEAD = len(_MAGIC) + _HEAD.size + HASH_BYTES

MAX_ENCODED = _OVERHEAD + MAX_CHUNKS * HASH_BYTES
"""The longest a table file may be, in bytes."""


def chunk_count(size: int, chunk_size: int) -> int:
    """How many chunks ``size`` bytes make; the last one may be shorter."""
    return -(-size // chunk_size)


def is_chunk_size(value: int) -> bool:
    """Whether chunks may have this size: a power of two from 64 KiB to 4 MiB."""
    return MIN_CHUNK_SIZE <= value <= MAX_CHUNK_SIZE and value & (value - 1) == 0


def pick_chunk_size(size: int, wanted: int | None = None) -> int:
    """The chunk size to publish a file of ``size`` bytes with.

    Args:
        size: of the file, in bytes.
        wanted: what the caller asks for; None takes 1 MiB, less for a file below 256 MiB (256 KiB at the least),
            or more where the file would otherwise have too many chunks.

    Raises:
        UsageError: the file is empty or too large, or the wanted size cannot be used.
    """
    if size <= 0:
        raise UsageError("an empty file cannot be published")
    if wanted is None:
        wanted = DEFAULT_CHUNK_SIZE
        while wanted > SMALL_CHUNK_SIZE and chunk_count(size, wanted) < ENOUGH_CHUNKS:
            wanted //= 2
        while wanted < MAX_CHUNK_SIZE and chunk_count(size, wanted) > MAX_CHUNKS:
            wanted *= 2
    if not is_chunk_size(wanted):
        raise UsageError(
            f"chunk size {wanted} cannot be used",
            hint=f"take a power of two from {MIN_CHUNK_SIZE} to {MAX_CHUNK_SIZE} bytes",
        )
    if chunk_count(size, wanted) > MAX_CHUNKS:
        raise UsageError(
            f"{size} bytes in chunks of {wanted} are more than {MAX_CHUNKS} chunks",
            hint="take larger chunks, or split the file",
        )
    return wanted


@dataclass(frozen=True, slots=True)
class ChunkTable:
    """The digests of all chunks of one blob, in order; valid once constructed.

    Args:
        size: of the blob, in bytes; at least 1.
        chunk_size: in bytes; a power of two from 64 KiB to 4 MiB.
        digests: the 32-byte BLAKE3 digests, one after the other.

    Raises:
        IntegrityError: the three do not fit together.
    """

    size: int
    chunk_size: int
    digests: bytes = field(repr=False)
    table_hash: Hash = field(init=False, compare=False)
    """BLAKE3 over the concatenated digests: what a publisher signs."""

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise IntegrityError(f"a chunk table for {self.size} bytes")
        if not is_chunk_size(self.chunk_size):
            raise IntegrityError(f"a chunk table with chunks of {self.chunk_size} bytes")
        if self.n_chunks > MAX_CHUNKS:
            raise IntegrityError(f"a chunk table with {self.n_chunks} chunks")
        if len(self.digests) != HASH_BYTES * self.n_chunks:
            raise IntegrityError(
                f"a chunk table of {len(self.digests)} bytes for {self.n_chunks} chunks"
            )
        object.__setattr__(self, "table_hash", Hash.of(self.digests))

    @classmethod
    def of_one_chunk(cls, blob: Hash, size: int, chunk_size: int) -> Self:
        """The table of a blob that is one chunk: its only digest is the blob's own name.

        Raises:
            IntegrityError: so many bytes are more than one chunk, or none.
        """
        return cls(size, chunk_size, bytes(blob))

    @property
    def is_plain(self) -> bool:
        """Whether the blob's name and size tell all of it: one chunk, of the size that such a blob is published with."""
        return self.size <= self.chunk_size == SMALL_CHUNK_SIZE

    @property
    def n_chunks(self) -> int:
        """How many chunks there are."""
        return chunk_count(self.size, self.chunk_size)

    def offset_of(self, index: int) -> int:
        """Where chunk ``index`` begins in the blob, in bytes."""
        return index * self.chunk_size

    def length_of(self, index: int) -> int:
        """How many bytes chunk ``index`` has."""
        return min(self.chunk_size, self.size - index * self.chunk_size)

    def bytes_of(self, chunks: Bitmap) -> int:
        """How many bytes these chunks have together."""
        # Only the last chunk may be shorter than the others.
        last = self.n_chunks - 1
        short = self.chunk_size - self.length_of(last) if chunks.get(last) else 0
        return chunks.count * self.chunk_size - short

    def digest_of(self, index: int) -> bytes:
        """The BLAKE3 of chunk ``index``."""
        return self.digests[index * HASH_BYTES : (index + 1) * HASH_BYTES]

    def matches(self, index: int, data: Buffer) -> bool:
        """Whether ``data`` is chunk ``index``, byte for byte. Releases the GIL while it hashes."""
        view = memoryview(data)
        return view.nbytes == self.length_of(index) and blake3(view).digest() == self.digest_of(
            index
        )

    def encode(self) -> bytes:
        """The content of a ``.table`` file: head, digests, BLAKE3 of both."""
        body = b"".join((_MAGIC, _HEAD.pack(self.size, self.chunk_size), self.digests))
        return body + Hash.of(body)

    @classmethod
    def decode(cls, data: bytes) -> ChunkTable:
        """Read what `encode` wrote.

        Raises:
            IntegrityError: these bytes are anything else.
        """
        if not _OVERHEAD < len(data) <= MAX_ENCODED or not data.startswith(_MAGIC):
            raise IntegrityError("not a chunk table")
        body, checksum = data[:-HASH_BYTES], data[-HASH_BYTES:]
        if Hash.of(body) != checksum:
            raise IntegrityError("a damaged chunk table")
        size, chunk_size = _HEAD.unpack_from(body, len(_MAGIC))
        return cls(size, chunk_size, body[len(_MAGIC) + _HEAD.size :])
