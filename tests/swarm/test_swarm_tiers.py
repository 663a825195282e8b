"""When the HTTP tier is asked, and when it is left in peace."""

from __future__ import annotations

from swarm_kit import gained, join, make, requests, view_out

from peatnet.swarm import (
    ChunkArrived,
    Request,
    SourceLost,
    Tick,
    Tier,
)


def test_http_waits_until_peers_have_been_silent() -> None:
    swarm = make(2)
    join(swarm, "web", tier=Tier.HTTP)
    assert swarm.next_wakeup() == 5
    assert swarm.handle(Tick(), 4.9) == []
    assert sorted(requests(swarm.handle(Tick(), 5), "web")) == [0, 1]


def test_http_fills_gaps_of_living_peers_after_the_grace() -> None:
    swarm = make(3, timeout_first=60)
    join(swarm, "web", tier=Tier.HTTP)
    join(swarm, "a", 0, 1, now=1, pipeline=1)
    [first] = view_out(swarm, "a")
    assert swarm.handle(ChunkArrived("a", first), 4) == [Request("a", 1 - first)]
    assert swarm.next_wakeup() == 6  # five seconds after the peer came
    assert swarm.handle(Tick(), 6) == [Request("web", 2)]
    assert swarm.handle(ChunkArrived("web", 2), 8) == []
    assert (
        swarm.handle(Tick(), 9) == []
    )  # silent since 4: anything goes now, but that chunk may be near
    assert swarm.next_wakeup() == 10
    assert swarm.handle(Tick(), 10) == [Request("web", 1 - first)]  # twice its usual 3 seconds
    assert swarm.bytes_by_source == {"a": 10, "web": 10}


def test_http_stops_being_asked_when_a_peer_delivers_again() -> None:
    swarm = make(30)
    join(swarm, "web", tier=Tier.HTTP, pipeline=1)
    join(swarm, "a")
    [index] = requests(swarm.handle(Tick(), 5), "web")
    swarm.handle(ChunkArrived("a", view_out(swarm, "a")[0]), 6)
    assert requests(swarm.handle(ChunkArrived("web", index), 7), "web") == []


def test_only_the_tiers_that_are_allowed_are_asked() -> None:
    swarm = make(2, tiers=frozenset({Tier.HTTP}))
    assert join(swarm, "a") == []
    assert sorted(requests(join(swarm, "web", tier=Tier.HTTP))) == [0, 1]
    swarm = make(2, tiers=frozenset({Tier.PEER}))
    assert join(swarm, "web", tier=Tier.HTTP) == []
    assert swarm.handle(Tick(), 100) == []
    assert swarm.next_wakeup() is None
    assert sorted(requests(join(swarm, "a", now=100))) == [0, 1]


def test_a_server_is_asked_for_what_it_gained() -> None:
    swarm = make(2, tiers=frozenset({Tier.HTTP}))
    assert join(swarm, "web", 0, tier=Tier.HTTP) == [Request("web", 0)]
    assert swarm.handle(gained("web", 1), 0) == [Request("web", 1)]
    assert swarm.handle(SourceLost("web"), 1) == []
    assert swarm.next_wakeup() is None
