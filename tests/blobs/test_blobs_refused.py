"""What the operating system will not let us do at the moment says nothing of the bytes, and changes nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blobs_tools import K64, Bench, content, fill, names_in

from peatnet.blobs import hash_file
from peatnet.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.blobs import Hash

SIZE = 5 * K64 + 7


def refuse(monkeypatch: pytest.MonkeyPatch, code: int, which: Callable[[str, int], bool]) -> None:
    """Opening what ``which`` says of path and flags is refused: tests run as root, whom no mode stops."""
    real = os.open

    def opening(path: Any, flags: int, *args: Any, **named: Any) -> int:
        if which(os.fspath(path), flags):
            raise OSError(code, os.strerror(code), path)
        return real(path, flags, *args, **named)

    monkeypatch.setattr(os, "open", opening)


def refuse_reading(monkeypatch: pytest.MonkeyPatch, refused: Path) -> None:
    real = Path.open

    def opening(path: Path, *args: Any, **named: Any) -> Any:
        if path == refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, *args, **named)

    monkeypatch.setattr(Path, "open", opening)


def path_of(bench: Bench, blob: Hash) -> Path:
    info = bench.store.info(blob)
    assert info is not None
    return info.path


def spoil(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"damage")


@pytest.mark.parametrize(
    "code", [errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE]
)
def test_what_cannot_be_read_is_not_damaged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    blob, _ = bench.add()
    good, _ = bench.add(seed=1)
    path = path_of(bench, blob)
    with monkeypatch.context() as patch:
        refuse(patch, code, lambda opened, _: opened == str(path))
        report = bench.store.verify()
    assert not report.ok
    assert (report.good, report.damaged, report.missing) == ([good], [], [])
    ((name, reason),) = [(each.hash, each.reason) for each in report.unchecked]
    assert (name, reason) == (blob, f"cannot be read: {os.strerror(code)}")
    assert path.exists()
    assert bench.store.info(blob) is not None
    assert bench.store.verify().ok
    assert bench.again().verify().good == sorted([blob, good])


def test_what_the_disk_has_lost_is_damaged(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    blob, _ = bench.add()
    path = path_of(bench, blob)
    with monkeypatch.context() as patch:
        refuse(patch, errno.EIO, lambda opened, _: opened == str(path))
        report = bench.store.verify()
    assert [damage.hash for damage in report.damaged] == [blob]
    assert report.unchecked == []
    assert names_in(bench.root / "damaged") == [path.name]


def test_what_could_not_be_made_use_of_at_the_start_is_not_forgotten(bench: Bench) -> None:
    blob, _ = bench.add()
    path = path_of(bench, blob)
    aside = bench.root / "aside"
    path.rename(aside)
    path.symlink_to(aside)  # something that a store does not open as a blob, and that is there
    report = bench.again().verify()
    assert [each.hash for each in report.unchecked] == [blob]
    assert (report.missing, report.unindexed, report.ok) == ([], [], False)
    path.unlink()
    aside.rename(path)
    assert bench.again().verify().good == [blob]


@pytest.mark.parametrize("way", ["something is in the way", "too many open files"])
def test_a_damaged_blob_that_cannot_be_moved_stays_what_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    blob, _ = bench.add()
    path = path_of(bench, blob)
    spoil(path)
    buffer = memoryview(bytearray(K64))
    reader = bench.store.open_reader(blob)
    assert reader is not None
    with monkeypatch.context() as patch, reader:
        if way == "something is in the way":
            (bench.root / "damaged").write_bytes(b"")
        else:
            refuse(patch, errno.EMFILE, lambda _, flags: bool(flags & os.O_DIRECTORY))
            (bench.root / "damaged").mkdir()
        with pytest.raises(StorageError):
            bench.store.verify()
        with pytest.raises(StorageError):
            reader.read_into(0, buffer)
        assert path.exists()
        assert bench.store.info(blob) is not None
        assert reader.has(1)
    if way == "something is in the way":
        (bench.root / "damaged").unlink()
    assert [damage.hash for damage in bench.store.verify().damaged] == [blob]
    assert names_in(bench.root / "damaged") == [path.name]
    assert bench.store.used_bytes == 0


# One file that cannot be read does not stop the others


@pytest.mark.parametrize("kind", ["have", "table", "blob", "note", "loose"])
@pytest.mark.parametrize("way", ["a directory", "no permission"])
def test_an_unfinished_download_that_cannot_be_read_stops_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str, way: str
) -> None:
    good, _ = bench.add()
    data = content(SIZE, 1)
    (bench.root / "wanted").write_bytes(data)
    hashes = hash_file(bench.root / "wanted", chunk_size=K64)
    with bench.store.start_partial(hashes.table, hashes.blake3) as partial:
        partial.write(0, data[:K64])
    bad = bench.root / "partial" / f"{hashes.blake3}.{kind}"
    if way == "a directory":
        bad.unlink(missing_ok=True)
        bad.mkdir()
    with monkeypatch.context() as patch:
        if way == "no permission":
            bad.touch()
            refuse(patch, errno.EACCES, lambda opened, _: opened == str(bad))
            refuse_reading(patch, bad)
        store = bench.again()
        assert [info.hash for info in store.blobs()] == [good]
        assert {info.hash for info in store.partials()} <= {hashes.blake3}
        assert store.verify().good == [good]
        store.unpin(hashes.blake3, "download")
        report = store.gc({good})
    assert {name for name, _ in report.removed} == {hashes.blake3}
    assert names_in(bench.root / "partial") == ([bad.name] if way == "a directory" else [])
    assert bench.again().gc({good}).removed == []


def test_a_download_whose_bitmap_cannot_be_read_goes_on_from_what_is_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(SIZE, 1)
    (bench.root / "wanted").write_bytes(data)
    hashes = hash_file(bench.root / "wanted", chunk_size=K64)
    with bench.store.start_partial(hashes.table, hashes.blake3) as partial:
        partial.write(0, data[:K64])
    refuse_reading(monkeypatch, bench.root / "partial" / f"{hashes.blake3}.have")
    with bench.again().start_partial(hashes.table, hashes.blake3) as partial:
        assert partial.recovered_bytes >= K64
        fill(partial, data)
        assert bench.store.commit(partial, sha256=None).hash == hashes.blake3


@pytest.mark.parametrize("readable", [True, False])
def test_a_table_in_whose_place_a_directory_is_stops_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, readable: bool
) -> None:
    blob, _ = bench.add()
    good, _ = bench.add(seed=1)
    path = path_of(bench, blob)
    table = path.with_suffix(".table")
    table.unlink()
    table.mkdir()
    with monkeypatch.context() as patch:
        if not readable:
            refuse(patch, errno.EACCES, lambda opened, _: opened == str(path))
        store = bench.again()
        report = store.verify()
    assert [info.hash for info in store.blobs()] == sorted({good} | ({blob} if readable else set()))
    assert report.good == sorted({good} | ({blob} if readable else set()))
    assert [each.hash for each in report.unchecked] == ([] if readable else [blob])
    table.rmdir()
    assert bench.again().verify().good == sorted([good, blob])


def test_a_store_opens_though_what_is_damaged_cannot_be_moved(bench: Bench) -> None:
    blob, _ = bench.add()
    good, _ = bench.add(seed=1)
    os.truncate(path_of(bench, blob), 10)
    (bench.root / "damaged").write_bytes(b"in the way")
    assert [info.hash for info in bench.again().blobs()] == [good]
    (bench.root / "damaged").unlink()
    bench.again()
    assert names_in(bench.root / "damaged") == [f"{blob}.blob"]
