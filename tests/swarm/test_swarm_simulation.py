"""Whole fleets on a virtual clock: what the policy is worth when everybody follows it."""

from __future__ import annotations

import pytest
from simulated_fleet import CHUNK, Fleet, Node

from peatnet.swarm import SwarmSettings, Tier

CHUNKS = 128
BOUND = 12.8  # seconds: every chunk once over the source's link, 10 a second


def fleet_of(downloaders: int, *sources: Node, chunks: int = CHUNKS) -> tuple[Fleet, list[Node]]:
    fleet = Fleet(chunks)
    for source in sources:
        fleet.seed(source)
    return fleet, [fleet.downloader(f"d{i}") for i in range(downloaders)]


def all_done(nodes: list[Node]) -> bool:
    return all(node.swarm is not None and node.swarm.complete for node in nodes)


def duplicates(nodes: list[Node]) -> int:
    return sum(node.swarm.duplicate_bytes for node in nodes if node.swarm is not None) // CHUNK


@pytest.mark.parametrize("downloaders", [1, 4, 8])
def test_one_source_feeds_many_in_little_more_than_the_time_for_one(downloaders: int) -> None:
    source = Node("source")
    fleet, nodes = fleet_of(downloaders, source)
    fleet.run()
    assert all_done(nodes)
    assert fleet.now < 1.6 * BOUND
    assert source.sent < 1.6 * CHUNKS
    assert duplicates(nodes) <= 0.02 * CHUNKS * downloaders


def test_downloaders_differ_in_what_they_ask_first() -> None:
    fleet, nodes = fleet_of(2, Node("source", mute_at=0))
    fleet.run(limit=1)
    source = fleet.nodes["source"]
    assert set(source.queues[nodes[0].name]) != set(source.queues[nodes[1].name])


def test_a_slow_source_does_not_hold_up_the_end() -> None:
    fleet, nodes = fleet_of(3, Node("source"), Node("slow", rate=0.5))
    fleet.run()
    assert all_done(nodes)
    assert fleet.now < 1.5 * BOUND


def test_a_liar_is_banned_by_all_and_costs_little() -> None:
    liar = Node("liar", lies=True)
    fleet, nodes = fleet_of(3, Node("source"), liar)
    fleet.run()
    assert all_done(nodes)
    assert fleet.now < 1.5 * BOUND
    assert liar.sent <= 4 * len(nodes)
    assert [node.banned for node in nodes if node.banned] == [["liar"]] * len(nodes)
    assert all("liar" not in node.swarm.bytes_by_source for node in nodes if node.swarm)


def test_a_source_that_refuses_everything_is_dropped() -> None:
    fleet, nodes = fleet_of(3, Node("source"), Node("refuser", refuses=True))
    fleet.run()
    assert all_done(nodes)
    assert [node.dropped for node in nodes] == [["refuser"]] * len(nodes)


def test_a_source_that_falls_silent_does_not_hold_up_the_others() -> None:
    fleet, nodes = fleet_of(3, Node("source"), Node("mute", mute_at=3))
    fleet.run()
    assert all_done(nodes)
    assert fleet.now < 1.5 * BOUND


def test_peers_finish_from_each_other_once_every_chunk_is_out() -> None:
    source = Node("source")
    fleet, nodes = fleet_of(4, source)
    fleet.dies_when_all_is_out = source
    fleet.run()
    assert source.dies_at < fleet.now
    assert all_done(nodes)


@pytest.mark.parametrize("how", ["mute_at", "dies_at"])
def test_http_takes_over_when_the_source_is_gone(how: str) -> None:
    web = Node("web", tier=Tier.HTTP)
    source = Node("source")
    setattr(source, how, 3.0)
    fleet, nodes = fleet_of(3, source, web)
    fleet.run()
    assert all_done(nodes)
    # Three nodes that fetched each for itself would take close to 3 x CHUNKS.
    assert 0 < web.sent <= 1.25 * CHUNKS


def test_http_is_not_touched_while_peers_deliver() -> None:
    web = Node("web", tier=Tier.HTTP)
    fleet, nodes = fleet_of(3, Node("source"), web)
    fleet.run()
    assert all_done(nodes)
    assert web.sent == 0


def test_http_alone_starts_at_once_when_it_is_all_that_may_be_asked() -> None:
    fleet = Fleet(CHUNKS)
    fleet.seed(Node("source"))
    web = fleet.seed(Node("web", tier=Tier.HTTP))
    node = fleet.downloader("d", settings=SwarmSettings(tiers=frozenset({Tier.HTTP})))
    fleet.run()
    assert all_done([node])
    assert web.sent == CHUNKS
    assert fleet.now < BOUND + 1


@pytest.mark.parametrize("seconds", [30, 100])
def test_links_slower_than_any_timeout_still_finish(seconds: int) -> None:
    fleet, nodes = fleet_of(1, Node("one", rate=1 / seconds), chunks=16)
    fleet.run()
    assert all_done(nodes)
    assert fleet.now < 1.3 * 16 * seconds
    assert nodes[0].dropped == []


def test_two_very_slow_sources_are_both_kept() -> None:
    fleet, nodes = fleet_of(1, Node("one", rate=1 / 30), Node("two", rate=1 / 30), chunks=16)
    fleet.run()
    assert all_done(nodes)
    assert nodes[0].dropped == []
