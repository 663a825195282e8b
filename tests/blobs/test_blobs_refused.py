"""What the operating system will not let us do at the moment says nothing of the bytes, and changes nothing."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
from blobs_tools import K64, Bench, names_in

from peatnet.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
