"""Fleets on a virtual clock: the swarm and the upload policy together, against what links allow."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from virtual_fleet import Fleet, Node

RATE = 12.5e6
CHUNK = 2**18
CHUNKS = 128
BOUND = CHUNKS * CHUNK / RATE


def fan_out(
    sinks: int, *, seed: int = 0, slow: int = 0, chunks: int = CHUNKS, fair: bool = True
) -> tuple[Fleet, Node, list[Node]]:
    """One source and some sinks, everybody connected to everybody; the first sinks have a tenth of the rate."""
    fleet = Fleet(chunks, CHUNK, seed=seed, fair=fair)
    source = fleet.source("source", RATE)
    nodes: list[Node] = []
    for number in range(sinks):
        rate = RATE / 10 if number < slow else RATE
        node = fleet.downloader(f"sink{number}", rate, rate)
        for other in (source, *nodes):
            fleet.connect(other, node)
        nodes.append(node)
    return fleet, source, nodes


def duplicates(nodes: list[Node]) -> float:
    return sum(node.duplicates for node in nodes) / (len(nodes) * nodes[0].fleet.n)


@pytest.mark.parametrize("fair", [True, False], ids=["fair", "queued"])
@pytest.mark.parametrize("sinks", [1, 4, 8])
def test_many_take_little_longer_than_one(sinks: int, fair: bool) -> None:  # noqa: FBT001  # two kinds of links
    fleet, source, nodes = fan_out(sinks, fair=fair)
    assert fleet.run(10 * BOUND)
    # A quarter of the chunks that the goals are stated for: filling the pipeline costs four times its share.
    assert fleet.now < 1.45 * BOUND
    assert source.sent < 1.3 * CHUNKS
    assert duplicates(nodes) <= 0.02


def test_a_slow_sink_delays_the_others_little() -> None:
    fleet, _, nodes = fan_out(8, slow=1)
    assert fleet.run(20 * BOUND, nodes[1:])
    assert fleet.now < 1.5 * BOUND
    assert not nodes[0].complete


def test_the_source_may_go_when_every_chunk_is_out() -> None:
    fleet, source, nodes = fan_out(4)
    out: set[int] = set()

    def note(index: int) -> None:
        out.add(index)
        if len(out) == CHUNKS and source.alive:
            fleet.leave(source)

    fleet.on_first = note
    assert fleet.run(10 * BOUND)
    assert not source.alive
    assert all(node.complete for node in nodes)


def test_a_sink_that_leaves_goes_on_where_it_was() -> None:
    fleet, source, nodes = fan_out(4)

    def come_back() -> None:
        had = nodes[0].missing
        fleet.come_back(nodes[0])
        assert nodes[0].missing == had < CHUNKS
        for other in (source, *nodes[1:]):
            fleet.connect(nodes[0], other)

    fleet.at(BOUND / 2, fleet.leave, nodes[0])
    fleet.at(BOUND, come_back)
    assert fleet.run(10 * BOUND)
    assert source.sent < 2 * CHUNKS


def test_a_chain_passes_on_what_it_gets_while_it_gets_it() -> None:
    fleet = Fleet(CHUNKS, CHUNK)
    chain = [fleet.source("source", RATE)]
    chain += [fleet.downloader(f"node{number}", RATE, RATE) for number in range(5)]
    for one, other in pairwise(chain):
        fleet.connect(one, other)
    assert fleet.run(10 * BOUND)
    assert fleet.now < 1.8 * BOUND  # one after the other would take 5
    assert duplicates(chain[1:]) <= 0.02


def test_the_same_seed_gives_the_same_fleet() -> None:
    times = []
    for _ in range(2):
        fleet, _, nodes = fan_out(3, seed=5, chunks=32)
        assert fleet.run()
        times.append([node.done_at for node in nodes])
    assert times[0] == times[1]
    assert max(times[0]) < math.inf
