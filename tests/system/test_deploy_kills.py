"""kill -9 of a node while it carries out a command, and commands that compete for a slow link."""

from __future__ import annotations

import filecmp
from typing import TYPE_CHECKING

import pytest
from support.deploying import current, outcome, wait_loaded, with_loader
from support.files import MIB, blake3_of, chunks_on_disk, make_model
from support.records import manifest_of
from support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.nodes import Cluster

# Many nodes, or limits that take their time: ./scripts/test --all
pytestmark = pytest.mark.slow

SIZE = 12 * MIB + 5


def test_a_node_killed_again_and_again_comes_to_the_end(cluster: Cluster, tmp_path: Path) -> None:
    files = [make_model(tmp_path / f"{n}.safetensors", SIZE, n) for n in (1, 2)]
    head = cluster.node("head").up("--fetch", "none", rogue={"delay": 0.03})
    victim = cluster.node("victim")
    loader = with_loader(victim, mdns=False)
    options = ("--peer", head.addr, "--trust", head.peer_id, "--fetch", "none")
    victim.up(*options)
    for number, file in enumerate(files, 1):
        manifest = manifest_of(file, "m", version=str(number))
        head.call("publish", path=str(file), manifest=manifest)
    head.call("deploy", reference="m@1", to=[victim.peer_id])
    wait_loaded(victim, "m@1")

    seen = len(loader.started())

    # While the bytes come.
    loader.hold()
    command_id = head.call("deploy", reference="m@2", to=[victim.peer_id])["command_id"]
    partial = victim.partial_file(blake3_of(files[1]))
    wait_until(lambda: len(chunks_on_disk(partial, files[1])) >= 3, every=0.01)
    victim.kill()
    victim.up(*options)
    # While the loader runs.
    for _ in range(2):
        wait_until(lambda: len(loader.started()) > seen, what="the loader to be started")  # noqa: B023  # called at once
        seen = len(loader.started())
        victim.kill()
        link = current(victim)
        assert link is not None
        assert any(filecmp.cmp(link, file, shallow=False) for file in files)
        victim.up(*options)
    loader.release()
    wait_loaded(victim, "m@2")
    wait_until(lambda: outcome(victim, command_id) == ("done", None), what="the end to be told")
    link = current(victim)
    assert link is not None
    assert filecmp.cmp(link, files[1], shallow=False)
    # When all is done.
    started = loader.started()
    assert set(started[1:]) == {"m@2"}
    victim.kill()
    victim.up(*options)
    wait_until(lambda: outcome(victim, command_id) == ("done", None), what="the end to be told")
    assert loader.started() == started
    victim.stop()


def test_priority_1_overtakes_a_running_5(cluster: Cluster, tmp_path: Path) -> None:
    head = cluster.node("head").configure(upload_limit="3MB/s")
    head.up("--fetch", "none")
    taker = cluster.node("taker")
    with_loader(taker, mdns=False)
    taker.up("--peer", head.addr, "--trust", head.peer_id, "--fetch", "none")
    for number, model_id in enumerate(("idle", "urgent")):
        file = make_model(tmp_path / f"{model_id}.safetensors", SIZE, number)
        head.call("publish", path=str(file), manifest=manifest_of(file, model_id))

    def progress() -> float:
        model = taker.model("idle")
        return 0.0 if model is None else float(model["download_progress"])

    target = [taker.peer_id]
    head.call("deploy", reference="idle", to=target, priority=5)
    wait_until(lambda: progress() > 0.05, what="5 to be under way")
    head.call("deploy", reference="urgent", to=target, priority=1)
    wait_loaded(taker, "urgent@1.0.0")
    assert progress() < 0.75
    wait_loaded(taker, "idle@1.0.0")
