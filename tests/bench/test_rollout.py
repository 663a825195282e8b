"""The roll-out that scripts/rollout shows: real nodes, peatnet's own commands, and nothing left of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.nodes import environment
from support.waiting import wait_until

from peatnet.errors import DeployFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT = 300.0
NAMES = ["node-1", "node-2", "node-3", "publisher"]
QUICK = ("--size", "3MiB", "--nodes", "3")


@pytest.fixture
def rollout(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts it, with `tmp_path/temp` for its files and what it tells in `tmp_path/steps`."""
    with ExitStack() as stack:

        def start(*arguments: str) -> subprocess.Popen[str]:
            (tmp_path / "temp").mkdir()
            steps = stack.enter_context((tmp_path / "steps").open("w"))
            child = subprocess.Popen(
                [sys.executable, str(ROOT / "bench" / "rollout_script.py"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=steps,
                env=environment(tmp_path / "data") | {"TMPDIR": str(tmp_path / "temp")},
                text=True,
            )
            stack.enter_context(child)
            stack.callback(child.terminate)  # a failed test's roll-out cleans up after itself
            return child

        yield start


def nothing_is_left(tmp_path: Path) -> None:
    running = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True)
    assert [line for line in running.stdout.splitlines() if str(tmp_path / "temp") in line] == []
    assert list((tmp_path / "temp").iterdir()) == []


@pytest.mark.slow
def test_it_ends_with_the_model_loaded_everywhere(
    tmp_path: Path, rollout: Callable[..., subprocess.Popen[str]]
) -> None:
    child = rollout(*QUICK, "--json")
    out, _ = child.communicate(timeout=TIMEOUT)
    steps = (tmp_path / "steps").read_text()
    assert child.returncode == 0, steps
    found: dict[str, Any] = json.loads(out)
    assert found["size_bytes"] == 3 * 2**20
    assert found["seconds"] >= found["rollout_s"] > 0
    nodes = found["status"]["nodes"]
    assert sorted(node["name"] for node in nodes) == NAMES
    assert {node["status"] for node in nodes} == {"loaded"}
    assert all(f"{name}: loaded" in steps for name in NAMES)
    nothing_is_left(tmp_path)


@pytest.mark.slow
def test_for_people_it_ends_with_the_table_and_the_seconds(
    tmp_path: Path, rollout: Callable[..., subprocess.Popen[str]]
) -> None:
    child = rollout(*QUICK, "--loader", "/bin/sh -c 'test -s \"$MODEL_PATH\"'")
    out, _ = child.communicate(timeout=TIMEOUT)
    assert child.returncode == 0, (tmp_path / "steps").read_text()
    assert "all-minilm-l6-v2@1.0.0  4 nodes: 4 loaded; all done" in out
    assert out.splitlines()[-1].startswith("LOADED on all 4: ")
    nothing_is_left(tmp_path)


@pytest.mark.slow
def test_a_loader_that_fails_fails_it(
    tmp_path: Path, rollout: Callable[..., subprocess.Popen[str]]
) -> None:
    child = rollout(*QUICK, "--loader", "/bin/sh -c 'echo no room; exit 3'")
    out, _ = child.communicate(timeout=TIMEOUT)
    steps = (tmp_path / "steps").read_text()
    assert (child.returncode, out) == (DeployFailed.exit_code, ""), steps
    assert "no room" in steps
    assert "Traceback" not in steps
    nothing_is_left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_it_leaves_nothing(
    sig: signal.Signals, tmp_path: Path, rollout: Callable[..., subprocess.Popen[str]]
) -> None:
    child = rollout(*QUICK, "--loader", "sleep 60")
    steps = tmp_path / "steps"
    wait_until(lambda: "command " in steps.read_text() or None, TIMEOUT, what="the command")
    child.send_signal(sig)
    out, _ = child.communicate(timeout=TIMEOUT)
    assert (child.returncode, out) == (130, ""), steps.read_text()
    assert "Traceback" not in steps.read_text()
    nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--nodes", "0"], "1 to 16"),
        (["--nodes", "17"], "1 to 16"),
        (["--size", "1000"], "at least 1024"),
        (["--size", "1TB"], "not a size"),
        (["--timeout", "nan"], "more than 0"),
        (["--loader", " "], "an empty command"),
        (["--loader", "'"], "invalid"),
    ],
)
def test_a_wrong_option_of_the_rollout_is_refused(
    arguments: list[str],
    complaint: str,
    rollout: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    child = rollout(*arguments)
    out, _ = child.communicate(timeout=TIMEOUT)
    assert (child.returncode, out) == (UsageError.exit_code, "")
    assert complaint in (tmp_path / "steps").read_text()
    nothing_is_left(tmp_path)
