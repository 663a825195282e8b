"""Two operations on one blob at the same moment: one of them is first, and both of them tell the truth."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from peatnet.blobs import shelf as shelf_module

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from blobs_tools import Bench

    from peatnet.blobs import BlobInfo, Hash


def test_gc_does_not_take_the_table_of_a_blob_that_is_being_put_in(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the table and the file, another thread collects."""
    rename = shelf_module.rename_durable
    swept: list[list[tuple[Path, int]]] = []

    def renaming(source: Path, target: Path) -> None:
        collector = threading.Thread(target=lambda: swept.append(bench.store.gc(set()).files))
        collector.start()
        collector.join()
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shelf_module, "rename_durable", renaming)
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
