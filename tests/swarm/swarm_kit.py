"""Short ways to say what the tests of the swarm say often."""

from __future__ import annotations

import random
from typing import Any

from peatnet.swarm import (
    Action,
    Request,
    SourceGained,
    SourceHas,
    SourceJoined,
    Swarm,
    SwarmSettings,
    Tier,
)


def make(n: int, *, have: int = 0, size: int | None = None, seed: int = 0, **knobs: Any) -> Swarm:
    return Swarm(
        n_chunks=n,
        chunk_size=10,
        size=n * 10 if size is None else size,
        have=have.to_bytes((n + 7) // 8, "little"),
        rng=random.Random(seed),
        settings=SwarmSettings(**knobs),
    )


def bitmap(swarm: Swarm, *indices: int) -> bytes:
    return sum(1 << i for i in indices).to_bytes(len(swarm.have()), "little")


def join(
    swarm: Swarm,
    name: str,
    *indices: int,
    now: float = 0.0,
    tier: Tier = Tier.PEER,
    pipeline: int = 8,
) -> list[Action]:
    """A source joins with these chunks, or with all of them."""
    actions = swarm.handle(SourceJoined(name, tier, pipeline), now)
    has = bitmap(swarm, *indices) if indices else None
    return actions + swarm.handle(SourceHas(name, has), now)


def gained(name: str, *indices: int) -> SourceGained:
    return SourceGained(name, sum(1 << i for i in indices))


def requests(actions: list[Action], source: str | None = None) -> list[int]:
    return [
        action.index
        for action in actions
        if isinstance(action, Request) and source in (None, action.source)
    ]


def view(swarm: Swarm, name: str) -> Any:
    return next(each for each in swarm.sources() if each.name == name)


def view_out(swarm: Swarm, name: str) -> list[int]:
    return list(swarm._board.sources[name].out)
