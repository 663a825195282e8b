from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
from typing import TYPE_CHECKING

import pytest
from blobs_tools import K64, Bench, chunk_of, content, fill, names_in, write_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peatnet.blobs import Bitmap, Hash, WholeHasher
from peatnet.errors import (
    AlreadyExists,
    IntegrityError,
    InUse,
    LocalProtocolError,
    NotFound,
    StorageError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.blobs import FileHashes

SIZE = 20 * K64 + 7
N = 21


@pytest.fixture
def wanted(tmp_path: Path) -> FileHashes:
    return write_file(tmp_path / "source", SIZE)


@pytest.fixture
def data() -> bytes:
    return content(SIZE)


def test_a_download_from_the_first_byte_to_the_last(
    bench: Bench, wanted: FileHashes, data: bytes
) -> None:
    blob, table = wanted.blake3, wanted.table
    partial = bench.store.start_partial(table, blob)
    assert bench.store.pins() == {blob: {"download"}}
    assert bench.store.partial(blob) is partial
    assert partial.recovered_bytes == 0
    hasher = WholeHasher(partial, sha256=True)
    order = list(range(N))
    random.Random(1).shuffle(order)
    for count, index in enumerate(order):
        assert not partial.complete
        assert partial.verified_bytes == sum(table.length_of(i) for i in order[:count])
        assert not partial.has(index)
        assert partial.write(index, chunk_of(data, table, index))
        assert not partial.write(index, chunk_of(data, table, index))
        assert partial.has(index)
        hasher.advance(3 * K64)
    assert partial.complete
    assert partial.have() == Bitmap.full(N).to_bytes()
    while not hasher.done:
        hasher.advance(3 * K64)
    assert hasher.advance(K64) == hasher.position == SIZE
    assert hasher.blake3 == blob
    assert hasher.sha256 == wanted.sha256
    info = bench.store.commit(partial, sha256=wanted.sha256, pin="user")
    assert info.path.read_bytes() == data
    assert bench.store.partial(blob) is None
    assert bench.store.pins() == {blob: {"user"}}
    assert names_in(bench.root / "partial") == []
    assert bench.store.used_bytes == SIZE
    partial.close()
    with pytest.raises(AlreadyExists):
        bench.store.start_partial(table, blob)
    assert bench.again().info(blob) == info


def test_a_chunk_that_is_not_what_the_table_says_is_not_written(
    bench: Bench, wanted: FileHashes, data: bytes
) -> None:
    with bench.store.start_partial(wanted.table, wanted.blake3) as partial:
        for bad in (data[1 : K64 + 1], data[: K64 - 1], data[: K64 + 1], b"", data[K64 : 2 * K64]):
            with pytest.raises(IntegrityError, match="chunk 0"):
                partial.write(0, bad)
        assert not partial.has(0)
        assert partial.verified_bytes == 0
        for index in (-1, N):
            with pytest.raises(LocalProtocolError):
                partial.write(index, b"")
        with pytest.raises(LocalProtocolError, match="not complete"):
            bench.store.commit(partial, sha256=wanted.sha256)
    path = bench.root / "partial" / f"{wanted.blake3}.blob"
    assert path.read_bytes() == bytes(SIZE)


def test_reading_back_while_it_fills(bench: Bench, wanted: FileHashes, data: bytes) -> None:
    buffer = memoryview(bytearray(K64))
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    reader = bench.store.open_reader(wanted.blake3)
    assert reader is not None
    with pytest.raises(LocalProtocolError):
        partial.read_into(3, buffer)
    with pytest.raises(NotFound):
        reader.read_into(3, buffer)
    partial.write(3, chunk_of(data, wanted.table, 3))
    assert partial.read_into(3, buffer) == K64
    assert buffer == chunk_of(data, wanted.table, 3)
    with pytest.raises(LocalProtocolError):
        partial.read_into(3, buffer[1:])
    assert reader.has(3)
    assert reader.have() == partial.have() == b"\x08\x00\x00"
    assert not reader.complete
    fill(partial, data)
    info = bench.store.commit(partial, sha256=wanted.sha256)
    assert reader.has(20)
    assert reader.read_into(20, buffer) == 7
    with pytest.raises(InUse):
        bench.store.remove(info.hash)
    reader.close()
    bench.store.remove(info.hash)


def test_discarding_ends_its_readers(bench: Bench, wanted: FileHashes, data: bytes) -> None:
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    partial.write(0, data[:K64])
    reader = bench.store.open_reader(wanted.blake3)
    assert reader is not None
    bench.store.discard(wanted.blake3)
    assert not reader.has(0)
    with bench.store.start_partial(wanted.table, wanted.blake3) as again:
        assert again.recovered_bytes == 0
        fresh = bench.store.open_reader(wanted.blake3)
        assert fresh is not None
        reader.close()
        again.write(0, data[:K64])
        assert fresh.has(0)
        fresh.close()
    with pytest.raises(LocalProtocolError):
        partial.write(1, chunk_of(data, wanted.table, 1))
    bench.store.discard(wanted.blake3)
    assert names_in(bench.root / "partial") == []
    assert bench.store.pins() == {}
    assert bench.store.used_bytes == 0
    bench.store.discard(Hash(bytes(32)))


def test_only_one_may_fill_it(bench: Bench, wanted: FileHashes) -> None:
    with bench.store.start_partial(wanted.table, wanted.blake3):
        with pytest.raises(InUse):
            bench.store.start_partial(wanted.table, wanted.blake3)
        with pytest.raises(InUse):
            bench.store.start_loose(wanted.blake3, SIZE)


def test_another_table_is_refused_or_replaces(
    bench: Bench, wanted: FileHashes, data: bytes, tmp_path: Path
) -> None:
    other = write_file(tmp_path / "other", SIZE, seed=5).table
    with bench.store.start_partial(other, wanted.blake3) as partial:
        partial.write(1, chunk_of(content(SIZE, 5), other, 1))
    with pytest.raises(IntegrityError, match="another chunk table"):
        bench.store.start_partial(wanted.table, wanted.blake3)
    with bench.store.start_partial(wanted.table, wanted.blake3, replace=True) as partial:
        assert partial.recovered_bytes == 0
        fill(partial, data)
        assert bench.store.commit(partial, sha256=wanted.sha256).path.read_bytes() == data


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    written=st.sets(st.integers(0, N - 1)),
    spoiled=st.sets(st.integers(0, N - 1)),
    have=st.one_of(st.none(), st.binary(max_size=4), st.just(b"\xff\xff\x1f")),
    length=st.sampled_from([SIZE, 0, 3 * K64 + 5, SIZE + K64]),
)
def test_resuming_counts_what_matches_whatever_the_bitmap_says(
    bench: Bench,
    wanted: FileHashes,
    data: bytes,
    written: set[int],
    spoiled: set[int],
    have: bytes | None,
    length: int,
) -> None:
    blob, table = wanted.blake3, wanted.table
    with bench.store.start_partial(table, blob) as partial:
        for index in written:
            partial.write(index, chunk_of(data, table, index))
    path = bench.root / "partial" / f"{blob}.blob"
    with path.open("r+b") as file:
        for index in spoiled:
            file.seek(table.offset_of(index) + 3)
            file.write(b"spoiled"[: table.length_of(index) - 3])
    os.truncate(path, length)
    if have is None:
        path.with_suffix(".have").unlink()
    else:
        path.with_suffix(".have").write_bytes(have)
    expected = {
        index
        for index in written - spoiled
        if table.offset_of(index) + table.length_of(index) <= length
    }
    store = bench.again()
    seen: list[int] = []
    with store.start_partial(table, blob, progress=seen.append) as partial:
        assert set(range(N)) - set(partial.missing()) == expected
        assert partial.recovered_bytes == sum(table.length_of(index) for index in expected)
        assert seen == sorted(seen)
        fill(partial, data)
        assert partial.complete
    store.discard(blob)


