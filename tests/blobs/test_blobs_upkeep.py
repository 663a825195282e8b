from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from blobs_tools import K64, Bench, fill, names_in, overwrite

from peatnet.blobs import Database, Hash, Store
from peatnet.errors import (
    NotFound,
    StorageError,
)

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 5 * K64 + 7


@pytest.mark.parametrize("damage", ["flip", "append", "truncate", "empty", "directory"])
def test_a_damaged_blob_is_moved_aside_and_not_served(bench: Bench, damage: str) -> None:
    blob, _ = bench.add()
    good, _ = bench.add(seed=1)
    info = bench.store.info(blob)
    reader = bench.store.open_reader(blob)
    assert info is not None
    assert reader is not None
    info.path.chmod(0o644)
    if damage == "flip":
        with info.path.open("r+b") as file:
            file.seek(2 * K64 + 5)
            file.write(b"damage")
    elif damage == "append":
        with info.path.open("ab") as file:
            file.write(b"x")
    elif damage == "directory":
        info.path.unlink()
        info.path.mkdir()
    else:
        os.truncate(info.path, SIZE - 1 if damage == "truncate" else 0)
    report = bench.store.verify()
    assert not report.ok
    assert report.good == [good]
    (found,) = report.damaged
    assert found.hash == blob
    assert found.moved_to.exists()
    if damage == "flip":
        assert found.bad_chunks == (2,)
    assert bench.store.info(blob) is None
    assert bench.store.open_reader(blob) is None
    assert not reader.has(0)
    assert not reader.complete
    assert not any(reader.have())
    with pytest.raises(NotFound):
        reader.read_into(0, memoryview(bytearray(K64)))
    reader.close()
    with pytest.raises(NotFound):
        bench.store.verify(blob)
    assert bench.store.used_bytes == SIZE
    assert bench.again().verify().ok


def test_fetching_a_damaged_blob_again_needs_only_the_bad_chunks(bench: Bench) -> None:
    blob, data = bench.add()
    info = bench.store.info(blob)
    assert info is not None
    overwrite(info.path, 2 * K64 + 5)
    bench.store.verify()
    with bench.store.start_partial(info.table, blob) as partial:
        assert partial.missing() == [2]
        fill(partial, data)
        bench.store.commit(partial, sha256=info.sha256)
    assert bench.store.verify(blob).good == [blob]
    assert names_in(bench.root / "damaged") == []


def test_a_damaged_blob_with_another_name_is_not_written_to(bench: Bench) -> None:
    blob, _ = bench.add()
    info = bench.store.info(blob)
    assert info is not None
    link = bench.store.link_model(blob, "m", "m.gguf")
    overwrite(info.path, 0)
    bench.store.verify()
    with bench.store.start_partial(info.table, blob) as partial:
        assert partial.recovered_bytes == 0
    assert link.read_bytes().startswith(b"damage")
    bench.store.unpin(blob, "download")
    assert (bench.root / "damaged" / f"{blob}.blob", SIZE) in bench.store.gc(set()).files


def test_verify_reports_progress_and_can_be_stopped(bench: Bench) -> None:
    bench.add()
    bench.add(seed=1)
    seen: list[int] = []
    assert bench.store.verify(progress=seen.append).bytes_read == 2 * SIZE
    assert seen == sorted(seen)
    assert seen[-1] == 2 * SIZE

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.store.verify(progress=stop)
    assert len(bench.store.blobs()) == 2


def test_a_vanished_file_is_missing_not_a_crash(bench: Bench) -> None:
    gone, _ = bench.add()
    later, _ = bench.add(seed=1)
    for blob in (gone, later):
        info = bench.store.info(blob)
        assert info is not None
        info.path.unlink()
        if blob == gone:
            report = bench.store.verify()
            assert (report.missing, report.damaged, report.foreign) == ([gone], [], [])
    store = bench.again()
    assert store.blobs() == []
    assert store.verify().missing == [later]
    assert store.verify().ok


def test_what_is_removed_meanwhile_is_not_missing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, _ = bench.add()
    index = bench.store._shelf.index
    before = index.rows()
    bench.store.remove(blob)
    monkeypatch.setattr(index, "rows", lambda: before)  # looked at before it was removed
    assert bench.store.verify().ok


def test_a_damaged_copy_goes_when_there_is_a_good_one(bench: Bench) -> None:
    blob, data = bench.add()
    info = bench.store.info(blob)
    assert info is not None
    overwrite(info.path, 0)
    bench.store.verify()
    damaged = bench.root / "damaged" / f"{blob}.blob"
    assert bench.store.gc({blob}).files == []  # it may be begun with
    (bench.root / "again").write_bytes(data)
    bench.store.add_file(bench.root / "again")
    assert bench.store.gc({blob}).files == [(damaged, SIZE)]
    assert not damaged.exists()
    assert bench.store.info(blob) is not None


