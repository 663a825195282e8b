from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from blobs_tools import K64, Bench, content, names_in, write_file

from peatnet.blobs import MAX_NOTE, Hash
from peatnet.errors import AlreadyExists, IntegrityError, InUse, LocalProtocolError

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.blobs import FileHashes

SIZE = 5 * K64 + 7


@pytest.fixture
def wanted(tmp_path: Path) -> FileHashes:
    return write_file(tmp_path / "source", SIZE)


@pytest.fixture
def data() -> bytes:
    return content(SIZE)


def test_grows_resumes_and_becomes_a_blob(bench: Bench, wanted: FileHashes, data: bytes) -> None:
    name = Hash.parse(wanted.sha256)
    loose = bench.store.start_loose(name, SIZE)
    assert loose.note == ""
    loose.note = 'etag "abc"'
    loose.write_at(0, data[:1000])
    assert loose.received == 1000
    assert bench.store.open_reader(name) is None
    with pytest.raises(LocalProtocolError, match="not complete"):
        bench.store.adopt_loose(loose, expect_sha256=wanted.sha256, expect_blob_hash=None)
    loose = bench.again().start_loose(name, SIZE)
    assert loose.received == 1000
    assert loose.note == 'etag "abc"'
    loose.write_at(900, data[900:])
    loose.flush()
    assert loose.complete
    info = bench.store.adopt_loose(
        loose, expect_sha256=wanted.sha256.upper(), expect_blob_hash=wanted.blake3, pin="user"
    )
    assert info.hash == wanted.blake3
    assert info.path.read_bytes() == data
    assert names_in(bench.root / "partial") == []
    assert bench.store.pins() == {info.hash: {"user"}}
    assert bench.store.used_bytes == SIZE
    assert bench.again().verify().good == [info.hash]


@pytest.mark.parametrize("wrong", ["sha256", "blake3"])
def test_what_is_not_the_blob_is_discarded(
    bench: Bench, wanted: FileHashes, data: bytes, wrong: str
) -> None:
    loose = bench.store.start_loose(wanted.blake3, SIZE)
    loose.write_at(0, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError):
        bench.store.adopt_loose(
            loose,
            expect_sha256=wanted.sha256 if wrong == "sha256" else None,
            expect_blob_hash=wanted.blake3 if wrong == "blake3" else None,
        )
    assert names_in(bench.root / "partial") == []
    assert bench.store.blobs() == []
    assert bench.store.pins() == {}
    assert bench.store.used_bytes == 0


def test_never_without_something_to_verify_against(
    bench: Bench, wanted: FileHashes, data: bytes
) -> None:
    with bench.store.start_loose(wanted.blake3, SIZE) as loose:
        loose.write_at(0, data)
        with pytest.raises(LocalProtocolError, match="verify"):
            bench.store.adopt_loose(loose, expect_sha256=None, expect_blob_hash=None)


def test_more_than_declared_is_refused(bench: Bench, wanted: FileHashes, data: bytes) -> None:
    with bench.store.start_loose(wanted.blake3, SIZE) as loose:
        loose.write_at(0, data)
        with pytest.raises(IntegrityError, match="declares"):
            loose.write_at(SIZE, b"x")
        assert loose.received == SIZE
        loose.restart()
        assert loose.received == 0
        with pytest.raises(LocalProtocolError, match="offset"):
            loose.write_at(1, b"x")
        with pytest.raises(LocalProtocolError):
            loose.note = "x" * (MAX_NOTE + 1)


def test_a_file_longer_than_declared_begins_again(bench: Bench, wanted: FileHashes) -> None:
    path = bench.root / "partial" / f"{wanted.blake3}.loose"
    path.write_bytes(content(SIZE + 1))
    path.with_suffix(".note").write_bytes(b"\xff")
    with bench.store.start_loose(wanted.blake3, SIZE) as loose:
        assert loose.received == 0
        assert loose.note == ""
    with pytest.raises(LocalProtocolError):
        bench.store.start_loose(wanted.blake3, 0)


def test_only_one_may_fill_it_and_only_what_is_not_here(bench: Bench, wanted: FileHashes) -> None:
    with bench.store.start_loose(wanted.blake3, SIZE):
        with pytest.raises(InUse):
            bench.store.start_loose(wanted.blake3, SIZE)
        assert bench.store.gc(set()).removed == []
    bench.store.discard(wanted.blake3)
    blob, _ = bench.add()
    with pytest.raises(AlreadyExists):
        bench.store.start_loose(blob, SIZE)


def test_adopting_what_was_added_meanwhile(
    bench: Bench, wanted: FileHashes, data: bytes, tmp_path: Path
) -> None:
    loose = bench.store.start_loose(wanted.blake3, SIZE)
    loose.write_at(0, data)
    info = bench.store.add_file(tmp_path / "source", chunk_size=K64)
    assert info == bench.store.adopt_loose(
        loose, expect_sha256=None, expect_blob_hash=wanted.blake3
    )
    assert names_in(bench.root / "partial") == []
    assert bench.store.used_bytes == SIZE
