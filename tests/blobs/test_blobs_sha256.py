"""SHA-256 of a blob that was fetched by its BLAKE3 alone: unknown until somebody needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from blobs_tools import K64, Bench, content, fill, write_file

from peatnet.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.blobs import FileHashes

SIZE = 3 * K64 + 7


@pytest.fixture
def wanted(tmp_path: Path) -> FileHashes:
    return write_file(tmp_path / "source", SIZE)


@pytest.fixture
def data() -> bytes:
    return content(SIZE)


def test_a_sha256_is_learned_when_somebody_needs_it(
    bench: Bench, wanted: FileHashes, data: bytes, tmp_path: Path
) -> None:
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    fill(partial, data)
    assert bench.store.commit(partial, sha256=None).sha256 is None
    assert bench.store.find_sha256(wanted.sha256) is None
    bench.again()
    info = bench.store.info(wanted.blake3)
    assert info is not None
    assert info.sha256 is None
    assert bench.store.learn_sha256(wanted.blake3).sha256 == wanted.sha256
    bench.again()
    assert bench.store.find_sha256(wanted.sha256) == bench.store.info(wanted.blake3)
    assert bench.store.learn_sha256(wanted.blake3) == bench.store.info(wanted.blake3)


def test_adding_a_file_whose_blob_is_here_tells_its_sha256(
    bench: Bench, wanted: FileHashes, data: bytes, tmp_path: Path
) -> None:
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    fill(partial, data)
    bench.store.commit(partial, sha256=None)
    (tmp_path / "source").write_bytes(data)
    assert bench.store.add_file(tmp_path / "source").sha256 == wanted.sha256


def test_a_blob_that_is_damaged_when_its_sha256_is_wanted_is_set_aside(
    bench: Bench, wanted: FileHashes, data: bytes
) -> None:
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    fill(partial, data)
    path = bench.store.commit(partial, sha256=None).path
    path.chmod(0o600)
    path.write_bytes(bytes(len(data)))
    with pytest.raises(StorageError, match="damaged"):
        bench.store.learn_sha256(wanted.blake3)
    assert bench.store.info(wanted.blake3) is None
