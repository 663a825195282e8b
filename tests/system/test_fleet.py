"""The fleet as an operator sees it: real nodes, `peatnet fleet` and `peatnet status` asked from one of them."""

from __future__ import annotations

import json
import subprocess
import threading
from signal import SIGINT
from typing import TYPE_CHECKING, Any

import pytest
from support.files import MIB, make_model
from support.nodes import CLI_TIMEOUT, finish
from support.waiting import wait_until

from peatnet.errors import Ambiguous, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from support.nodes import Cluster, Node

COUNTED = ("loaded", "ready", "downloading", "pending", "failed", "unknown")


def by_name(view: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in view["nodes"]}


def wait_view(node: Node, model: str, ready: Any, timeout: float = 60) -> dict[str, Any]:
    """Waits until the status of a model, asked from this node, is as wanted; returns it."""
    last: list[dict[str, Any]] = []

    def look() -> bool:
        last[:] = [node.call("status", reference=model)]
        return bool(ready(last[0]))

    try:
        wait_until(look, timeout, what=f"the status of {model}", every=0.2)
    except AssertionError as exc:
        raise AssertionError(f"{exc}: {last}") from exc
    return last[0]


def four(cluster: Cluster) -> tuple[Node, Node, Node, Node]:
    """Four nodes that know each other: one has little memory, one does not trust the first."""
    first = cluster.up("first", "--name", "first")
    follow = ("--peer", first.addr, "--trust", first.peer_id, "--name")
    good, tiny, wary = (cluster.node(name) for name in ("good", "tiny", "wary"))
    good.up(*follow, "good", ready=False)
    tiny.data_dir.mkdir()
    (tiny.data_dir / "config.toml").write_text("[hardware]\nram_mb = 64\n")
    tiny.up(*follow, "tiny", ready=False)
    wary.up("--peer", first.addr, "--name", "wary", ready=False)
    for each in (good, tiny, wary):
        each.wait_ready()
        each.wait_connected(first)
    wait_until(lambda: len(first.call("fleet")) == 4, what="four nodes")
    return first, good, tiny, wary


def test_nodes_find_each_other_again_without_the_one_that_was_named(cluster: Cluster) -> None:
    first = cluster.up("first")
    others = [cluster.up(name, "--peer", first.addr) for name in ("second", "third")]
    others[0].wait_connected(others[1])
    for node in (first, *others):
        wait_until(lambda: len(node.call("fleet")) == 3, what="three nodes")  # noqa: B023  # called at once
    for node in (first, *others):
        node.stop()
    # As after a power cut in which the first was lost. Neither is told of the other.
    for node in others:
        node.up("--listen", f"/ip4/127.0.0.1/tcp/{node.port}")
    others[0].wait_connected(others[1])
    # One that comes back elsewhere finds the others.
    first.up().wait_connected(others[0])
    first.wait_connected(others[1])


