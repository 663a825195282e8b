"""One model, several machines: everybody ends with the publisher's bytes, whoever is still there."""

from __future__ import annotations

import filecmp
from typing import TYPE_CHECKING

from support.files import MIB, REAL_MODEL_SIZE, blake3_of, make_model, sha256_of

if TYPE_CHECKING:
    from pathlib import Path

    from support.nodes import Cluster, Node


def assert_same_bytes(node: Node, model_id: str, original: Path) -> None:
    copy = node.copy_of(model_id)
    assert copy != original
    assert filecmp.cmp(copy, original, shallow=False)
    assert filecmp.cmp(node.blob_file(blake3_of(original)), original, shallow=False)


def test_a_real_model_reaches_four_nodes_and_a_late_joiner(
    cluster: Cluster, minilm: Path, tmp_path: Path
) -> None:
    publisher = cluster.up("publisher")
    follow = ("--peer", publisher.addr, "--trust", publisher.peer_id, "--fetch", "all")
    early = [cluster.node(name).up(*follow, ready=False) for name in ("b", "c")]
    for node in early:
        node.wait_ready()
        node.wait_connected(publisher)

    manifest = publisher.json("publish", minilm, "--id", "minilm", "--type", "embedder")
    blob_hash = blake3_of(minilm)
    assert manifest["blob_hash"] == blob_hash
    assert manifest["sha256"] == sha256_of(minilm)
    assert manifest["size_bytes"] == REAL_MODEL_SIZE
    assert manifest["format"] == "safetensors"  # guessed from the name

    for node in early:
        node.wait_status("minilm", "ready", 60)
        assert_same_bytes(node, "minilm", minilm)

    # Joins after all was said and done, and knows only one of those who listened.
    late = cluster.up(
        "late", "--peer", early[0].addr, "--trust", publisher.peer_id, "--fetch", "all"
    )
    late.wait_status("minilm", "ready", 60)
    assert_same_bytes(late, "minilm", minilm)

    assert late.json("show", "minilm@1.0.0") == manifest
    assert late.json("models") == [
        {
            "model_id": "minilm",
            "version": "1.0.0",
            "publisher": publisher.peer_id,
            "trusted": True,
            "status": "ready",
            "download_progress": 1.0,
            "size_bytes": REAL_MODEL_SIZE,
            "blob_hash": blob_hash,
            "local_path": str(late.copy_of("minilm")),
            "error": None,
            "in_service": False,
        }
    ]
    out = tmp_path / "out.safetensors"
    got = late.json("get", blob_hash[:12], "--out", out)
    assert got["path"] == str(out)
    assert (got["blob_hash"], got["size_bytes"]) == (blob_hash, REAL_MODEL_SIZE)
    assert sha256_of(out) == manifest["sha256"]

    for node in (publisher, *early, late):
        node.stop()


def test_a_third_node_completes_from_the_second_when_the_publisher_is_gone(
    cluster: Cluster, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "tiny-f16.safetensors", 12 * MIB + 4321)
    publisher = cluster.up("publisher")
    follow = ("--trust", publisher.peer_id, "--fetch", "all")
    second = cluster.up("second", "--peer", publisher.addr, *follow)
    # Publishing on a node that is up already and on one that is stopped are told apart by nobody.
    publisher.json("publish", model, "--id", "tiny")
    second.wait_status("tiny", "ready")
    publisher.stop()

    third = cluster.up("third", "--peer", second.addr, *follow)
    third.wait_status("tiny", "ready")
    assert_same_bytes(third, "tiny", model)

    # The publisher comes back as who it was, with what it had; what was published meanwhile reaches it.
    known = publisher.peer_id, publisher.addr
    publisher.json("publish", model, "--id", "tiny", "--version", "2.0.0")
    publisher.up("--peer", third.addr)
    assert publisher.peer_id == known[0]
    assert publisher.json("id") == {"peer_id": known[0]}
    assert {model["version"] for model in publisher.models()} == {"1.0.0", "2.0.0"}
    for node in (second, third):
        node.wait_log("peer connected")
        view = node.json("show", "tiny@1.0.0")
        assert view["blob_hash"] == blake3_of(model)
