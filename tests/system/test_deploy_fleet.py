"""Deployments between real nodes: to all, to some, not where it does not fit, and back where it fails."""

from __future__ import annotations

import filecmp
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.deploying import (
    current,
    outcome,
    state_of,
    wait_loaded,
    wait_outcome,
    with_loader,
)
from support.files import MIB, make_model
from support.records import manifest_of
from support.waiting import wait_until

from peatnet.errors import (
    DeployFailed,
    DeployTimeout,
    InUse,
    NotFound,
    UsageError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from support.nodes import Cluster, Node

SIZE = 2 * MIB + 77


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        version: make_model(folder / f"m-{version}.safetensors", SIZE, seed)
        for seed, version in enumerate(("1", "2", "3"))
    }


class Fleet:
    """A node that gives orders, and some that follow them, each with a loader."""

    def __init__(
        self, cluster: Cluster, names: list[str], tables: dict[str, str] | None = None
    ) -> None:
        self.head = cluster.node("head")
        self.loaders = {"head": with_loader(self.head)}
        self.head.up("--fetch", "none", "--name", "head")
        self.nodes: dict[str, Node] = {}
        for name in names:
            node = self.nodes[name] = cluster.node(name)
            self.loaders[name] = with_loader(node, (tables or {}).get(name, ""))
            self.up(name, ready=False)
        for node in self.nodes.values():
            node.wait_ready()
            node.wait_connected(self.head)

    def up(self, name: str, *, ready: bool = True) -> None:
        options = ("--peer", self.head.addr, "--trust", self.head.peer_id, "--name", name)
        self.nodes[name].up(*options, "--fetch", "none", ready=ready)

    def publish(self, files: dict[str, Path], *versions: str, ram: int = 1) -> None:
        for version in versions:
            manifest = manifest_of(files[version], "m", version=version)
            manifest["requirements"]["min_ram_mb"] = ram
            self.head.call("publish", path=str(files[version]), manifest=manifest)

    def order(self, reference: str, *to: str) -> str:
        command_id: str = self.head.call("deploy", reference=reference, to=list(to))["command_id"]
        return command_id

    def deploy(self, reference: str) -> dict[str, Any]:
        """Deploys to all, waits, and gives what became of it, by name."""
        command_id = self.order(reference)
        done = self.head.call("await_command", command_id=command_id, timeout_s=60)
        return {each["name"]: each for each in done["nodes"]}


def test_to_all_and_back(cluster: Cluster, files: dict[str, Path]) -> None:
    fleet = Fleet(cluster, ["one", "two"])
    everybody = [fleet.head, *fleet.nodes.values()]
    fleet.publish(files, "1", "2")
    wait_until(lambda: len(fleet.head.call("fleet")) == 3, what="the head to know all")
    for version in ("1", "2"):
        done = fleet.head.json("deploy", f"m@{version}", "--wait", "--timeout", "60")
        assert {each["outcome"] for each in done["nodes"]} == {"done"}
        assert len(done["nodes"]) == 3
        for node in everybody:
            wait_loaded(node, f"m@{version}")
            link = current(node)
            assert link is not None
            assert filecmp.cmp(link, files[version], shallow=False)
    assert state_of(fleet.nodes["one"], "m@1") == ("ready", False)
    rolled = fleet.head.json("rollback", "m", "--wait", "--timeout", "60")
    assert {each["outcome"] for each in rolled["nodes"]} == {"done"}
    for name, loader in fleet.loaders.items():
        assert loader.started() == ["m@1", "m@2", "m@1"], name
    human = fleet.head.run("models").ok().out
    assert "loaded" in human

    # What is in service is not removed by the way.
    one = fleet.nodes["one"]
    with pytest.raises(InUse, match="in service"):
        one.call("rm", reference="m@1")
    one.call("rm", reference="m@1", force=True)
    assert current(one) is None
    assert state_of(one, "m@1") == ("available", False)


def test_to_two_of_four_and_a_node_that_was_off(cluster: Cluster, files: dict[str, Path]) -> None:
    fleet = Fleet(cluster, ["one", "two", "three"])
    fleet.publish(files, "1")
    one, two, three = fleet.nodes.values()
    wait_until(lambda: len(fleet.head.call("fleet")) == 4, what="the head to know all")
    two.stop()
    command = fleet.order("m", "one", two.peer_id)
    wait_loaded(one, "m@1")
    fleet.up("two")
    wait_loaded(two, "m@1")
    for other in (fleet.head, three):
        assert outcome(other, command) is None
        assert current(other) is None
    assert fleet.loaders["three"].started() == []
    with pytest.raises(NotFound, match="no node 'four'"):
        fleet.order("m", "four")