def test_the_fleet_and_where_a_model_stands(cluster: Cluster, tmp_path: Path) -> None:
    first, good, tiny, wary = four(cluster)
    fleet = first.json("fleet")
    assert [each["name"] for each in fleet] == ["first", "good", "tiny", "wary"]
    for node, told in zip((first, good, tiny, wary), fleet, strict=True):
        assert told["peer_id"] == node.peer_id
        assert told["addrs"] == node.addrs
        assert told["models"] == []
        assert told["seen"]
        assert 0 <= told["last_seen_s"] < 60
        assert told["hardware"]["ram_mb"] == (
            64 if node is tiny else fleet[0]["hardware"]["ram_mb"]
        )
        assert told["hardware"]["execution_providers"]

    model = make_model(tmp_path / "m.safetensors", 3 * MIB)
    first.run("publish", model, "--id", "m").ok()
    view = wait_view(
        first,
        "m",
        lambda view: view["counts"]["ready"] == 2 and "does not know" not in json.dumps(view),
    )
    assert view == {**view, "model_id": "m", "version": "1.0.0"}
    assert tuple(view["counts"]) == COUNTED
    assert {name: count for name, count in view["counts"].items() if count} == {
        "ready": 2,
        "pending": 2,
    }
    nodes = by_name(view)
    assert [(each["status"], each["progress"], each["reason"]) for each in view["nodes"]][:2] == [
        ("ready", 1.0, None)
    ] * 2
    assert nodes["tiny"]["reason"].startswith("too little RAM: it needs ")
    assert nodes["wary"]["reason"] == "untrusted publisher"
    assert view["eta_s"] == 0.0
    # The same facts, whoever is asked, and however, once all have told.
    reasons = {name: each["reason"] for name, each in nodes.items()}

    def told_by(view: dict[str, Any]) -> dict[str, str | None]:
        return {name: each["reason"] for name, each in by_name(view).items()}

    wait_view(good, "m", lambda view: told_by(view) == reasons)
    assert told_by(good.json("status", "m@1.0.0")) == reasons
    text = first.run("status", "m").ok().out
    assert text.startswith("m@1.0.0  4 nodes: 2 ready, 2 pending; all but 2 done\n")
    assert "too little RAM" in text
    table = first.run("fleet").ok().out.splitlines()
    assert [line.split()[0] for line in table] == ["NAME", "first", "good", "tiny", "wary"]
    assert "m@1.0.0" in table[1]
    first.run("status", "nothing").failed(NotFound)

    # One is stopped and says so.
    good.stop()
    view = wait_view(first, "m", lambda view: view["counts"]["unknown"] == 1, 20)
    gone = by_name(view)["good"]
    assert gone["reason"].startswith("not seen for ")
    assert gone["reason"].endswith("(it was stopped)")
    assert [each["seen"] for each in first.json("fleet")] == [True, False, True, True]

    # Who is missing is known after a restart, too, and also without a node.
    first.stop()
    names = {each["name"]: each["seen"] for each in first.json("fleet")}
    assert {name for name, seen in names.items() if not seen} >= {"good", "tiny", "wary"}
    assert first.run("fleet", "--forget", "wary").ok().out.startswith("forgotten: ")
    first.run("fleet", "--forget", "wary").failed(NotFound)
    wary.stop()
    first.up("--name", "first")
    assert {each["name"] for each in first.json("fleet")} == {"first", "good", "tiny"}


@pytest.mark.slow
def test_one_that_is_killed_is_missed(cluster: Cluster) -> None:
    first = cluster.up("first", "--name", "first")
    other = cluster.up("other", "--name", "other", "--peer", first.addr)
    other.wait_connected(first)
    wait_until(lambda: len(first.call("fleet")) == 2, what="two nodes")
    other.kill()
    wait_until(lambda: not by_seen(first)["other"], 80, what="the other to be missed", every=0.2)
    assert by_seen(first)["first"]


def by_seen(node: Node) -> dict[str, bool]:
    return {each["name"]: each["seen"] for each in node.call("fleet")}


def test_watching_a_download_to_its_end(cluster: Cluster, tmp_path: Path) -> None:
    first = cluster.node("first").configure(upload_limit="4MB/s").up("--name", "same")
    follow = ("--peer", first.addr, "--trust", first.peer_id)
    second = cluster.up("second", *follow, "--name", "same")
    second.wait_connected(first)
    wait_until(lambda: len(first.call("fleet")) == 2, what="two nodes")
    first.run("fleet", "--forget", "same").failed(Ambiguous)

    model = make_model(tmp_path / "m.safetensors", 24 * MIB)
    first.run("publish", model, "--id", "m").ok()
    watching = first.start("status", "m", "--watch", "--json")
    too_late = threading.Timer(CLI_TIMEOUT, watching.kill)
    too_late.start()
    try:
        view = wait_view(
            first,
            "m",
            lambda view: any(each["rate"] and each["eta_s"] for each in view["nodes"]),
        )
        (loading,) = [each for each in view["nodes"] if each["rate"]]
        assert loading["peer_id"] == second.peer_id
        assert loading["status"] == "downloading"
        assert 0 <= loading["progress"] < 1
        assert view["eta_s"] == loading["eta_s"]
        wait_view(first, "m", lambda view: view["counts"]["ready"] == 2)
        assert watching.stdout is not None
        views = [json.loads(watching.stdout.readline())]
        while views[-1]["counts"]["ready"] < 2:
            views.append(json.loads(watching.stdout.readline()))
        watching.send_signal(SIGINT)
        done = finish(watching)
    except (AssertionError, ValueError, subprocess.TimeoutExpired):
        watching.kill()
        watching.communicate()
        raise
    finally:
        too_late.cancel()
    assert (done.code, done.err) == (130, "")
    shares = [
        each["progress"]
        for view in views
        for each in view["nodes"]
        if each["peer_id"] == second.peer_id
    ]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2