def test_resuming_does_not_read_what_was_never_written(
    disk_bench: Bench, wanted: FileHashes, data: bytes
) -> None:
    with disk_bench.store.start_partial(wanted.table, wanted.blake3) as partial:
        partial.write(7, chunk_of(data, wanted.table, 7))
        probe = os.open(disk_bench.root / "partial" / f"{wanted.blake3}.blob", os.O_RDONLY)
        try:
            sparse = os.lseek(probe, 0, os.SEEK_DATA) > 0
        finally:
            os.close(probe)
    if not sparse:
        pytest.skip("this file system does not tell data from holes")
    seen: list[int] = []
    with disk_bench.store.start_partial(
        wanted.table, wanted.blake3, progress=seen.append
    ) as partial:
        assert partial.recovered_bytes == K64
    assert seen == [K64]


def test_resuming_works_where_the_file_system_cannot_tell_data_from_holes(
    bench: Bench, wanted: FileHashes, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.store.start_partial(wanted.table, wanted.blake3) as partial:
        partial.write(7, chunk_of(data, wanted.table, 7))

    def refuse(fd: int, position: int, how: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "lseek", refuse)
    seen: list[int] = []
    with bench.store.start_partial(wanted.table, wanted.blake3, progress=seen.append) as partial:
        assert partial.recovered_bytes == K64
    assert seen[-1] == SIZE


def test_what_is_known_of_an_unfinished_blob_without_opening_it(
    bench: Bench, wanted: FileHashes, data: bytes
) -> None:
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    partial.write(20, data[20 * K64 :])
    (info,) = bench.store.partials()
    assert (info.hash, info.size, info.verified_bytes) == (wanted.blake3, SIZE, 7)
    (info,) = bench.again().partials()
    assert (info.hash, info.size, info.verified_bytes) == (wanted.blake3, SIZE, 7)
    assert bench.store.used_bytes == SIZE
    (bench.root / "partial" / f"{wanted.blake3}.have").write_bytes(b"bad")
    assert bench.store.partials()[0].verified_bytes == 0
    (bench.root / "partial" / f"{wanted.blake3}.have").unlink()
    assert bench.store.partials()[0].verified_bytes == 0


def test_the_bitmap_never_claims_what_was_written_after_the_sync_began(
    bench: Bench, wanted: FileHashes, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    partial.write(0, data[:K64])
    real = os.fdatasync
    events: list[str] = []
    have = bench.root / "partial" / f"{wanted.blake3}.have"

    def sync(fd: int) -> None:
        assert not have.exists()
        partial.write(1, data[K64 : 2 * K64])
        events.append("sync")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", sync)
        partial.flush()
    assert events == ["sync"]
    assert have.read_bytes() == b"\x01\x00\x00"
    partial.flush()
    assert have.read_bytes() == b"\x03\x00\x00"
    partial.close()


def test_nothing_new_costs_no_sync(
    bench: Bench, wanted: FileHashes, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    partial.write(0, data[:K64])
    partial.flush()

    def never(fd: int) -> None:
        pytest.fail("synced")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", never)
        partial.flush()
        partial.close()


def test_after_a_failed_sync_nothing_is_called_durable(
    bench: Bench, wanted: FileHashes, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    fill(partial, data)

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(StorageError, match="Input/output"):
            partial.flush()
    with pytest.raises(StorageError, match="earlier sync"):
        partial.flush()
    with pytest.raises(StorageError, match="earlier sync"):
        bench.store.commit(partial, sha256=wanted.sha256)
    with pytest.raises(StorageError, match="earlier sync"):
        partial.close()
    assert not (bench.root / "partial" / f"{wanted.blake3}.have").exists()
    assert bench.store.used_bytes == SIZE
    with bench.store.start_partial(wanted.table, wanted.blake3) as again:
        assert bench.store.commit(again, sha256=wanted.sha256).path.read_bytes() == data


def test_several_threads_write_flush_and_read(  # noqa: C901 - three kinds of threads
    bench: Bench, wanted: FileHashes, data: bytes
) -> None:
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    reader = bench.store.open_reader(wanted.blake3)
    assert reader is not None
    new: list[int] = []
    errors: list[BaseException] = []
    start = threading.Barrier(7)

    def write(seed: int) -> None:
        order = list(range(N))
        random.Random(seed).shuffle(order)
        start.wait()
        new.extend(i for i in order if partial.write(i, chunk_of(data, wanted.table, i)))

    def flush() -> None:
        start.wait()
        while not partial.complete:
            partial.flush()

    def read() -> None:
        buffer = memoryview(bytearray(K64))
        start.wait()
        while not reader.complete:
            for index in range(N):
                if reader.has(index):
                    length = reader.read_into(index, buffer)
                    assert wanted.table.matches(index, buffer[:length])

    def guarded(work: object, *args: object) -> None:
        try:
            work(*args)  # type: ignore[operator]  # one of the three above
        except BaseException as exc:  # noqa: BLE001 - handed to the test
            errors.append(exc)

    threads = [threading.Thread(target=guarded, args=(write, seed)) for seed in range(4)]
    threads += [threading.Thread(target=guarded, args=(work,)) for work in (flush, flush, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader.close()
    assert errors == []
    # Each chunk was new for exactly one of them.
    assert sorted(new) == list(range(N))
    assert partial.verified_bytes == SIZE
    assert bench.store.commit(partial, sha256=wanted.sha256).path.read_bytes() == data


def test_closing_waits_for_a_write_under_way(
    bench: Bench, wanted: FileHashes, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    real = os.pwrite
    inside, may_go_on = threading.Event(), threading.Event()

    def slow(fd: int, view: bytes, offset: int) -> int:
        inside.set()
        may_go_on.wait()
        return real(fd, view, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", slow)
        writer = threading.Thread(target=partial.write, args=(0, data[:K64]))
        closer = threading.Thread(target=partial.abandon)
        writer.start()
        inside.wait()
        closer.start()
        while not partial._handle.closed:
            pass
        # It has begun to close, and cannot have ended: the write is still in there.
        assert closer.is_alive()
        may_go_on.set()
        writer.join()
        closer.join()
    assert partial.has(0)
    with pytest.raises(LocalProtocolError):
        partial.write(1, data[K64 : 2 * K64])


def test_the_whole_is_hashed_only_as_far_as_it_is_there(
    bench: Bench, wanted: FileHashes, data: bytes
) -> None:
    with bench.store.start_partial(wanted.table, wanted.blake3) as partial:
        hasher = WholeHasher(partial, sha256=False)
        assert hasher.advance(10**9) == 0
        for index in (0, 1, 3):
            partial.write(index, chunk_of(data, wanted.table, index))
        assert hasher.advance(1) == K64
        assert hasher.advance(10**9) == 2 * K64
        with pytest.raises(LocalProtocolError):
            _ = hasher.blake3
        with pytest.raises(LocalProtocolError):
            _ = hasher.sha256
        fill(partial, data)
        assert hasher.advance(10**9) == SIZE
        assert hasher.blake3 == wanted.blake3
        assert hasher.sha256 is None


def test_a_wrong_table_shows_in_the_whole(bench: Bench, wanted: FileHashes, data: bytes) -> None:
    claimed = Hash.of(b"something else")
    with bench.store.start_partial(wanted.table, claimed) as partial:
        fill(partial, data)
        hasher = WholeHasher(partial, sha256=True)
        hasher.advance(SIZE)
        assert hasher.blake3 != claimed
        assert hasher.sha256 == hashlib.sha256(data).hexdigest()
    bench.store.discard(claimed)


def test_a_file_that_shrinks_under_the_hasher_is_an_error(
    bench: Bench, wanted: FileHashes, data: bytes
) -> None:
    with bench.store.start_partial(wanted.table, wanted.blake3) as partial:
        fill(partial, data)
        os.truncate(bench.root / "partial" / f"{wanted.blake3}.blob", 5 * K64)
        with pytest.raises(StorageError, match="shorter"):
            WholeHasher(partial, sha256=True).advance(SIZE)


def test_committing_what_was_added_meanwhile(
    bench: Bench, wanted: FileHashes, data: bytes, tmp_path: Path
) -> None:
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    fill(partial, data)
    info = bench.store.add_file(tmp_path / "source")
    assert bench.store.commit(partial, sha256=wanted.sha256) == info
    assert names_in(bench.root / "partial") == []
    assert bench.store.used_bytes == SIZE


def test_committing_wrongly_is_our_mistake(bench: Bench, wanted: FileHashes, data: bytes) -> None:
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    fill(partial, data)
    with pytest.raises(LocalProtocolError, match="SHA-256"):
        bench.store.commit(partial, sha256="")
    partial.close()
    with pytest.raises(LocalProtocolError, match="not open"):
        bench.store.commit(partial, sha256=wanted.sha256)


def test_something_in_the_place_of_the_file_is_a_clear_error(
    bench: Bench, wanted: FileHashes, tmp_path: Path
) -> None:
    path = bench.root / "partial" / f"{wanted.blake3}.blob"
    path.mkdir()
    with pytest.raises(StorageError) as caught:
        bench.store.start_partial(wanted.table, wanted.blake3)
    assert caught.value.hint
    path.rmdir()
    path.symlink_to(tmp_path / "source")
    with pytest.raises(StorageError):
        bench.store.start_partial(wanted.table, wanted.blake3)
    assert (tmp_path / "source").read_bytes() == content(SIZE)
