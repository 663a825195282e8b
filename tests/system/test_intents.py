"""What somebody asked a node for goes on when the node does, without being asked for again."""

from __future__ import annotations

import filecmp
import signal
from typing import TYPE_CHECKING

import pytest
from support.files import MIB, blake3_of, chunks_on_disk, make_model
from support.nodes import finish
from support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.nodes import Cluster


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_get_goes_on_when_the_node_is_back(
    cluster: Cluster, tmp_path: Path, how: signal.Signals
) -> None:
    model = make_model(tmp_path / "model.safetensors", 24 * MIB)
    source = cluster.up("source", rogue={"delay": 0.05})
    source.json("publish", model, "--id", "m")
    taker = cluster.node("taker")
    options = ("--peer", source.addr, "--fetch", "none")
    taker.up(*options)
    taker.wait_model("m")
    asking = taker.start("get", "m", "--json")
    partial = taker.partial_file(blake3_of(model))
    wait_until(lambda: len(chunks_on_disk(partial, model)) >= 3)
    if how is signal.SIGKILL:
        taker.kill()
    else:
        taker.stop()
    assert finish(asking).code != 0
    taker.up(*options)
    taker.wait_status("m", "ready")
    assert filecmp.cmp(taker.copy_of("m"), model, shallow=False)
