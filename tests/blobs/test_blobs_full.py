"""No room: an early and clear error, and nothing lost."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from blobs_tools import K64, Bench, chunk_of, content, fill, names_in, write_file

from peatnet.blobs import AddMode, Hash
from peatnet.blobs.space import Space
from peatnet.errors import DiskFull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peatnet.blobs import FileHashes

SIZE = 5 * K64 + 7


@pytest.fixture
def wanted(tmp_path: Path) -> FileHashes:
    return write_file(tmp_path / "source", SIZE)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"a tmpfs cannot be mounted here: {exc}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def take_all(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@pytest.mark.parametrize("limits", [{"quota": SIZE - 1}, {"free_floor": 2**62}])
def test_no_room_is_said_before_the_first_byte(
    bench: Bench, tmp_path: Path, wanted: FileHashes, limits: dict[str, int]
) -> None:
    store = bench.again(**limits)
    for mode in (AddMode.AUTO, AddMode.COPY):
        with pytest.raises(DiskFull) as caught:
            store.add_file(tmp_path / "source", mode=mode)
        assert caught.value.hint
    with pytest.raises(DiskFull):
        store.start_partial(wanted.table, wanted.blake3)
    with pytest.raises(DiskFull):
        store.start_loose(wanted.blake3, SIZE)
    assert names_in(bench.root / "partial") == []
    assert store.blobs() == []
    assert store.pins() == {}
    assert store.used_bytes == 0


def test_the_quota_counts_everything_once(bench: Bench, tmp_path: Path, wanted: FileHashes) -> None:
    store = bench.again(quota=2 * SIZE)
    info = store.add_file(tmp_path / "source")
    other = write_file(tmp_path / "other", SIZE, seed=1)
    partial = store.start_partial(other.table, other.blake3)
    third = write_file(tmp_path / "third", 1, seed=2)
    with pytest.raises(DiskFull, match="quota"):
        store.add_file(tmp_path / "third")
    # What is here already needs no room.
    assert store.add_file(tmp_path / "source") == info
    fill(partial, content(SIZE, 1))
    store.commit(partial, sha256=other.sha256)
    assert store.used_bytes == 2 * SIZE
    store.remove(info.hash)
    with store.start_partial(third.table, third.blake3):
        assert store.used_bytes == SIZE + 1
    store.discard(third.blake3)
    assert store.used_bytes == SIZE
    assert bench.again(quota=1).used_bytes == SIZE


def test_a_hard_link_needs_no_free_space(bench: Bench, tmp_path: Path) -> None:
    write_file(tmp_path / "source", SIZE)
    store = bench.again(free_floor=2**62)
    assert store.add_file(tmp_path / "source", mode=AddMode.HARDLINK).size == SIZE


def test_a_download_that_was_begun_is_not_lost_to_a_smaller_quota(
    bench: Bench, wanted: FileHashes
) -> None:
    data = content(SIZE)
    with bench.store.start_partial(wanted.table, wanted.blake3) as partial:
        partial.write(0, data[:K64])
    with pytest.raises(DiskFull):
        bench.again(quota=10).start_partial(wanted.table, wanted.blake3)
    # Its room is reserved already: the free-space floor does not stand in its way.
    with bench.again(free_floor=2**62).start_partial(wanted.table, wanted.blake3) as partial:
        assert partial.recovered_bytes == K64


def test_room_that_is_promised_is_not_promised_twice(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    free = status.f_bavail * status.f_frsize
    space = Space(tmp_path, quota=None, free_floor=0)
    space.claim("one", 1, on_disk=free * 6 // 10)
    with pytest.raises(DiskFull):
        space.claim("two", 1, on_disk=free * 6 // 10)
    space.settle("one")
    space.claim("two", 1, on_disk=free * 6 // 10)
    space.transfer("two", "three")
    assert space.used == 2
    space.release("three")
    space.release("three")
    assert space.used == 1


def test_a_full_disk_while_writing_loses_nothing(
    bench: Bench, wanted: FileHashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(SIZE)
    partial = bench.store.start_partial(wanted.table, wanted.blake3)
    partial.write(0, data[:K64])

    def full(fd: int, view: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DiskFull):
            partial.write(1, data[K64 : 2 * K64])
        with pytest.raises(DiskFull):
            partial.flush()
    assert not partial.has(1)
    fill(partial, data)
    assert bench.store.commit(partial, sha256=wanted.sha256).path.read_bytes() == data


def test_a_file_system_without_allocation_still_works(
    bench: Bench, wanted: FileHashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, start: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with bench.store.start_partial(wanted.table, wanted.blake3) as partial:
        fill(partial, content(SIZE))
        assert bench.store.commit(partial, sha256=wanted.sha256).size == SIZE


def test_a_small_disk_is_full_early_and_usable_again(tmpfs: Path, tmp_path: Path) -> None:
    bench = Bench(tmpfs / "node")
    small, large = 8 * K64, 30 * K64
    first = write_file(tmp_path / "first", small)
    second = write_file(tmp_path / "second", large, seed=1)
    partial = bench.store.start_partial(first.table, first.blake3)
    partial.write(0, chunk_of(content(small), first.table, 0))
    with pytest.raises(DiskFull):
        bench.store.start_partial(second.table, second.blake3)
    with pytest.raises(DiskFull):
        bench.store.add_file(tmp_path / "second")
    assert sorted(bench.store.pins()) == [first.blake3]
    # Somebody else takes the rest of the disk; the reserved room is still ours.
    with pytest.raises(OSError, match="No space left"):
        take_all(tmpfs / "hog")
    fill(partial, content(small))
    with pytest.raises(DiskFull):
        partial.flush()
    with pytest.raises(DiskFull):
        bench.store.commit(partial, sha256=first.sha256)
    with pytest.raises(DiskFull):
        bench.store.close()
    (tmpfs / "hog").unlink()
    store = bench.again()
    with store.start_partial(first.table, first.blake3) as again:
        assert again.complete
        assert again.recovered_bytes == small
        info = store.commit(again, sha256=first.sha256)
    assert info.path.read_bytes() == content(small)
    assert store.verify().ok
    assert Hash.of(content(small)) == info.hash
    bench.close()
