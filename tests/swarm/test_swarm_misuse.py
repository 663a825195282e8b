"""What makes no sense is refused, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from swarm_kit import join, make

from peatnet.errors import LocalProtocolError
from peatnet.swarm import (
    ChunkArrived,
    ChunkCorrupt,
    ChunkFailed,
    ChunkFound,
    Event,
    SourceGained,
    SourceHas,
    SourceJoined,
    SourceLine,
    SourceLost,
    SwarmSettings,
    Tick,
    Tier,
)

MISUSE: list[tuple[Event | None, str]] = [
    (SourceJoined("a", Tier.PEER, 1), "ALIVE"),
    (SourceJoined("b", Tier.PEER, 0), "pipeline 0"),
    (SourceLine("a", -0.1), "no line"),
    (SourceLine("a", float("nan")), "no line"),
    (SourceLine("a", 0.1, 0), "no line"),
    (SourceLine("b", 0.1), "no source 'b'"),
    (SourceHas("a", b""), "bitmap of 0 bytes"),
    (SourceHas("a", b"\x04"), "beyond its 2 chunks"),
    (SourceHas("b", None), "no source 'b'"),
    (SourceGained("a", 0b101), "no set of 2 chunks"),
    (SourceGained("a", -1), "no set of 2 chunks"),
    (ChunkArrived("a", -1), "chunk -1"),
    (ChunkArrived("b", 0), "no source 'b'"),
    (ChunkFailed("a", 2, ""), "chunk 2"),
    (ChunkCorrupt("a", 2), "chunk 2"),
    (ChunkFound(2), "chunk 2"),
    (SourceLost("b"), "no source 'b'"),
    (None, "no event"),
]


@pytest.mark.parametrize(("event", "message"), MISUSE, ids=[message for _, message in MISUSE])
def test_misuse_is_refused_and_changes_nothing(event: Event, message: str) -> None:
    swarm = make(2)
    join(swarm, "a", 1)
    before = swarm.sources()
    with pytest.raises(LocalProtocolError, match=message):
        swarm.handle(event, 1)
    assert swarm.sources() == before
    assert swarm.handle(Tick(), 0) == []  # not even time has passed


def test_time_does_not_go_back() -> None:
    swarm = make(2)
    swarm.handle(Tick(), 5)
    with pytest.raises(LocalProtocolError, match="time went back"):
        swarm.handle(Tick(), 4)


@pytest.mark.parametrize(("n", "size"), [(0, 0), (2, 10), (2, 21), (1, 0), (1, -5)])
def test_numbers_that_do_not_fit_are_refused(n: int, size: int) -> None:
    with pytest.raises(LocalProtocolError, match="are not"):
        make(n, size=size)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"tiers": frozenset()}, "tiers"),
        ({"first_window": 0}, "first_window"),
        ({"rest": -1.0}, "rest"),
        ({"max_strikes": 65}, "at most"),
        ({"extensions": 65}, "at most"),
        ({"timeout_min": 20.0}, "timeout_min <= timeout_first"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        SwarmSettings(**knobs)
