"""Two operations on one blob at the same moment: one of them is first, and both of them tell the truth."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from blobs_tools import K64, content, names_in

from peatnet.blobs import hash_file
from peatnet.blobs.durable import rename_durable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from blobs_tools import Bench

    from peatnet.blobs import BlobInfo, Hash

SIZE = 5 * K64 + 7


def test_gc_does_not_take_the_table_of_a_blob_that_is_being_put_in(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the table and the file, another thread collects."""
    swept: list[list[tuple[Path, int]]] = []

    def renaming(source: Path, target: Path) -> None:
        collector = threading.Thread(target=lambda: swept.append(bench.store.gc(set()).files))
        collector.start()
        collector.join()
        rename_durable(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("peatnet.blobs.shelf.rename_durable", renaming)
        blob, _ = bench.add()
    assert swept == [[]]
    info = bench.store.info(blob)
    assert info is not None
    assert info.path.with_suffix(".table").read_bytes() == info.table.encode()
    info.path.unlink()
    assert [path.name for path, _ in bench.again().gc({blob}).files] == [f"{blob}.table"]


@pytest.mark.parametrize("way", ["rm", "gc"])
def test_a_pin_comes_before_a_removal_or_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A blob is pinned by another thread while it is being removed: the pin is not lost with what it came too late for."""
    blob, data = bench.add()
    shelf = bench.store._shelf
    take_out, exclusive = shelf.take_out, shelf.exclusive
    asked, done = threading.Event(), threading.Event()

    def pin() -> None:
        bench.store.pin(blob)
        done.set()
        asked.set()

    def waiting(*blobs: Hash) -> AbstractContextManager[None]:
        asked.set()
        return exclusive(*blobs)

    pinning = threading.Thread(target=pin)

    def taking_out(info: BlobInfo) -> None:
        monkeypatch.setattr(shelf, "exclusive", waiting)
        pinning.start()
        asked.wait()
        assert not done.is_set()
        take_out(info)

    monkeypatch.setattr(shelf, "take_out", taking_out)
    if way == "rm":
        bench.store.remove(blob)
    else:
        assert bench.store.gc(set()).removed == [(blob, len(data))]
    pinning.join()
    assert bench.store.info(blob) is None
    assert bench.store.pins() == {blob: {"user"}}


def test_a_download_that_another_way_was_quicker_than_leaves_nothing_behind(bench: Bench) -> None:
    data = content(SIZE)
    source = bench.root / "source"
    source.write_bytes(data)
    hashes = hash_file(source, chunk_size=K64)
    partial = bench.store.start_partial(hashes.table, hashes.blake3)
    partial.write(0, data[:K64])
    bench.store.add_file(source, chunk_size=K64)
    partial.write(1, data[K64 : 2 * K64])
    partial.flush()
    partial.close()
    assert names_in(bench.root / "partial") == []
    assert bench.again().verify().good == [hashes.blake3]


@pytest.mark.parametrize("way", ["gc", "restart"])
def test_what_an_earlier_one_left_goes_and_the_blob_stays(bench: Bench, way: str) -> None:
    blob, data = bench.add()
    left = bench.root / "partial" / f"{blob}.have"
    left.write_bytes(b"x")
    if way == "restart":
        assert [info.hash for info in bench.again().blobs()] == [blob]
    else:
        assert bench.store.gc({blob}, dry_run=True).files == [(left, 1)]
        assert left.exists()
        report = bench.store.gc({blob})
        assert (report.removed, report.files) == ([], [(left, 1)])
    assert names_in(bench.root / "partial") == []
    assert bench.store.verify().good == [blob]
    assert bench.store.used_bytes == len(data)
