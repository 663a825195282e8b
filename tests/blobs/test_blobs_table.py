from __future__ import annotations

import pytest
from blake3 import blake3
from blobs_tools import K64, content
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.blobs import (
    DEFAULT_CHUNK_SIZE,
    MAX_CHUNK_SIZE,
    MAX_CHUNKS,
    Bitmap,
    ChunkTable,
    Hash,
    pick_chunk_size,
)
from peatnet.blobs.table import SMALL_CHUNK_SIZE
from peatnet.errors import IntegrityError, LocalProtocolError, UsageError


def table_of(data: bytes, chunk_size: int = K64) -> ChunkTable:
    pieces = [data[at : at + chunk_size] for at in range(0, len(data), chunk_size)]
    return ChunkTable(len(data), chunk_size, b"".join(blake3(piece).digest() for piece in pieces))


@settings(deadline=None)
@given(
    n_chunks=st.integers(1, 50), last=st.integers(1, K64), fill=st.binary(min_size=1, max_size=9)
)
def test_chunks_tile_the_blob_and_the_encoding_round_trips(
    n_chunks: int, last: int, fill: bytes
) -> None:
    size = (n_chunks - 1) * K64 + last
    table = ChunkTable(size, K64, (fill * 32 * n_chunks)[: 32 * n_chunks])
    assert table.n_chunks == n_chunks
    assert sum(table.length_of(index) for index in range(n_chunks)) == size
    assert all(
        table.offset_of(index) + table.length_of(index) == table.offset_of(index + 1)
        for index in range(n_chunks - 1)
    )
    assert table.bytes_of(Bitmap.full(n_chunks)) == size
    assert table.bytes_of(Bitmap(n_chunks)) == 0
    assert table.table_hash == blake3(table.digests).digest()
    assert ChunkTable.decode(table.encode()) == table


@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_decode_refuses_anything_else(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        ChunkTable.decode(data)


@settings(deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_decode_sees_every_flipped_bit(at: int, bit: int) -> None:
    damaged = bytearray(table_of(content(3 * K64)).encode())
    damaged[at % len(damaged)] ^= 1 << bit
    with pytest.raises(IntegrityError):
        ChunkTable.decode(bytes(damaged))


@pytest.mark.parametrize(
    ("size", "chunk_size", "digests"),
    [
        (0, K64, 0),
        (-1, K64, 0),
        (1, K64, 0),
        (1, K64, 2),
        (K64 + 1, K64, 1),
        (1, K64 // 2, 1),
        (1, K64 + 1, 1),
        (1, MAX_CHUNK_SIZE * 2, 1),
        ((MAX_CHUNKS + 1) * K64, K64, 1),
    ],
)
def test_what_does_not_fit_together_is_refused(size: int, chunk_size: int, digests: int) -> None:
    with pytest.raises(IntegrityError):
        ChunkTable(size, chunk_size, bytes(32) * digests)


def test_matches_only_the_right_bytes_in_the_right_place() -> None:
    data = content(2 * K64 + 100)
    table = table_of(data)
    assert table.matches(0, data[:K64])
    assert table.matches(2, memoryview(data)[2 * K64 :])
    assert not table.matches(1, data[:K64])
    assert not table.matches(2, data[2 * K64 :] + b"\0")
    assert not table.matches(0, data[: K64 - 1])


def test_smaller_blobs_have_smaller_chunks() -> None:
    mib = 1024 * 1024
    sizes = {
        size: pick_chunk_size(size * mib) // 1024 for size in (1, 64, 127, 128, 255, 256, 4096)
    }
    assert sizes == {1: 256, 64: 256, 127: 256, 128: 512, 255: 512, 256: 1024, 4096: 1024}
    assert pick_chunk_size(1) == SMALL_CHUNK_SIZE


def test_chunk_size_grows_only_where_it_must() -> None:
    assert pick_chunk_size(MAX_CHUNKS * DEFAULT_CHUNK_SIZE) == DEFAULT_CHUNK_SIZE
    assert pick_chunk_size(MAX_CHUNKS * DEFAULT_CHUNK_SIZE + 1) == 2 * DEFAULT_CHUNK_SIZE
    assert pick_chunk_size(MAX_CHUNKS * MAX_CHUNK_SIZE) == MAX_CHUNK_SIZE
    assert pick_chunk_size(5, K64) == K64


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (0, None),
        (MAX_CHUNKS * MAX_CHUNK_SIZE + 1, None),
        (10, 1000),
        (10, K64 // 2),
        (MAX_CHUNKS * K64 + 1, K64),
    ],
)
def test_sizes_that_cannot_be_published(size: int, wanted: int | None) -> None:
    with pytest.raises(UsageError):
        pick_chunk_size(size, wanted)


def test_a_hash_is_32_bytes_and_reads_either_case() -> None:
    name = Hash.of(b"x")
    assert name == blake3(b"x").digest()
    assert Hash.parse(name.hex().upper()) == name
    assert str(name) == name.hex()
    assert repr(name) == f"Hash('{name.hex()}')"
    with pytest.raises(LocalProtocolError):
        Hash(b"short")


@pytest.mark.parametrize(
    "text", ["", "ab", "g" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "\u0660" * 64]
)
def test_what_is_no_hash_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Hash.parse(text)
