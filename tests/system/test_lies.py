"""Peers and publishers that lie, as whole nodes: found out, named, and nothing of theirs becomes READY."""

from __future__ import annotations

import filecmp
from typing import TYPE_CHECKING, Any

import pytest
from support.files import MIB, blake3_of, make_model
from support.nodes import Node, peatnet
from support.waiting import wait_until
from support.web import serving

from peatnet.errors import HttpSourceError, IntegrityError, NoSource, PeatnetError

if TYPE_CHECKING:
    from pathlib import Path

    from support.nodes import Cluster

SIZE = 2 * MIB + 17

LIES: dict[str, dict[str, Any]] = {
    "size": {"size_bytes": SIZE + 1},
    "sha256": {"sha256": "00" * 32},
    "table": {"table_hash": "00" * 32},
}


def assert_not_ready(node: Node, model_id: str) -> None:
    (view,) = [view for view in node.json("models") if view["model_id"] == model_id]
    assert view["status"] not in {"ready", "loaded"}
    assert view["local_path"] is None
    assert not list((node.data_dir / "models" / model_id).glob("*"))


def test_a_manifest_that_lies_about_what_peers_hold(cluster: Cluster, tmp_path: Path) -> None:
    liar = cluster.node("liar")
    for seed, (what, lie) in enumerate(LIES.items()):
        model = make_model(tmp_path / f"{what}.safetensors", SIZE, seed)
        peatnet(liar.data_dir, "publish", model, "--id", what, rogue={"lie": lie}).ok()
    liar.up()
    taker = cluster.node("taker").configure(give_up_after_s=2.0)
    taker.up("--peer", liar.addr, "--trust", liar.peer_id, "--fetch", "none")
    for what in LIES:
        taker.wait_model(what)
        ran = taker.run("get", what, "--source", "peers")
        assert ran.code in {IntegrityError.exit_code, NoSource.exit_code}, ran
        assert ran.out == ""
        assert ran.err.startswith("error:")
        assert_not_ready(taker, what)
    assert not list((taker.data_dir / "blobs").rglob("*.blob"))
    taker.stop()


@pytest.mark.parametrize(("what", "error"), [("size", HttpSourceError), ("sha256", IntegrityError)])
def test_a_manifest_that_lies_about_its_url(
    tmp_path: Path, what: str, error: type[PeatnetError]
) -> None:
    model = make_model(tmp_path / "model.safetensors", SIZE)
    node = Node("node", tmp_path / "node", tmp_path / "logs")
    with serving(model.read_bytes()) as web:
        words = ("publish", model, "--id", what, "--url", web.url)
        peatnet(node.data_dir, *words, rogue={"lie": LIES[what]}).ok()
        node.json("rm", what, "--force")
        node.run("get", what, "--source", "http").failed(error)
    assert_not_ready(node, what)
    assert not node.blob_file(blake3_of(model)).exists()


def test_corrupt_chunks_of_one_holder_do_not_stop_the_others(
    cluster: Cluster, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "model.safetensors", 24 * MIB)
    publisher = cluster.up("publisher", rogue={"delay": 0.05})
    publisher.json("publish", model, "--id", "m")
    trust = ("--trust", publisher.peer_id, "--fetch", "all")
    # It has the model, rightly, and spoils each chunk on its way out.
    spoiler = cluster.up("spoiler", "--peer", publisher.addr, *trust, rogue={"corrupt": "all"})
    spoiler.wait_status("m", "ready")

    taker = cluster.up(
        "taker", "--peer", publisher.addr, "--peer", spoiler.addr, *trust[:2], "--fetch", "none"
    )
    taker.wait_connected(publisher)
    taker.wait_connected(spoiler)
    taker.wait_model("m")
    wait_until(lambda: len(taker.call("fleet")) == 3, what="all nodes have told how they are")
    got = taker.json("get", "m")
    assert got["bytes_by_source"] == {f"peer:{publisher.peer_id}": 24 * MIB}
    assert filecmp.cmp(got["path"], model, shallow=False)
    banned = [line for line in taker.log().splitlines() if "banned" in line]
    assert any(spoiler.peer_id in line for line in banned)
    assert not any(publisher.peer_id in line for line in banned)
    assert taker.banned() == {spoiler.peer_id}
    assert [peer["connected"] for peer in taker.json("peers") if peer["banned_until"]] == [False]
    assert {each["peer_id"] for each in taker.json("fleet") if each["banned"]} == {spoiler.peer_id}
    assert taker.run("fleet").ok().out.count("banned here") == 1


def test_an_honest_holder_whose_disk_has_changed_a_byte_is_not_banned_and_mends_itself(
    cluster: Cluster, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "model.safetensors", 6 * MIB)
    publisher = cluster.up("publisher")
    publisher.json("publish", model, "--id", "m")
    trust = ("--trust", publisher.peer_id, "--fetch", "all")
    holder = cluster.up("holder", "--peer", publisher.addr, *trust)
    holder.wait_status("m", "ready")
    file = holder.blob_file(blake3_of(model))
    file.chmod(0o644)
    with file.open("r+b") as damaged:
        for chunk in range(6):
            damaged.seek(chunk * MIB + 1000)
            damaged.write(b"damage")
    publisher.stop()
    # It has nothing to offer but damage, and says so by offering nothing.
    taker = cluster.up("taker", "--peer", holder.addr, *trust)
    wait_until(lambda: "damaged blob moved aside" in holder.log(), what="the holder to find out")
    publisher.up("--peer", holder.addr)
    holder.wait_status("m", "ready")
    taker.wait_status("m", "ready")
    assert filecmp.cmp(taker.copy_of("m"), model, shallow=False)
    assert filecmp.cmp(holder.copy_of("m"), model, shallow=False)
    assert taker.banned() == set()
