"""Bulk lanes between whole nodes as processes: used by themselves, switched off, frozen, and their port taken."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest
from support.files import MIB, make_model
from support.nodes import Cluster, Node, peatnet
from support.waiting import wait_until

from peatnet.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Nodes as processes, all gone when the test is over."""
    found = Cluster(tmp_path)
    yield found
    found.close()


def publish(cluster: Cluster, root: Path, *flags: str, size: int = 8) -> Node:
    publisher = cluster.up("publisher", *flags)
    publisher.json("publish", make_model(root / "model.safetensors", size * MIB), "--id", "m")
    return publisher


def test_nodes_fetch_over_lanes_by_themselves(cluster: Cluster, tmp_path: Path) -> None:
    publisher = publish(cluster, tmp_path)
    taker = cluster.up("taker", "--peer", publisher.addr, "--trust", publisher.peer_id)
    wait_until(lambda: (found := taker.model("m")) and found["status"] == "ready")
    assert "chunks come over=lanes" in taker.log()
    assert "over=stream" not in taker.log()


@pytest.mark.parametrize(("ours", "theirs"), [(["--no-bulk"], []), ([], ["--no-bulk"])])
def test_without_lanes_at_either_end_streams_serve(
    cluster: Cluster, tmp_path: Path, ours: list[str], theirs: list[str]
) -> None:
    publisher = publish(cluster, tmp_path, *ours)
    taker = cluster.up("taker", "--peer", publisher.addr, "--trust", publisher.peer_id, *theirs)
    wait_until(lambda: (found := taker.model("m")) and found["status"] == "ready")
    assert "over=lanes" not in taker.log()


def test_a_node_stops_beside_a_frozen_lane(cluster: Cluster, tmp_path: Path) -> None:
    publisher = publish(cluster, tmp_path, size=16)
    publisher.json("limits", "--up", "1MiB/s")
    taker = cluster.up("taker", "--peer", publisher.addr, "--trust", publisher.peer_id)
    wait_until(lambda: (found := taker.model("m")) and found["download_progress"] > 0)
    (view,) = taker.json("peers")
    assert view["lanes"] == 1
    os.kill(publisher.pid, signal.SIGSTOP)
    try:
        taker.stop()  # within 5 s, and cleanly
    finally:
        os.kill(publisher.pid, signal.SIGCONT)
    publisher.stop()


def test_a_port_that_was_chosen_and_is_taken_stops_the_node(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags = ["--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns"]
        port = str(taken.getsockname()[1])
        ran = peatnet(tmp_path / "node", "up", *flags, "--bulk-port", port)
        assert "--no-bulk" in ran.failed(ListenError).err
