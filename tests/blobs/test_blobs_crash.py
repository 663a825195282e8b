"""Real processes, killed for good; then the directory is opened as the next process would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from blobs_tools import K64, Bench, content, fill, write_file
from crash_child import SIZE, make_table

from peatnet.blobs import Hash

CHILD = Path(__file__).with_name("crash_child.py")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.mark.parametrize("after", [1, 4, 7, 16, 21, 38, "end"])
def test_a_killed_download_keeps_every_chunk_that_was_written(
    disk_path: Path, after: int | str
) -> None:
    source = disk_path / "source"
    size = 40 * K64 + 99
    hashes = write_file(source, size)
    written: set[int] = set()
    with subprocess.Popen(
        [sys.executable, str(CHILD), "fill", str(disk_path / "node"), str(source)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            words = line.split()
            if words[0] == "wrote":
                written.add(int(words[1]))
            if words[0] == "end" or len(written) == after:
                break
        child.kill()
        # What it managed to say before it died counts as well.
        rest = child.stdout.read()
        written |= {int(line.split()[1]) for line in rest.splitlines() if line.startswith("wrote")}
    assert child.returncode == -9
    bench = Bench(disk_path / "node")
    assert bench.store.pins() == {hashes.blake3: {"download"}}
    assert [info.hash for info in bench.store.partials()] == [hashes.blake3]
    with bench.store.start_partial(hashes.table, hashes.blake3) as partial:
        there = set(range(41)) - set(partial.missing())
        assert written <= there
        # At most the one that was in flight comes on top.
        assert len(there - written) <= 1
        data = content(size)
        buffer = memoryview(bytearray(K64))
        for index in there:
            length = partial.read_into(index, buffer)
            assert buffer[:length] == data[index * K64 : index * K64 + length]
        fill(partial, data)
        info = bench.store.commit(partial, sha256=hashes.sha256)
    assert info.path.read_bytes() == data
    bench.close()


@pytest.mark.parametrize(
    "name",
    [
        *("copy", "hardlink", "move", "start", "fill", "commit"),
        *("adopt", "remove", "link", "export", "verify"),
    ],
)
def test_a_crash_at_any_point_leaves_a_store_that_works(tmp_path: Path, name: str) -> None:
    run = subprocess.run(
        [sys.executable, str(CHILD), "points", name, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    points = int(run.stdout)
    assert points > 2
    data = content(SIZE)
    blob, table = Hash.of(data), make_table(data)
    for limit in range(1, points + 1):
        bench = Bench(tmp_path / f"{limit:03}")
        store = bench.store
        ended = limit == points
        check_outcome(name, bench, blob, data, ended=ended)
        # Whatever happened: what is complete is right, the rest can be cleaned up or fetched.
        report = store.verify()
        assert name == "verify" or report.damaged == []
        if store.info(blob) is None:
            with store.start_partial(table, blob) as partial:
                fill(partial, data)
                store.commit(partial, sha256="0" * 64)
        assert store.verify().good == [blob]
        store.gc({blob})
        left = {path.name for path in (bench.root / "partial").iterdir()}
        assert left == set()
        assert not list(bench.root.glob("**/.tmp-*")) or name == "export"
        assert store.used_bytes == SIZE
        assert bench.again().verify().good == [blob]
        assert bench.store.pins() == {}
        bench.close()


def check_outcome(name: str, bench: Bench, blob: Hash, data: bytes, *, ended: bool) -> None:
    complete = bench.store.info(blob)
    source, out = bench.root / "source", bench.root / "out"
    if name in ("copy", "hardlink", "move", "commit", "adopt") and ended:
        assert complete is not None
    if name in ("link", "export"):
        assert complete is not None
    if name == "move":
        # Never is the only copy somewhere that nobody would look.
        assert complete is not None or source.read_bytes() == data
        assert not (ended and source.exists())
    else:
        assert source.read_bytes() == data
    if name == "export":
        assert not out.exists() or out.read_bytes() == data
        assert out.exists() or not ended
    if name == "commit" and complete is None:
        (partial,) = bench.store.partials()
        assert partial.verified_bytes == SIZE
    if name == "fill" and ended:
        assert bench.store.partials()[0].verified_bytes == SIZE
