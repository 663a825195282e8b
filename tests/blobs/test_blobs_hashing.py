from __future__ import annotations

import hashlib
import itertools
import os
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3
from blobs_tools import K64, content
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.blobs import hash_file
from peatnet.blobs.hashing import ChunkHasher, hash_fd, pump
from peatnet.errors import IntegrityError, StorageError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024


@pytest.mark.parametrize("chunk_size", [K64, MIB, 4 * MIB])
@pytest.mark.parametrize("size", [1, K64, 300_000, MIB, 9 * MIB + 5])
def test_all_three_hashes_equal_those_computed_one_by_one(
    tmp_path: Path, size: int, chunk_size: int
) -> None:
    data = content(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    seen: list[int] = []
    found = hash_file(path, chunk_size=chunk_size, progress=seen.append)
    assert found.blake3 == blake3(data).digest()
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.table.size == size
    assert found.table.digests == b"".join(
        blake3(data[at : at + chunk_size]).digest() for at in range(0, size, chunk_size)
    )
    assert seen == sorted(seen)
    assert seen[-1] == size


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(0, 5 * K64), max_size=10), tail=st.integers(0, K64))
def test_chunk_digests_do_not_depend_on_how_the_stream_is_cut(cuts: list[int], tail: int) -> None:
    data = content(4 * K64 + tail)
    hasher = ChunkHasher(K64)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in itertools.pairwise(edges):
        hasher.update(memoryview(data)[start:end])
    expected = b"".join(blake3(data[at : at + K64]).digest() for at in range(0, len(data), K64))
    assert hasher.digests() == expected


def test_an_error_in_a_sink_comes_out_of_the_pass(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(5 * MIB))

    def refuse(_: memoryview) -> None:
        raise ZeroDivisionError

    with path.open("rb") as file, pytest.raises(ZeroDivisionError):
        pump(file.fileno(), 0, 5 * MIB, [refuse, hashlib.sha256().update])


def test_progress_may_stop_the_pass(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(5 * MIB))

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hash_file(path, progress=stop)


@pytest.mark.parametrize("change", ["append", "truncate", "rewrite"])
def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(3 * MIB))

    def interfere(done: int) -> None:
        if done == MIB:
            if change == "append":
                with path.open("ab") as file:
                    file.write(b"more")
            elif change == "truncate":
                os.truncate(path, MIB + 1)
            else:
                os.utime(path, (1, 1))

    with pytest.raises(IntegrityError, match="changed"):
        hash_file(path, progress=interfere)


def test_what_cannot_be_published_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    for name in ("empty", "fifo", "."):
        with pytest.raises(UsageError):
            hash_file(tmp_path / name)
    with pytest.raises(StorageError, match="missing"):
        hash_file(tmp_path / "missing")


def test_a_read_error_is_translated(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    fd = os.open(path, os.O_WRONLY)
    try:
        with pytest.raises(StorageError, match="reading"):
            hash_fd(fd, path)
    finally:
        os.close(fd)
