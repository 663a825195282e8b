"""The demo: real nodes, on the loopback, and nothing left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3
from support.nodes import environment, peatnet
from support.waiting import wait_until

from peatnet.cli.demo_model import SIZE, write_demo_model
from peatnet.errors import NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the demo, with `tmp_path/temp` for its files and its steps in `tmp_path/steps`."""
    with ExitStack() as stack:

        def start(*arguments: str) -> subprocess.Popen[str]:
            (tmp_path / "temp").mkdir()
            steps = stack.enter_context((tmp_path / "steps").open("w"))
            child = subprocess.Popen(
                [sys.executable, "-m", "peatnet", "demo", *arguments],
                stdout=subprocess.PIPE,
                stderr=steps,
                env=environment(tmp_path / "data") | {"TMPDIR": str(tmp_path / "temp")},
                text=True,
            )
            stack.enter_context(child)
            stack.callback(child.terminate)  # a failed test's demo cleans up after itself
            return child

        yield start


def nodes_of(temp: Path) -> list[str]:
    done = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if str(temp) in line]


def test_the_demo_shows_every_node_verified_and_cleans_up(
    tmp_path: Path, demo: Callable[..., subprocess.Popen[str]]
) -> None:
    file = tmp_path / "model-q8_0.gguf"
    file.write_bytes(os.urandom(5_000_000))
    child = demo("--nodes", "2", "--file", str(file), "--json")
    out, _ = child.communicate(timeout=120)
    assert child.returncode == 0, (tmp_path / "steps").read_text()
    rows = json.loads(out)
    assert [row["node"] for row in rows] == ["node-1", "node-2"]
    assert [row["joined_late"] for row in rows] == [False, True]
    for row in rows:
        assert row["verified"]
        assert row["blob_hash"] == blake3(file.read_bytes()).hexdigest()
        assert sum(row["bytes_by_source"].values()) >= 5_000_000
        assert set(row["bytes_by_source"]) <= {"publisher", "node-1", "node-2"}
    assert list((tmp_path / "temp").iterdir()) == []
    assert nodes_of(tmp_path) == []
    assert not (tmp_path / "data").exists()


def test_control_c_leaves_nothing_behind(
    tmp_path: Path, demo: Callable[..., subprocess.Popen[str]]
) -> None:
    child = demo("--nodes", "1")
    steps = tmp_path / "steps"
    wait_until(
        lambda: "node-1: starting" in steps.read_text() or None,
        60,
        what="the demo's nodes to start",
    )
    assert nodes_of(tmp_path)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    assert list((tmp_path / "temp").iterdir()) == []
    assert nodes_of(tmp_path) == []
    assert "Traceback" not in steps.read_text()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    peatnet(tmp_path / "data", "demo", "--file", tmp_path / "none").failed(NotFound)
    folder = peatnet(tmp_path / "data", "demo", "--file", tmp_path).failed(UsageError)
    assert f"{tmp_path} is not a regular file" in folder.err


def test_the_generated_model_is_valid_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_demo_model(path)
    assert path.stat().st_size == SIZE
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    tensors = [value for key, value in header.items() if key != "__metadata__"]
    end = 0
    for tensor in tensors:
        begin, stop = tensor["data_offsets"]
        rows, columns = tensor["shape"]
        assert (begin, stop - begin) == (end, rows * columns * 2)
        end = stop
    assert 8 + length + end == SIZE