def test_too_little_ram_and_a_loader_that_fails_on_one(
    cluster: Cluster, files: dict[str, Path]
) -> None:
    fleet = Fleet(cluster, ["small", "large"], {"small": "[hardware]\nram_mb = 512\n"})
    small, large = fleet.nodes.values()
    wait_until(lambda: len(fleet.head.call("fleet")) == 3, what="the head to know all")
    fleet.publish(files, "1")
    fleet.publish(files, "2", "3", ram=4096)
    assert {each["outcome"] for each in fleet.deploy("m@1").values()} == {"done"}

    # All but the one that is too small have the second version; it keeps the first.
    done = fleet.deploy("m@2")
    outcomes = {name: each["outcome"] for name, each in done.items()}
    assert outcomes == {"head": "done", "large": "done", "small": "refused"}
    assert "too little RAM" in done["small"]["reason"]
    assert state_of(small, "m@1") == ("loaded", True)
    assert (state_of(small, "m@2") or [""])[0] == "available"
    wait_loaded(large, "m@2")

    # The third one fails on one node, which goes back, while the others go on.
    fleet.loaders["large"].fails("3")
    failed = fleet.head.run("deploy", "m@3", "--wait", "--timeout", "60", "--json")
    failed.failed(DeployFailed)
    assert "no room for 3" in failed.err
    wait_loaded(fleet.head, "m@3")
    assert state_of(large, "m@2") == ("loaded", True)
    link = current(large)
    assert link is not None
    assert filecmp.cmp(link, files["2"], shallow=False)
    assert fleet.loaders["large"].started() == ["m@1", "m@2", "m@3", "m@2"]
    status = {node["name"]: node for node in fleet.head.call("status", reference="m@3")["nodes"]}
    assert status["large"]["status"] == "failed"
    assert "load failed" in status["large"]["reason"]
    assert "no room for 3" in status["large"]["reason"]
    assert "m@2 is in service" in status["large"]["reason"]
    assert "too little RAM" in status["small"]["reason"]


def test_cancel_stops_what_has_not_finished(cluster: Cluster, files: dict[str, Path]) -> None:
    fleet = Fleet(cluster, ["one", "two"])
    one, two = fleet.nodes.values()
    fleet.publish(files, "1", "2")
    fleet.deploy("m@1")
    fleet.loaders["one"].hold()
    command = fleet.order("m@2", one.peer_id, two.peer_id)
    wait_loaded(two, "m@2")
    wait_until(lambda: fleet.loaders["one"].started()[-1] == "m@2", what="the load to begin")
    wait_until(
        lambda: any(
            node["name"] == "two" and each["command_id"] == command and each["outcome"] == "done"
            for node in fleet.head.call("fleet")
            for each in node["commands"]
        ),
        what="the head to hear that two is done",
    )
    with pytest.raises(DeployTimeout, match="m@2: one had not done it") as late:
        fleet.head.call("await_command", command_id=command, timeout_s=0.1)
    assert f"`peatnet cancel {command}` stops it" in (late.value.hint or "")
    canceled = fleet.head.run("cancel", command[:8], "--json").ok()
    assert json.loads(canceled.out) == {"command_id": command, "done_on": ["two"], "next": None}
    assert "1 node has done it already" in canceled.err
    fleet.loaders["one"].release()
    wait_outcome(one, command, "canceled")
    wait_loaded(one, "m@1")
    assert outcome(two, command) == ("done", None)
    wait_loaded(two, "m@2")
    with pytest.raises(UsageError, match="only that node can cancel it"):
        two.call("cancel", command_id=command)


def test_cancel_tells_which_command_counts_again(cluster: Cluster, files: dict[str, Path]) -> None:
    head, away = cluster.node("head"), cluster.node("away").json("id")["peer_id"]
    for version in ("1", "2"):
        head.json("publish", files[version], "--id", "m", "--version", version)
    first, second = (
        head.json("deploy", f"m@{version}", "--to", away)["command_id"] for version in ("1", "2")
    )
    canceled = head.run("cancel", second, "--json").ok()
    assert json.loads(canceled.out)["next"] == {"command_id": first, "model": "m@1"}
    assert f"{first} (m@1), counts again" in canceled.err
    assert head.json("cancel", first)["next"] is None


def test_without_a_node_a_command_is_signed_and_told_later(
    cluster: Cluster, files: dict[str, Path]
) -> None:
    head, one = cluster.node("head"), cluster.node("one")
    with_loader(one)
    head.json("publish", files["1"], "--id", "m")
    head.run("deploy", "m", "--wait").failed(UsageError)
    command = head.json("deploy", "m")["command_id"]
    head.up()
    one.up("--peer", head.addr, "--trust", head.peer_id, "--fetch", "none")
    wait_loaded(one, "m@1.0.0")
    assert outcome(one, command) == ("done", None)
