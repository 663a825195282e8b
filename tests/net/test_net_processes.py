"""Whole nodes as processes: a peer that freezes, stopping beside it, and a quiet stdout and stderr."""

from __future__ import annotations

import os
import re
import secrets
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio
from net_tools import LOOPBACK, host, network, place, until
from support.files import MIB, make_model
from support.nodes import Cluster, Node
from support.strangers import Stranger
from support.waiting import wait_until

from peatnet.errors import PeerLost
from peatnet.net import discovery, muxer
from peatnet.net import host as host_module
from peatnet.net.host import open_host
from peatnet.net.network import BLOB_PROTOCOL, CATALOGUE_PROTOCOL, MAX_OURSELVES, Network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Nodes as processes, all gone when the test is over."""
    found = Cluster(tmp_path)
    yield found
    found.close()


LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z \[?(info|warning)\b")


def assert_quiet(node: Node) -> None:
    """Nothing on stdout but the first line, nothing on stderr but our own log."""
    assert node.child is not None
    assert len(node.child.stdout().splitlines()) == 1
    for line in node.log().splitlines():
        assert LOG_LINE.match(line), line


def test_a_node_stops_beside_a_frozen_peer_in_mid_transfer(
    cluster: Cluster, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "model.safetensors", 16 * MIB)
    publisher = cluster.up("publisher", rogue={"delay": 0.1})
    publisher.json("publish", model, "--id", "m")
    taker = cluster.up("taker", "--peer", publisher.addr, "--trust", publisher.peer_id)
    wait_until(lambda: (found := taker.model("m")) and found["download_progress"] > 0)
    os.kill(publisher.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        taker.stop()  # fails after 5 s; the node's own emergency exit is at 4.5 s and not clean
        assert time.monotonic() - began < 4
    finally:
        os.kill(publisher.pid, signal.SIGCONT)
    publisher.stop()
    assert_quiet(taker)
    assert_quiet(publisher)


async def test_a_frozen_peer_is_noticed_and_found_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muxer, "PING_AFTER", 0.2)
    monkeypatch.setattr(muxer, "DEAD_AFTER", 1.0)
    node = await trio.to_thread.run_sync(cluster.up, "node")
    address = node.addr.rpartition("/p2p/")[0]
    async with host() as here:
        await here.connect(node.peer_id, [address])
        await until(lambda: node.peer_id in here.connected)
        frames = await here.open_stream(node.peer_id, BLOB_PROTOCOL)
        os.kill(node.pid, signal.SIGSTOP)
        try:
            with trio.fail_after(20), pytest.raises(PeerLost):
                await frames.receive(patience=60)
            await until(lambda: node.peer_id not in here.connected)
        finally:
            os.kill(node.pid, signal.SIGCONT)
        await frames.reset()
        await here.connect(node.peer_id, [address])
        frames = await here.open_stream(node.peer_id, CATALOGUE_PROTOCOL)
        await frames.reset()
    await trio.to_thread.run_sync(node.stop)


def test_a_stranger_makes_no_noise_but_in_our_log(cluster: Cluster) -> None:
    node = cluster.up("node")
    stranger = Stranger("stranger", node.addr, cluster.root / "logs")
    cluster.own(stranger)
    stranger.become()
    stranger.stream("/meshsub/1.1.0", b"\x05\xff\xff\xff\xff\xff")
    stranger.stream("/unknown/1", b"x", wait=0.2)
    stranger.stream("/ipfs/id/push/1.0.0", b"\xff" * 100, wait=0.2)
    for _ in range(3):
        stranger.stream(BLOB_PROTOCOL, b"\xff" * 100)
    wait_until(lambda: stranger.peer_id in node.banned())
    stranger.kill()
    node.stop()
    assert_quiet(node)


async def test_mdns_finds_a_node_on_this_machine(tmp_path: Path) -> None:
    first, second = place(tmp_path / "first"), place(tmp_path / "second")
    try:
        async with network(first, mdns=True) as one, network(second, mdns=True) as two:
            with trio.move_on_after(10):
                await until(lambda: one.connected and two.connected)
            if not one.connected:
                pytest.skip("no multicast on this machine: mDNS announcements do not arrive")
            assert second.peer_id in one.connected
            assert first.peer_id in two.connected
    except OSError as exc:
        pytest.skip(f"no multicast on this machine: {exc}")


async def test_mdns_begins_anew_where_the_addresses_have_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of a node that is started before its network is there."""
    where = ["/ip4/127.0.0.1/tcp/7411"]
    monkeypatch.setattr(discovery, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(host_module, "to_announce", lambda _listening: list(where))
    try:
        async with open_host(secrets.token_bytes(32), [LOOPBACK], mdns=True) as opened:
            basic: Any = opened.libp2p
            first = basic.mDNS
            await trio.sleep(0.5)
            assert basic.mDNS is first
            where[:] = ["/ip4/192.0.2.1/tcp/7411"]
            await until(lambda: basic.mDNS is not first and first.zeroconf.done)
            second = basic.mDNS
            (told,) = second.broadcaster.service_info.properties.values()
            assert told.decode() == f"/ip4/192.0.2.1/tcp/7411/p2p/{opened.peer_id}"
            await trio.sleep(0.5)
            assert basic.mDNS is second
        assert second.zeroconf.done
    except OSError as exc:
        pytest.skip(f"no multicast on this machine: {exc}")


async def test_what_the_disk_has_changed_of_a_known_node_ends_nothing(tmp_path: Path) -> None:
    other = place(tmp_path / "other").peer_id
    async with network(place(tmp_path / "here")) as opened:
        opened.remember("no peer id", ["/ip4/127.0.0.1/tcp/1"])
        opened.remember(other, ["no address", "/ip4/127.0.0.1/udp/5"])
        assert opened.dialer.known().keys() == {other}
        await until(lambda: opened.dialer._targets[other].failures)


async def test_a_copy_of_a_node_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place(tmp_path / "here")
    elsewhere = "/ip4/192.0.2.1/tcp/7411"
    async with network(here) as opened:
        before = opened.announced
        opened.found_nearby(here.peer_id, before)  # ourselves
        monkeypatch.setattr(Network, "announced", ["/ip4/192.0.2.9/tcp/7411"])
        opened.found_nearby(here.peer_id, before)  # once more, when we have moved
        opened.found_nearby(here.peer_id, [])
        assert "identity" not in caplog.text
        for _ in range(3):
            opened.found_nearby(here.peer_id, [elsewhere])
        assert caplog.text.count("another node has this one's identity") == 1
        assert elsewhere in caplog.text
        assert opened.dialer.known() == {}
        for number in range(200):
            opened.found_nearby(here.peer_id, [f"/ip4/192.0.2.2/tcp/{number + 1}"])
        assert caplog.text.count("another node has this one's identity") == MAX_OURSELVES - len(
            before
        )
        opened.found_nearby("another", [elsewhere])
        assert opened.dialer.known() == {"another": [elsewhere]}


async def test_mdns_announces_where_a_node_can_be_reached() -> None:
    """Of a node that listens everywhere, as nodes do by default: not 0.0.0.0."""
    try:
        async with open_host(secrets.token_bytes(32), ["/ip4/0.0.0.0/tcp/0"], mdns=True) as host:
            discovery: Any = host.libp2p
            told = discovery.mDNS.broadcaster.service_info.properties.values()
            assert {address.decode() for address in told} == set(host.addrs)
            assert not any("/0.0.0.0/" in address for address in host.addrs)
    except OSError as exc:
        pytest.skip(f"no multicast on this machine: {exc}")
