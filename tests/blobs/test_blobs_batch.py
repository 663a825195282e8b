"""Small blobs that are stored together: all that holds for one holds for each, also after a crash."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from blobs_tools import K64, Bench, fill
from crash_child import small_blobs
from test_blobs_crash import CHILD, environment

from peatnet.blobs import ChunkTable, Hash, Link, SmallBlob
from peatnet.errors import DiskFull, LocalProtocolError, NotFound, StorageError

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 5
TOTAL = sum(len(blob.data) for blob in small_blobs())


def test_a_group_is_complete_and_stays_so(bench: Bench) -> None:
    blobs = small_blobs()
    infos = bench.store.add_small(blobs)
    for reopen in (False, True):
        store = bench.again() if reopen else bench.store
        assert set(infos) == {info.hash for info in store.blobs()}
        for blob in blobs:
            info = store.info(blob.hash)
            assert info == infos[blob.hash]
            assert (info.size, info.sha256, info.table) == (len(blob.data), blob.sha256, blob.table)
            assert info.path.read_bytes() == blob.data
            assert info.path.stat().st_mode & 0o777 == 0o444
        assert store.used_bytes == TOTAL
        assert store.pins() == {}
    assert bench.store.verify().damaged == []
    assert bench.store.gc(set(infos)).files == []


def test_what_is_here_or_occurs_twice_counts_once(bench: Bench) -> None:
    blobs = small_blobs()
    first = bench.store.add_small(blobs[:2])
    again = bench.store.add_small([*blobs, blobs[4]])
    assert len(again) == COUNT
    assert again.items() > first.items()
    assert bench.store.used_bytes == TOTAL
    assert bench.store.add_small([]) == {}


def test_what_was_begun_another_way_is_left_to_that(bench: Bench) -> None:
    blobs = small_blobs()
    opened = bench.store.start_partial(blobs[0].table, blobs[0].hash)
    bench.store.start_partial(blobs[1].table, blobs[1].hash).close()
    loose = bench.store.start_loose(blobs[2].hash, len(blobs[2].data))
    assert set(bench.store.add_small(blobs)) == {blob.hash for blob in blobs[3:]}
    fill(opened, blobs[0].data)
    bench.store.commit(opened, sha256=None)
    loose.close()
    assert bench.store.used_bytes == TOTAL


def test_a_damaged_copy_is_left_to_be_mended(bench: Bench) -> None:
    blobs = small_blobs()
    info = bench.store.add_small(blobs)[blobs[3].hash]
    info.path.chmod(0o644)
    info.path.write_bytes(bytes(info.size))
    assert [damage.hash for damage in bench.store.verify().damaged] == [info.hash]
    assert len(bench.store.add_small(blobs)) == COUNT - 1


def test_what_waits_for_a_blob_is_woken(bench: Bench) -> None:
    blobs, woken = small_blobs(), list[bool]()
    bench.store.wake_on_news(blobs[2].hash, lambda: woken.append(True))
    bench.store.add_small(blobs)
    assert woken == [True]


@pytest.mark.parametrize("limits", [{"quota": TOTAL - 1}, {"free_floor": 2**62}])
def test_a_group_that_does_not_fit_leaves_nothing(bench: Bench, limits: dict[str, int]) -> None:
    store = bench.again(**limits)
    with pytest.raises(DiskFull):
        store.add_small(small_blobs())
    assert (store.blobs(), store.used_bytes) == ([], 0)
    assert bench.again(quota=TOTAL).add_small(small_blobs()).keys()


def test_a_disk_that_refuses_leaves_nothing(bench: Bench) -> None:
    blobs = small_blobs()
    in_the_way = bench.root / "blobs" / blobs[2].hash.hex()[:2]
    in_the_way.write_bytes(b"")
    with pytest.raises(StorageError):
        bench.store.add_small(blobs)
    assert (bench.store.blobs(), bench.store.used_bytes) == ([], 0)
    assert list(bench.root.glob("**/.tmp-*")) == []
    in_the_way.unlink()
    assert len(bench.store.add_small(blobs)) == COUNT


def test_the_size_must_be_the_tables(bench: Bench) -> None:
    blob = small_blobs()[0]
    wrong = SmallBlob(blob.hash, ChunkTable(7, K64, bytes(blob.hash)), None, blob.data)
    with pytest.raises(LocalProtocolError):
        bench.store.add_small([wrong])


def test_links_are_made_together(bench: Bench) -> None:
    blobs = small_blobs()
    bench.store.add_small(blobs)
    taken = bench.root / "models" / "m1"
    taken.mkdir()
    (taken / "f.onnx").write_bytes(b"an older one")
    links = [Link(blob.hash, f"m{number}", "f.onnx") for number, blob in enumerate(blobs)]
    for _ in range(2):
        paths = bench.store.link_models(links)
        assert [path.read_bytes() for path in paths] == [blob.data for blob in blobs]
        assert paths == [bench.root / "models" / each.model_id / "f.onnx" for each in links]
    with pytest.raises(NotFound):
        bench.store.link_models([Link(Hash(bytes(32)), "m", "f.onnx")])
    assert bench.store.link_models([]) == []


def test_a_crash_at_any_point_leaves_each_complete_or_absent(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(CHILD), "points", "group", str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    points = int(run.stdout)
    assert points > 8 * COUNT
    blobs = small_blobs()
    for limit in range(1, points + 1):
        bench = Bench(tmp_path / f"{limit:03}")
        store = bench.store
        complete = {info.hash: info.path.read_bytes() for info in store.blobs()}
        assert complete.items() <= {blob.hash: blob.data for blob in blobs}.items()
        assert limit < points or len(complete) == COUNT
        for path in bench.root.glob("models/*/m.gguf"):
            assert path.read_bytes() in complete.values()
        # A name in blobs/ is never that of other bytes, nor of a part of them.
        assert store.verify().damaged == []
        assert len(store.add_small(blobs)) == COUNT
        store.gc({blob.hash for blob in blobs})
        assert not list(bench.root.glob("**/.tmp-*"))
        assert store.used_bytes == TOTAL
        assert len(bench.again().verify().good) == COUNT
        bench.close()
