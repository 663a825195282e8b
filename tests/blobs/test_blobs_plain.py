"""Blobs of one usual chunk, whose table is told by their name and size: no file of it, here or in older stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from blobs_tools import K64, Bench, content, fill, names_in

from peatnet.blobs import ChunkTable, Hash, Store
from peatnet.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.blobs import BlobInfo

DATA = content(1000)
BLOB = Hash.of(DATA)
USUAL = 4 * K64


def add(bench: Bench, chunk_size: int | None = None) -> BlobInfo:
    source = bench.root / "source"
    source.write_bytes(DATA)
    return bench.store.add_file(source, chunk_size=chunk_size)


def fetched(bench: Bench) -> BlobInfo:
    partial = bench.store.start_partial(ChunkTable.of_one_chunk(BLOB, len(DATA), USUAL), BLOB)
    fill(partial, DATA)
    return bench.store.commit(partial, sha256=None)


def files_of(info: BlobInfo) -> list[str]:
    return [name.partition(".")[2] for name in names_in(info.path.parent)]


def without_index(bench: Bench) -> Store:
    bench.close()
    for path in bench.root.glob("peatnet.db*"):
        path.unlink()
    return bench.again()


@pytest.mark.parametrize("get_in", [add, fetched])
def test_there_is_no_table_file_and_none_is_needed(
    bench: Bench, get_in: Callable[[Bench], BlobInfo]
) -> None:
    info = get_in(bench)
    assert info.table == ChunkTable(len(DATA), USUAL, bytes(BLOB))
    for _ in range(2):
        assert files_of(info) == ["blob"]
        assert bench.store.blobs() == [info]
        assert bench.store.verify().good == [BLOB]
        assert bench.store.gc({BLOB}).files == []
        bench.again()
    store = without_index(bench)
    assert store.rebuild() == 1
    (again,) = store.blobs()
    assert (again.table, files_of(again)) == (info.table, ["blob"])
    reader = store.open_reader(BLOB)
    assert reader is not None
    with reader:
        buffer = memoryview(bytearray(len(DATA)))
        assert reader.read_into(0, buffer) == len(DATA)
        assert buffer == DATA
    store.remove(BLOB, force=True)
    assert names_in(info.path.parent) == []


@pytest.mark.parametrize("table", ["right", "nonsense"])
def test_a_store_of_before_has_the_file_and_keeps_it_until_the_blob_goes(
    bench: Bench, table: str
) -> None:
    info = add(bench)
    file = info.path.with_suffix(".table")
    file.write_bytes(info.table.encode() if table == "right" else b"nonsense")
    store = bench.again()
    assert store.blobs() == [info]
    report = store.verify()
    assert (report.good, report.foreign) == ([BLOB], [])
    assert store.gc({BLOB}).files == []
    store = without_index(bench)
    assert store.rebuild() == 1
    assert [each.table for each in store.blobs()] == [info.table]
    assert files_of(info) == ["blob", "table"]
    store.remove(BLOB, force=True)
    assert names_in(info.path.parent) == []


def test_damage_is_found_as_in_any_other(bench: Bench) -> None:
    info = add(bench)
    info.path.chmod(0o644)
    info.path.write_bytes(bytes(len(DATA)))
    (damage,) = bench.again().verify().damaged
    assert (damage.hash, damage.bad_chunks) == (BLOB, (0,))
    assert names_in(info.path.parent) == []


def test_a_table_that_cannot_be_told_is_kept(bench: Bench) -> None:
    info = add(bench, chunk_size=K64)
    assert files_of(info) == ["blob", "table"]
    assert bench.again().blobs() == [info]
    store = without_index(bench)
    assert store.rebuild() == 1
    assert [each.table for each in store.blobs()] == [info.table]


def test_which_tables_can_be_told() -> None:
    assert ChunkTable.of_one_chunk(BLOB, USUAL, USUAL).is_plain
    assert not ChunkTable.of_one_chunk(BLOB, K64, K64).is_plain
    assert not ChunkTable(USUAL + 1, USUAL, 2 * bytes(BLOB)).is_plain
    assert not ChunkTable.of_one_chunk(BLOB, 2 * USUAL, 2 * USUAL).is_plain
    with pytest.raises(IntegrityError):
        ChunkTable.of_one_chunk(BLOB, USUAL + 1, USUAL)
