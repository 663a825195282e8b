"""kill -9 in the middle of publishing many files: what was reported is there, and nothing is half."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.files import blake3_of, make_model
from support.nodes import environment
from support.waiting import wait_until

from peatnet.errors import NodeUnreachable

if TYPE_CHECKING:
    from pathlib import Path

    from support.nodes import Cluster, Node

COUNT = 400
SMALL = 1_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for number in range(COUNT):
        make_model(folder / f"m{number:03}.safetensors", SMALL, number)
    return folder


def reported(text: str) -> dict[str, str]:
    """Model ids and blob hashes in whole lines of what `publish --json` has printed."""
    whole = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return {each["manifest"]["model_id"]: each["manifest"]["blob_hash"] for each in whole}


def check(node: Node, folder: Path, told: dict[str, str]) -> int:
    """All that was told is here; what is known is whole, too. Returns how many models there are."""
    node.up("--fetch", "all")

    def all_ready() -> bool:
        # Whatever has a record is here, complete: nobody else could have sent it.
        return all(model["status"] == "ready" for model in node.models())

    wait_until(all_ready, what="all models to be ready")
    models = {model["model_id"]: model for model in node.models()}
    assert told.items() <= {name: model["blob_hash"] for name, model in models.items()}.items()
    for name, model in models.items():
        assert blake3_of(node.data_dir / model["local_path"]) == blake3_of(
            folder / f"{name}.safetensors"
        )
    assert node.json("verify")["damaged"] == []
    node.stop()
    return len(models)


def publishing(node: Node, folder: Path, out: Path) -> subprocess.Popen[str]:
    """The command, begun; its output goes to a file, since nobody reads it meanwhile."""
    with out.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "peatnet", "publish", "--json", str(folder)],
            env=environment(node.data_dir),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.DEVNULL,
            text=True,
        )


@pytest.mark.slow
@pytest.mark.parametrize("groups", [0, 1, 2])
def test_a_node_killed_while_it_publishes(
    cluster: Cluster, folder: Path, tmp_path: Path, groups: int
) -> None:
    node = cluster.up("node", "--fetch", "none")
    out = tmp_path / "out"
    with publishing(node, folder, out) as command:
        wait_until(
            lambda: sum(1 for _ in node.data_dir.glob("blobs/*/*")) > 128 * groups,
            what="files of the next group",
            every=0.001,
        )
        node.kill()
        # Where the node died between two groups, the command does the rest by itself.
        assert command.wait(30) in {0, NodeUnreachable.exit_code}
    told = reported(out.read_text())
    assert len(told) >= 128 * groups
    known = check(node, folder, told)
    assert len(told) <= known
    # And all can be had by publishing again.
    node.up("--fetch", "none")
    assert len(reported(node.run("publish", "--json", folder).ok().out)) == COUNT
    node.stop()
    assert check(node, folder, {}) == COUNT


@pytest.mark.slow
def test_a_command_killed_while_it_publishes_by_itself(
    cluster: Cluster, folder: Path, tmp_path: Path
) -> None:
    node = cluster.node("alone")
    out = tmp_path / "out"
    with publishing(node, folder, out) as command:
        wait_until(lambda: out.stat().st_size > 0, what="the first group", every=0.001)
        command.kill()
        command.wait(30)
    told = reported(out.read_text())
    assert told
    assert len(told) <= check(node, folder, told) <= COUNT
