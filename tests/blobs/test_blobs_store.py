from __future__ import annotations

import errno
import fcntl
import os
import threading
from typing import TYPE_CHECKING

import pytest
from blobs_tools import K64, Bench, chunk_of, content, names_in, overwrite

from peatnet.blobs import AddMode, Hash, clone, hash_file
from peatnet.blobs.clone import FICLONE, reflink
from peatnet.errors import (
    AlreadyExists,
    Ambiguous,
    IntegrityError,
    InUse,
    NotFound,
    StorageError,
    UsageError,
)

if TYPE_CHECKING:
    from pathlib import Path


SIZE = 5 * K64 + 7


def can_reflink(directory: Path) -> bool:
    (directory / "a").write_bytes(b"x")
    with (directory / "a").open("rb") as source, (directory / "b").open("wb") as target:
        return reflink(source.fileno(), target.fileno())


@pytest.mark.parametrize("mode", [AddMode.AUTO, AddMode.COPY, AddMode.HARDLINK, AddMode.MOVE])
def test_a_file_comes_in_whole_and_read_only(bench: Bench, tmp_path: Path, mode: AddMode) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(content(SIZE))
    expected = hash_file(source, chunk_size=K64)
    info = bench.store.add_file(source, mode=mode, chunk_size=K64, pin="user")
    assert (info.hash, info.sha256, info.table) == (
        expected.blake3,
        expected.sha256,
        expected.table,
    )
    assert info.path.read_bytes() == content(SIZE)
    assert info.path.stat().st_mode & 0o222 == 0
    assert source.exists() == (mode is not AddMode.MOVE)
    assert info.path.stat().st_nlink == (2 if mode is AddMode.HARDLINK else 1)
    assert names_in(bench.root / "partial") == []
    assert bench.store.used_bytes == SIZE
    assert bench.store.pins() == {info.hash: {"user"}}
    assert bench.again().blobs() == [info]
    assert bench.store.info(info.hash) == info
    assert bench.store.find_sha256(expected.sha256.upper()) == info
    assert bench.store.find_sha256("0" * 64) is None


def test_editing_the_source_after_a_copy_does_not_reach_the_blob(
    bench: Bench, tmp_path: Path
) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(content(SIZE))
    info = bench.store.add_file(source, chunk_size=K64)
    with source.open("r+b") as file:
        file.write(b"edited")
    assert info.path.read_bytes() == content(SIZE)


