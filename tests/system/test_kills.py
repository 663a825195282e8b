"""kill -9 of one side or the other in the middle of a transfer: nothing verified is fetched again."""

from __future__ import annotations

import filecmp
import signal
from typing import TYPE_CHECKING

from support.files import MIB, blake3_of, chunks_on_disk, make_model
from support.nodes import finish
from support.proxy import Proxy
from support.waiting import wait_until
from support.web import serving

if TYPE_CHECKING:
    from pathlib import Path

    from support.nodes import Cluster, Node

CHUNK = 256 * 1024  # what a small file is cut into
CHUNKS = 25  # the last one is short
SIZE = 24 * CHUNK + 12_345


def served(log: Path) -> list[int]:
    """The chunks that a rogue node has read for its peers, in order."""
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def wait_chunks(node: Node, model: Path, count: int) -> None:
    """Waits until that many chunks are on the node's disk, as seen from outside of it."""
    partial = node.partial_file(blake3_of(model))
    wait_until(
        lambda: len(chunks_on_disk(partial, model, CHUNK)) >= count,
        what=f"{count} chunks in {partial}",
        every=0.01,
    )


def test_a_downloader_killed_again_and_again_fetches_nothing_twice(
    cluster: Cluster, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "model.safetensors", SIZE)
    log = tmp_path / "served"
    source = cluster.up("source", rogue={"served": str(log), "delay": 0.04})
    source.json("publish", model, "--id", "m")
    options = ("--peer", source.addr, "--trust", source.peer_id, "--fetch", "all")
    victim = cluster.node("victim")
    partial = victim.partial_file(blake3_of(model))

    held: set[int] = set()
    for point in (2, 9, 17):
        mark = len(served(log))
        victim.up(*options)
        wait_chunks(victim, model, point)
        victim.kill()
        # What it had asked for is read until the source notices.
        wait_until(lambda: source.connected() == set())
        assert held & set(served(log)[mark:]) == set()
        now = chunks_on_disk(partial, model, CHUNK)
        assert now >= held
        assert point <= len(now) < CHUNKS
        held = now
        (view,) = victim.json("models")
        assert (view["local_path"], view["status"] in {"ready", "loaded"}) == (None, False)

    mark = len(served(log))
    victim.up(*options)
    victim.wait_status("m", "ready")
    last = served(log)[mark:]
    assert set(last) == set(range(CHUNKS)) - held
    assert len(last) == len(set(last))
    assert filecmp.cmp(victim.copy_of("m"), model, shallow=False)
    assert not partial.exists()


def test_http_takes_over_from_a_source_that_was_killed(cluster: Cluster, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model.safetensors", SIZE)
    with serving(model.read_bytes()) as web:
        source = cluster.up("source", rogue={"freeze_at": 8, "thaw": str(tmp_path / "never")})
        source.json("publish", model, "--id", "m", "--url", web.url)
        taker = cluster.node("taker").configure(http_fallback_after_s=2.0)
        taker.up("--peer", source.addr, "--trust", source.peer_id, "--fetch", "none")
        taker.wait_model("m")
        get = taker.start("get", "m", "--json")
        wait_chunks(taker, model, 8)
        source.kill()
        got = finish(get).json()
        by_peer = got["bytes_by_source"].pop(f"peer:{source.peer_id}")
        by_http = got["bytes_by_source"].pop(f"http:{web.url.split('/')[2]}")
        assert got["bytes_by_source"] == {}
        assert by_peer in {
            8 * CHUNK,
            7 * CHUNK + SIZE % CHUNK,
        }  # the short chunk may have been among them
        assert by_peer + by_http == SIZE
        assert web.bytes_sent == by_http
    assert filecmp.cmp(got["path"], model, shallow=False)
    assert filecmp.cmp(taker.copy_of("m"), model, shallow=False)


def test_a_frozen_source_is_left_for_another(cluster: Cluster, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model.safetensors", SIZE)
    first = cluster.up("first", rogue={"delay": 0.05})
    first.json("publish", model, "--id", "m")
    follow = ("--peer", first.addr, "--trust", first.peer_id)
    second = cluster.up("second", *follow, "--fetch", "all", rogue={"delay": 0.05})
    second.wait_status("m", "ready")
    taker = cluster.up("taker", *follow, "--peer", second.addr, "--fetch", "none")
    taker.wait_connected(first)
    taker.wait_connected(second)
    get = taker.start("get", "m", "--json")
    wait_chunks(taker, model, 4)
    second.signal(signal.SIGSTOP)  # its sockets stay open, and say nothing any more
    got = finish(get).json()
    assert filecmp.cmp(got["path"], model, shallow=False)
    assert got["bytes_by_source"][f"peer:{first.peer_id}"] > 0


def test_a_slow_line_that_breaks_is_taken_up_again(cluster: Cluster, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model.safetensors", SIZE)
    log = tmp_path / "served"
    source = cluster.up("source", rogue={"served": str(log)})
    source.json("publish", model, "--id", "m")
    with Proxy(source.port, rate=4 * MIB) as proxy:
        taker = cluster.up(
            "taker",
            *("--peer", proxy.addr(source.addr), "--trust", source.peer_id, "--fetch", "all"),
        )
        for count in (3, 10):
            wait_chunks(taker, model, count)
            proxy.cut()
        taker.wait_status("m", "ready")
    assert filecmp.cmp(taker.copy_of("m"), model, shallow=False)
    # Only what was under way when the line broke was read twice.
    assert len(served(log)) < 2 * CHUNKS
