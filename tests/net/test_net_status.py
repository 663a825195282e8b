"""Node status between real nodes: it spreads through others, proves its sender, and bad ones cost the forwarder."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
import trio
from libp2p.peer.id import ID
from net_tools import PATIENCE, network, offences_of, place, two_networks, until

from peatnet.net import gossip
from peatnet.net.gossip import STATUS_TOPIC
from peatnet.net.network import open_network
from peatnet.net.node_status import MAX_STATUS, NodeStatus
from peatnet.net.standing import Offence

if TYPE_CHECKING:
    from pathlib import Path

    from net_tools import Place

    from peatnet.net.network import Network

STATUS = NodeStatus("one")


def pubsub_of(net: Network) -> Any:
    assert net._gossip is not None
    return net._gossip._pubsub


def hears(net: Network, other: Place) -> bool:
    return ID.from_base58(other.peer_id) in pubsub_of(net).peer_topics.get(STATUS_TOPIC, ())


def listen_to(net: Network) -> list[tuple[str, int, NodeStatus]]:
    heard: list[tuple[str, int, NodeStatus]] = []
    net.on_status.append(lambda *word: heard.append(word))
    return heard


async def test_status_reaches_those_that_are_not_connected(tmp_path: Path) -> None:
    first, middle, last = (place(tmp_path / name) for name in ("first", "middle", "last"))
    async with AsyncExitStack() as stack:
        between = await stack.enter_async_context(network(middle))
        one = await stack.enter_async_context(network(first, between.addrs[0]))
        two = await stack.enter_async_context(network(last, between.addrs[0]))
        await until(lambda: hears(one, middle) and hears(between, first) and hears(between, last))
        heard, own = listen_to(two), listen_to(one)
        with trio.fail_after(PATIENCE):
            while not heard:  # gossip may lose a message
                await one.tell_status(replace(STATUS, addresses=tuple(one.announced)))
                with trio.move_on_after(1):
                    await until(lambda: heard)
        sender, _, status = heard[0]
        assert sender == first.peer_id
        assert status.name == "one"
        assert [f"{each}/p2p/{sender}" for each in status.addresses] == one.addrs
        assert own == []
        heard.clear()
        await one.tell_status(STATUS)
        await one.tell_status(replace(STATUS, name="later"))
        await until(lambda: len(heard) == 2)
        assert heard[0][1] < heard[1][1]


async def test_numbers_begin_where_they_are_told_to(tmp_path: Path) -> None:
    first, second = place(tmp_path / "first"), place(tmp_path / "second")
    start = 2**63  # no clock says that
    async with (
        network(first) as one,
        open_network(
            second.seed, second.ledger, second.store, listen=["/ip4/127.0.0.1/tcp/0"], peers=one.addrs[:1],
            mdns=False, rng=one._rng, gossip_counter=start,
        ) as two,
    ):  # fmt: skip
        await until(lambda: hears(two, first) and hears(one, second))
        heard = listen_to(one)
        with trio.fail_after(PATIENCE):
            while not heard:
                await two.tell_status(STATUS)
                with trio.move_on_after(1):
                    await until(lambda: heard)
        assert start < heard[0][1] < start + 1000


BAD: dict[str, bytes] = {
    "garbage": b"\xc1",
    "nothing": b"",
    "a map of nothing": msgpack.packb({}),
    "too large": bytes(MAX_STATUS + 1),
    "without a name": replace(STATUS, name="").encode(),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
async def test_a_bad_status_is_the_forwarders_offence(tmp_path: Path, data: bytes) -> None:
    first, second = place(tmp_path / "first"), place(tmp_path / "second")
    async with two_networks(first, second) as (one, two):
        await until(lambda: hears(one, second) and hears(two, first))
        offences, heard = offences_of(two._host), listen_to(two)
        pubsub_of(one).topic_validators.clear()  # as a node without validators sends it
        with trio.fail_after(PATIENCE):
            while not offences:
                await pubsub_of(one).publish(STATUS_TOPIC, data)
                with trio.move_on_after(1):
                    await until(lambda: offences)
        assert {kind for kind, _ in offences} == {Offence.MALFORMED.value}
        assert heard == []


async def test_one_who_tells_its_status_all_the_time_is_not_listened_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "STATUS_RATE", 1e-9)
    monkeypatch.setattr(gossip, "STATUS_BURST", 6.0)
    first, second = place(tmp_path / "first"), place(tmp_path / "second")
    async with two_networks(first, second) as (one, two):
        await until(lambda: hears(one, second) and hears(two, first))
        offences, heard = offences_of(two._host), listen_to(two)
        for _ in range(12):
            await one.tell_status(STATUS)
        await one.announce(await first.publish("after@1"))  # in order: the others have been judged
        await until(second.ledger.catalogue.records)
        assert 0 < len(heard) <= 6
        assert offences == []


async def test_a_banned_nodes_status_is_not_taken(tmp_path: Path) -> None:
    first, second = place(tmp_path / "first"), place(tmp_path / "second")
    async with two_networks(first, second) as (_, two):
        heard = listen_to(two)
        two._take_status(second.peer_id, 1, STATUS)  # one's own, come back
        two.offend(first.peer_id, Offence.CORRUPT_CHUNK, "chunk 7")
        two._take_status(first.peer_id, 1, STATUS)
        assert heard == []
