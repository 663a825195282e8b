"""Turns at an origin: of six nodes that lack a file two fetch it from its URL, and the others take it from those."""

from __future__ import annotations

import filecmp
from typing import TYPE_CHECKING

import pytest
import trio
from support.files import MIB, blake3_of, make_model
from support.records import manifest_of, record_of
from support.waiting import wait_until
from support.web import FileServer

from peatnet.config import Config
from peatnet.opening import open_library
from peatnet.records import KeyPair

if TYPE_CHECKING:
    from pathlib import Path

    from support.nodes import Cluster, Node

# Many nodes, or limits that take their time: ./scripts/test --all
pytestmark = pytest.mark.slow

SIZE = 12 * MIB + 777
FLEET = 6
PUBLISHER = KeyPair.from_seed(bytes(31) + b"o")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors", SIZE)


def fleet(cluster: Cluster) -> list[Node]:
    """Nodes that trust the publisher and are all connected to the first of them."""
    hub = cluster.node("n0").configure(http_fallback_after_s=1.0)
    trust = ("--trust", str(PUBLISHER.peer_id), "--fetch", "all")
    hub.up(*trust)
    others = [
        cluster.node(f"n{number}")
        .configure(http_fallback_after_s=1.0)
        .up("--peer", hub.addr, *trust, ready=False)
        for number in range(1, FLEET)
    ]
    for node in others:
        node.wait_ready()
    for node in others:
        node.wait_connected(hub)
    return [hub, *others]


def bring_news(cluster: Cluster, hub: Node, envelope: bytes) -> Node:
    """A node that knows a record and fetches nothing; the others learn of it from that node."""
    herald = cluster.node("herald")
    with open_library(Config(data_dir=herald.data_dir)) as library:
        trio.run(library.ledger.trust, str(PUBLISHER.peer_id))
        (taken,) = trio.run(library.ledger.take, [envelope])
        assert taken.fault is None
    return herald.up("--peer", hub.addr, "--fetch", "none")


def foreign(model: Path, url: str, *, with_blob: bool) -> bytes:
    """A manifest as other tools write it, without a chunk table."""
    blob = blake3_of(model) if with_blob else None
    manifest = manifest_of(model, "m", download_url=url, metadata={}, blob_hash=blob)
    if blob is None:
        del manifest["blob_hash"]
    return record_of(PUBLISHER, manifest)


@pytest.mark.parametrize("with_blob", [True, False])
def test_a_foreign_model_is_fetched_about_twice_and_not_by_all(
    cluster: Cluster, model: Path, *, with_blob: bool
) -> None:
    nodes = fleet(cluster)
    with FileServer(model.read_bytes(), rate=1e6) as server:
        bring_news(cluster, nodes[0], foreign(model, server.url, with_blob=with_blob))
        for node in nodes:
            node.wait_status("m", "ready", 90)
            assert filecmp.cmp(node.copy_of("m"), model, shallow=False)
        assert SIZE <= server.bytes_sent <= 3 * SIZE


def test_those_who_wait_go_on_when_those_who_fetch_are_killed(
    cluster: Cluster, model: Path
) -> None:
    nodes = fleet(cluster)

    def fetching() -> list[Node]:
        return [node for node in nodes if "our turn at the origin" in node.log()]

    with FileServer(model.read_bytes(), stall_at=MIB) as server:
        bring_news(cluster, nodes[0], foreign(model, server.url, with_blob=True))
        wait_until(lambda: len(fetching()) >= 2, 60, what="two nodes to have their turn")
        taken = fetching()
        for node in taken:
            node.kill()
        server.resume()
        rest = [node for node in nodes if node not in taken]
        assert rest
        for node in rest:
            node.wait_status("m", "ready", 90)
            assert filecmp.cmp(node.copy_of("m"), model, shallow=False)


def test_chunks_that_no_peer_has_left_come_from_the_origin_once_or_twice(
    cluster: Cluster, model: Path
) -> None:
    with FileServer(model.read_bytes(), rate=1e6) as server:
        publisher = cluster.node("publisher").configure(upload_limit="128KiB/s")
        publisher.up()
        follow = ("--peer", publisher.addr, "--trust", publisher.peer_id, "--fetch", "all")
        hub = cluster.node("n0").configure(http_fallback_after_s=8.0).up(*follow)
        nodes = [hub]
        for number in range(1, FLEET):
            node = cluster.node(f"n{number}").configure(http_fallback_after_s=8.0)
            nodes.append(node.up(*follow, "--peer", hub.addr, ready=False))
        for node in nodes:
            node.wait_ready()
            node.wait_connected(publisher)
        publisher.json("publish", model, "--id", "m", "--url", server.url)
        blob = blake3_of(model)
        for node in nodes:
            wait_until(node.partial_file(blob).exists, 30, what=f"{node.name} to have begun")
        publisher.kill()
        for node in nodes:
            node.wait_status("m", "ready", 90)
            assert filecmp.cmp(node.copy_of("m"), model, shallow=False)
        assert server.bytes_sent <= 3 * SIZE
