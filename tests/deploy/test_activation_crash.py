"""Real processes, killed for good at every step of an activation; then the disk is opened as the next one would."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import trio
from activation_child import COMMAND, ENDS, SCENARIOS
from activation_kit import Bench
from support.parameters import mostly_slow
from support.waiting import wait_until

from peatnet.deploy.activation import MAX_ATTEMPTS
from peatnet.deploy.commands import TOKEN_VARIABLE
from peatnet.models import ModelStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

CHILD = Path(__file__).with_name("activation_child.py")


@pytest.fixture
def disks() -> Iterator[Path]:
    """In memory where that can be: there are many of them, each synced many times."""
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="peatnet-", dir=place) as directory:
        yield Path(directory)


def child(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHILD), *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        timeout=500,
        check=False,
    )


@pytest.mark.parametrize(
    "name", mostly_slow({name: name for name in SCENARIOS}, "good", "first-bad", "named-bad")
)
def test_a_crash_at_any_point_ends_in_the_old_or_the_new_model(disks: Path, name: str) -> None:
    done = child("points", name, disks)
    assert done.returncode == 0, done.stderr
    points = int(done.stdout)
    assert points > 8
    for limit in range(1, points + 1):
        disk = disks / f"{limit:03}"
        trio.run(check, name, disk)
        assert not [path for path in disk.glob("models/*/.tmp-*") if path.is_symlink()]


async def check(name: str, disk: Path) -> None:
    before, rollback, bad = SCENARIOS[name]
    possible = {before, "m@2", rollback if rollback != "small@1" else before}
    bench = Bench(disk)
    # Never none, not even before anything was mended; and what counts as in service is the old one or the end.
    assert bench.linked("m") in possible
    current = bench.activator.current("m")
    ended = ENDS[name]
    assert str(current) in {str(before), str(before if ended == "small@1" else ended)}
    outcomes = await bench.activator.recover()
    assert len(outcomes) <= 1
    # Whoever gave the command and does not know of the end gives it again.
    old, new = before and bench.model(before), bench.model("m@2")
    if name == "header":
        new = bench.model("m@2", b"GGUF broken")
    asked = len(bench.asked)
    other = None if rollback is None else bench.model(rollback)
    outcome = await bench.activator.activate(new, other, command=COMMAND)
    if outcomes:
        assert outcome == outcomes[0]
        assert len(bench.asked) == asked  # done once
    assert outcome.wanted == new
    assert str(outcome.in_service) == str(ended)
    good = name in {"good", "first"}
    assert outcome.status is (ModelStatus.LOADED if good else ModelStatus.FAILED)
    if not bad and not good:
        assert outcome.in_service == old
        assert "m@2" not in bench.asked
    # Links, standings, pins and the runtime agree.
    standings = bench.activator.standings()
    for slot in ("m", "small"):
        standing = standings.get(slot)
        assert bench.linked(slot) == (str(standing.candidate) if standing else None)
    for candidate in bench.activator.loaded():
        assert bench.running == str(candidate)
    assert bool(bench.activator.loaded()) == (name not in {"first-bad", "all-bad"})
    assert bench.pinned() == {standing.candidate.blob for standing in standings.values()}
    bench = bench.again()
    assert await bench.activator.recover() == []
    assert bench.activator.standings() == standings
    bench.close()


def marked() -> list[str]:
    """The command lines of all loaders that run on this machine for this test."""
    found = []
    for process in psutil.process_iter():
        try:
            if TOKEN_VARIABLE in process.environ():
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def killer(seconds: int) -> str:
    """A loader that kills the node, and stays."""
    return f"kill -9 $PPID; exec sleep {seconds}"


def test_what_the_loader_of_a_killed_node_still_does_is_ended(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    trio.run(bench.activator.activate, bench.model("m@1"))
    bench.verdict("m@2", f"if ! [ -e killed ]; then touch killed; {killer(4711)}; fi")
    bench.close()
    assert child("activate", tmp_path).returncode == -9
    # It outlives the node that it killed, and has to get to its next command first.
    wait_until(lambda: "sleep 4711" in marked(), what="the loader stays")
    done = child("recover", tmp_path)
    assert done.stdout == "Loaded m@2 None\n", done.stderr
    assert "sleep 4711" not in marked()
    bench = Bench(tmp_path)
    assert (bench.linked("m"), bench.running) == ("m@2", "m@2")
    assert bench.asked == ["m@1", "m@2", "m@2"]
    bench.close()


def test_a_model_that_always_takes_the_node_down_is_given_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    trio.run(bench.activator.activate, bench.model("m@1"))
    bench.verdict("m@2", killer(4712))
    bench.close()
    assert child("activate", tmp_path).returncode == -9
    for _ in range(MAX_ATTEMPTS - 1):
        assert child("recover", tmp_path).returncode == -9
    done = child("recover", tmp_path)
    reason = f"the node ended {MAX_ATTEMPTS} times while it was loading"
    assert done.stdout == f"Failed m@1 {reason}\n", done.stderr
    assert "sleep 4712" not in marked()
    bench = Bench(tmp_path)
    assert (bench.linked("m"), bench.running) == ("m@1", "m@1")
    assert [str(each) for each in bench.activator.loaded()] == ["m@1"]
    assert bench.asked == ["m@1", *["m@2"] * MAX_ATTEMPTS, "m@1"]
    bench.close()


def test_a_header_that_always_takes_the_node_down_is_given_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    trio.run(bench.activator.activate, bench.model("m@1"))
    bench.model("m@2")
    bench.close()
    assert child("activate", tmp_path, "deadly").returncode == -9
    for _ in range(MAX_ATTEMPTS - 1):
        assert child("recover", tmp_path, "deadly").returncode == -9
    done = child("recover", tmp_path, "deadly")
    reason = f"the node ended {MAX_ATTEMPTS} times while its header was read"
    assert done.stdout == f"Failed m@1 {reason}\n", done.stderr
    bench = Bench(tmp_path)
    assert (bench.linked("m"), bench.running, bench.asked) == ("m@1", "m@1", ["m@1"])
    assert len((tmp_path / "read").read_text().split()) == MAX_ATTEMPTS
    bench.close()