def test_a_reflink_shares_or_says_that_it_cannot(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(content(SIZE))
    if can_reflink(tmp_path):
        info = bench.store.add_file(source, mode=AddMode.REFLINK)
        assert info.path.read_bytes() == content(SIZE)
        return
    with pytest.raises(StorageError, match="reflink") as caught:
        bench.store.add_file(source, mode=AddMode.REFLINK)
    assert caught.value.hint
    assert names_in(bench.root / "partial") == []


def test_what_is_hashed_is_the_clone_and_not_the_source(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few test machines have a file system with reflinks: this kernel call stands in for theirs.
    source = tmp_path / "model.gguf"
    source.write_bytes(content(SIZE))

    def ficlone(target: int, request: int, original: int) -> int:
        assert request == FICLONE
        os.sendfile(target, original, 0, SIZE)
        source.write_bytes(b"edited meanwhile")
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "ioctl", ficlone)
        info = bench.store.add_file(source, chunk_size=K64)
    assert info.path.read_bytes() == content(SIZE)
    assert bench.store.verify().ok

    def fail(target: int, request: int, original: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "ioctl", fail)
    with pytest.raises(StorageError, match="Input/output"):
        bench.store.add_file(source)
    assert names_in(bench.root / "partial") == []


def test_adding_again_changes_nothing_and_keeps_the_first_table(bench: Bench) -> None:
    blob, _ = bench.add()
    first = bench.store.info(blob)
    source = bench.root / "source-0"
    assert bench.store.add_file(source, chunk_size=2 * K64) == first
    assert bench.store.add_file(source, mode=AddMode.MOVE) == first
    assert not source.exists()
    assert bench.store.used_bytes == SIZE


def test_moving_the_blob_itself_into_the_store_does_not_delete_it(bench: Bench) -> None:
    blob, data = bench.add()
    info = bench.store.info(blob)
    assert info is not None
    bench.store.add_file(info.path, mode=AddMode.MOVE)
    assert info.path.read_bytes() == data


def test_what_cannot_be_added(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    os.mkfifo(tmp_path / "fifo")
    for name in ("empty", "fifo", "."):
        with pytest.raises(UsageError):
            bench.store.add_file(tmp_path / name)
    with pytest.raises(UsageError, match="symbolic"):
        bench.store.add_file(tmp_path / "link", mode=AddMode.MOVE)
    with pytest.raises(StorageError):
        bench.store.add_file(tmp_path / "missing")
    (tmp_path / "full").write_bytes(b"x")
    with pytest.raises(UsageError):
        bench.store.add_file(tmp_path / "full", chunk_size=77)
    with pytest.raises(UsageError, match="reason"):
        bench.store.add_file(tmp_path / "full", pin="x" * 65)
    assert bench.store.used_bytes == 0


@pytest.mark.parametrize("mode", [AddMode.COPY, AddMode.MOVE])
def test_a_stopped_add_leaves_the_source_and_nothing_else(
    bench: Bench, tmp_path: Path, mode: AddMode
) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(content(SIZE))

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.store.add_file(source, mode=mode, progress=stop)
    assert source.read_bytes() == content(SIZE)
    assert names_in(bench.root / "partial") == []
    assert bench.store.blobs() == []
    assert bench.store.used_bytes == 0


def test_adding_completes_a_download_that_was_begun(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(content(SIZE))
    hashes = hash_file(source, chunk_size=K64)
    bench.store.start_partial(hashes.table, hashes.blake3).close()
    bench.store.add_file(source)
    assert names_in(bench.root / "partial") == []
    assert bench.store.partials() == []
    assert bench.store.pins() == {}
    assert bench.store.used_bytes == SIZE


def test_several_threads_may_add_the_same_file(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(content(SIZE))
    found: list[Hash] = []
    threads = [
        threading.Thread(target=lambda: found.append(bench.store.add_file(source).hash))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert bench.store.used_bytes == SIZE
    assert bench.store.verify().ok


def test_hashes_may_be_shortened(bench: Bench) -> None:
    blob, _ = bench.add(seed=1)
    other = Hash(blob[:5] + bytes(27))
    hashes = hash_file(bench.root / "source-1", chunk_size=K64)
    assert bench.store.resolve(blob.hex()[:8].upper()) == blob
    bench.store.start_partial(hashes.table, other).close()
    with pytest.raises(Ambiguous):
        bench.store.resolve(blob.hex()[:10])
    assert bench.store.resolve(other.hex()) == other
    with pytest.raises(NotFound):
        bench.store.resolve("0" * 8)
    for text in ("abc", "g" * 8, "a" * 65, ""):
        with pytest.raises(UsageError):
            bench.store.resolve(text)


def test_removing_respects_pins_and_readers(bench: Bench) -> None:
    blob, _ = bench.add()
    bench.store.pin(blob)
    with pytest.raises(InUse, match="user"):
        bench.store.remove(blob)
    reader = bench.store.open_reader(blob)
    assert reader is not None
    with pytest.raises(InUse, match="read"):
        bench.store.remove(blob, force=True)
    assert bench.store.info(blob) is not None
    reader.close()
    reader.close()
    assert bench.store.remove(blob, force=True) == SIZE
    assert bench.store.info(blob) is None
    assert bench.store.open_reader(blob) is None
    assert bench.store.pins() == {}
    assert bench.store.used_bytes == 0
    with pytest.raises(NotFound):
        bench.store.remove(blob)
    assert bench.again().blobs() == []
    assert bench.store.verify().foreign == []


def test_removing_an_unfinished_blob(bench: Bench) -> None:
    blob, data = bench.add()
    info = bench.store.info(blob)
    assert info is not None
    bench.store.remove(blob)
    partial = bench.store.start_partial(info.table, blob)
    with pytest.raises(InUse):
        bench.store.remove(blob)
    partial.write(0, data[:K64])
    partial.close()
    bench.store.pin(blob)
    with pytest.raises(InUse):
        bench.store.remove(blob)
    bench.store.unpin(blob)
    assert bench.store.remove(blob) >= SIZE
    assert names_in(bench.root / "partial") == []
    assert bench.store.pins() == {}
    assert bench.store.used_bytes == 0


def test_a_failed_removal_keeps_the_blob(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    blob, _ = bench.add()

    def refuse(path: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(StorageError):
            bench.store.remove(blob)
    assert bench.store.verify(blob).ok
    assert bench.store.remove(blob) == SIZE


def test_gc_takes_only_what_nobody_wants(bench: Bench) -> None:
    kept, pinned, read, unwanted = (bench.add(seed=seed)[0] for seed in range(4))
    bench.store.pin(pinned, "active")
    reader = bench.store.open_reader(read)
    assert reader is not None
    for name in (".tmp-1-gone-0", "notes.txt"):
        (bench.root / "partial" / name).write_bytes(b"12345")
    (bench.root / "models" / "m").mkdir()
    (bench.root / "models" / "m" / ".tmp-1-gone-1").write_bytes(b"123")
    orphan = Hash.of(b"orphan").hex()
    (bench.root / "partial" / f"{orphan}.have").write_bytes(b"1")
    lonely = bench.root / "blobs" / orphan[:2] / f"{orphan}.table"
    lonely.parent.mkdir(exist_ok=True)
    lonely.write_bytes(b"12")
    for dry_run in (True, False):
        report = bench.store.gc({kept}, dry_run=dry_run)
        assert report.dry_run == dry_run
        assert sorted(report.removed) == sorted([(unwanted, SIZE), (Hash.parse(orphan), 1)])
        assert sorted(size for _, size in report.files) == [2, 3, 5]
        assert report.freed_bytes == SIZE + 11
        assert (bench.store.info(unwanted) is not None) == dry_run
    reader.close()
    assert {info.hash for info in bench.store.blobs()} == {kept, pinned, read}
    assert names_in(bench.root / "partial") == ["notes.txt"]
    assert bench.store.used_bytes == 3 * SIZE
    assert bench.store.gc({kept}).removed == [(read, SIZE)]
    assert bench.again().verify().ok


def test_gc_leaves_downloads_until_they_are_unpinned(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(content(SIZE))
    hashes = hash_file(source, chunk_size=K64)
    partial = bench.store.start_partial(hashes.table, hashes.blake3)
    bench.store.unpin(hashes.blake3, "download")
    assert bench.store.gc(set()).removed == []
    partial.close()
    bench.store.pin(hashes.blake3, "download")
    assert bench.store.gc(set()).removed == []
    bench.store.unpin(hashes.blake3, "download")
    assert bench.store.gc({hashes.blake3}).removed == []
    assert [name for name, _ in bench.store.gc(set()).removed] == [hashes.blake3]
    assert bench.store.partials() == []
    assert bench.store.used_bytes == 0


def test_an_export_is_the_users_own_file(bench: Bench, tmp_path: Path) -> None:
    blob, data = bench.add()
    out = tmp_path / "out.gguf"
    bench.store.export(blob, out)
    assert out.read_bytes() == data
    assert out.stat().st_nlink == 1
    assert out.stat().st_mode & 0o200
    out.write_bytes(b"mine")
    with pytest.raises(AlreadyExists):
        bench.store.export(blob, out)
    assert out.read_bytes() == b"mine"
    bench.store.export(blob, out, force=True)
    assert out.read_bytes() == data
    assert names_in(tmp_path) == ["node", "out.gguf"]
    with pytest.raises(UsageError):
        bench.store.export(blob, tmp_path)
    with pytest.raises(StorageError):
        bench.store.export(blob, tmp_path / "no" / "out")
    with pytest.raises(NotFound):
        bench.store.export(Hash(bytes(32)), tmp_path / "x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(AlreadyExists):
        bench.store.export(blob, tmp_path / "dangling")


def test_an_export_never_replaces_what_appears_meanwhile(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, _ = bench.add()
    out = tmp_path / "out.gguf"
    real = os.fsync

    def interfere(fd: int) -> None:
        out.write_bytes(b"mine")
        real(fd)

    monkeypatch.setattr(os, "fsync", interfere)
    with pytest.raises(AlreadyExists):
        bench.store.export(blob, out)
    assert out.read_bytes() == b"mine"


def test_an_export_works_where_there_are_no_hard_links(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, data = bench.add()

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    bench.store.export(blob, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    link = bench.store.link_model(blob, "m", "m.gguf")
    assert link.read_bytes() == data
    assert link.stat().st_nlink == 1
    before = link.stat().st_ino
    assert bench.store.link_model(blob, "m", "m.gguf").stat().st_ino == before
    source = bench.root / "source-0"
    with pytest.raises(StorageError, match="hard-linked"):
        bench.store.add_file(source, mode=AddMode.HARDLINK)
    moved = bench.root / "moved"
    moved.write_bytes(content(SIZE, 9))
    assert bench.store.add_file(moved, mode=AddMode.MOVE).path.read_bytes() == content(SIZE, 9)
    assert not moved.exists()


def test_an_export_tells_what_it_has_copied_and_can_be_stopped(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, data = bench.add()
    monkeypatch.setattr(clone, "reflink", lambda _source, _target: False)
    seen: list[int] = []
    bench.store.export(blob, tmp_path / "out", progress=seen.append)
    assert (seen, seen[-1]) == (sorted(seen), SIZE)
    assert (tmp_path / "out").read_bytes() == data

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.store.export(blob, tmp_path / "other", progress=stop)
    assert names_in(tmp_path) == ["node", "out"]
    bench.store.export(blob, tmp_path / "other")  # the blob is free again


def test_an_export_of_a_damaged_blob_is_refused(bench: Bench, tmp_path: Path) -> None:
    blob, _ = bench.add()
    info = bench.store.info(blob)
    assert info is not None
    overwrite(info.path, 0)
    with pytest.raises(IntegrityError):
        bench.store.export(blob, tmp_path / "out")
    assert names_in(tmp_path) == ["node"]


def test_a_model_link_replaces_what_was_there(bench: Bench) -> None:
    old, _ = bench.add()
    new, data = bench.add(seed=1)
    first = bench.store.link_model(old, "ministral", "model.gguf")
    assert bench.store.link_model(old, "ministral", "model.gguf") == first
    assert bench.store.link_model(new, "ministral", "model.gguf") == first
    assert first.read_bytes() == data
    assert names_in(first.parent) == ["model.gguf"]
    bench.store.remove(new)
    assert first.read_bytes() == data


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "a\0", "x" * 256]
)
def test_a_model_link_stays_in_its_folder(bench: Bench, name: str) -> None:
    blob, _ = bench.add()
    with pytest.raises(UsageError):
        bench.store.link_model(blob, name, "model.gguf")
    with pytest.raises(UsageError):
        bench.store.link_model(blob, "model", name)


def test_a_reader_delivers_every_chunk(bench: Bench) -> None:
    blob, data = bench.add()
    buffer = memoryview(bytearray(K64))
    with bench.store.open_reader(blob) or pytest.fail("no reader") as reader:
        assert (reader.size, reader.chunk_size, reader.n_chunks) == (SIZE, K64, 6)
        assert reader.complete
        assert reader.have() == b"\x3f"
        assert not reader.has(-1)
        assert not reader.has(6)
        for index in range(6):
            length = reader.read_into(index, buffer)
            assert buffer[:length] == chunk_of(data, reader.table, index)
        with pytest.raises(NotFound):
            reader.read_into(6, buffer)
        with pytest.raises(Exception, match="no room for a chunk"):
            reader.read_into(0, buffer[:5])
        os.truncate(reader._handle._path, 10)
        with pytest.raises(StorageError, match="shorter"):
            reader.read_into(3, buffer)
    with pytest.raises(Exception, match="closed"):
        reader.read_into(0, buffer)