def test_lost_and_damaged_tables_are_made_again(bench: Bench) -> None:
    blob, _ = bench.add()
    info = bench.store.info(blob)
    assert info is not None
    table = info.path.with_suffix(".table")
    for spoil in (b"nonsense", None):
        if spoil is None:
            table.unlink()
        else:
            table.write_bytes(spoil)
        assert bench.again().blobs() == [info]
        table.write_bytes(b"nonsense")
        assert bench.store.verify().good == [blob]
        assert table.read_bytes() == info.table.encode()
    table.unlink()
    overwrite(info.path, 0)
    assert bench.again().blobs() == []
    assert names_in(bench.root / "damaged") == [info.path.name]


def test_a_blob_of_the_wrong_length_is_moved_aside_at_once(bench: Bench) -> None:
    blob, _ = bench.add()
    info = bench.store.info(blob)
    assert info is not None
    os.truncate(info.path, 10)
    assert bench.again().blobs() == []
    assert names_in(bench.root / "damaged") == [info.path.name]


def test_foreign_and_damaged_files_never_keep_a_store_from_opening(bench: Bench) -> None:
    blob, _ = bench.add()
    name = Hash.of(b"no such blob").hex()
    prefix = bench.root / "blobs" / name[:2]
    prefix.mkdir(exist_ok=True)
    foreign = [
        bench.root / "blobs" / "README",
        prefix / f"{name}.blob",
        prefix / "thumbs.db",
        prefix / "\udcff",
        prefix / f"{name.upper()}.blob",
        bench.root / "partial" / "x.blob",
        bench.root / "partial" / f"{name}.blob",
        bench.root / "partial" / f"{name}.table",
        bench.root / "partial" / f"{name}.have",
        bench.root / "partial" / f"{name}.loose",
    ]
    for path in foreign:
        path.write_bytes(b"foreign")
    (bench.root / "partial" / f"{Hash.of(b'dir')}.blob").mkdir()
    (prefix / f"{Hash.of(b'link')}.blob").symlink_to("/dev/zero")
    store = bench.again()
    assert [info.hash for info in store.blobs()] == [blob]
    assert [info.hash.hex() for info in store.partials()] == [name]
    report = store.verify()
    assert report.unindexed == [foreign[1]]
    assert set(foreign[2:5]) <= set(report.foreign)
    assert store.rebuild() == 0
    assert names_in(bench.root / "damaged") == [f"{name}.blob"]
    assert foreign[0].exists()


def test_strange_rows_in_the_index_are_passed_over(bench: Bench) -> None:
    blob, _ = bench.add()
    insert = "INSERT INTO blobs VALUES (?, ?, ?, ?, ?)"
    bench.database.execute(insert, (b"short", 1, K64, bytes(32), "0" * 64))
    bench.database.execute(insert, (bytes(32), 1, 1000, bytes(32), "0" * 64))
    bench.database.execute(insert, (bytes(31) + b"x", 1, K64, bytes(32), "none"))
    bench.database.execute("INSERT INTO pins VALUES (?, ?)", (b"short", "user"))
    store = bench.again()
    assert [info.hash for info in store.blobs()] == [blob]
    assert store.pins() == {}


def test_the_index_is_rebuilt_from_the_files(bench: Bench) -> None:
    blob, _ = bench.add()
    other, _ = bench.add(seed=1)
    before = bench.store.blobs()
    liar = bench.root / "blobs" / "00" / f"{'0' * 64}.blob"
    liar.parent.mkdir(exist_ok=True)
    liar.write_bytes(b"not what it says")
    lost = bench.store.info(other)
    assert lost is not None
    lost.path.with_suffix(".table").unlink()
    bench.close()
    for path in bench.root.glob("peatnet.db*"):
        path.unlink()
    store = bench.again()
    assert store.blobs() == []
    assert store.gc(set()).removed == []
    seen: list[int] = []
    assert store.rebuild(progress=seen.append) == 2
    assert seen == sorted(seen)
    assert store.info(blob) in before
    assert {info.hash for info in store.blobs()} == {blob, other}
    assert names_in(bench.root / "damaged") == [liar.name]
    assert store.rebuild() == 0
    assert store.used_bytes == 2 * SIZE
    assert bench.again().verify().ok


@pytest.mark.parametrize("name", ["blobs", "partial", "models"])
def test_a_directory_that_cannot_be_used_is_a_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"in the way")
    with (
        Database.open(tmp_path / "peatnet.db") as database,
        pytest.raises(StorageError, match=name) as caught,
    ):
        Store.open(tmp_path, database)
    assert caught.value.hint


def test_an_unreadable_directory_is_a_clear_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(StorageError, match="Permission denied") as caught:
        bench.again()
    assert caught.value.hint
