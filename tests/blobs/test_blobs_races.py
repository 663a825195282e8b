"""Two operations on one blob at the same moment: one of them is first, and both of them tell the truth."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from blobs_tools import Bench

from peatnet.blobs import shelf as shelf_module

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


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
