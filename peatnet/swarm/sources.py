"""One source of one download: its life, what it has, what is out to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from peatnet.errors import LocalProtocolError
from peatnet.swarm.availability import ChunkSet
from peatnet.swarm.events import Tier
from peatnet.swarm.timing import Crowd, Pace

if TYPE_CHECKING:
    from peatnet.swarm.settings import SwarmSettings


_NEVER = -math.inf


class Life(Enum):
    """Where a source is in its life. Only an ALIVE one is asked for anything."""

    NEW = auto()
    ALIVE = auto()
    LOST = auto()
    DROPPED = auto()
    BANNED = auto()


class Turn(Enum):
    """What can happen to a source's life."""

    JOINED = auto()
    LOST = auto()
    STRUCK_OUT = auto()
    CORRUPT = auto()


# Every legal transition. What is not here is misuse by our caller. A source that the swarm itself let go of
# may still be reported lost, or corrupt, by an engine that has not caught up: so those rows exist.
TRANSITIONS: dict[tuple[Life, Turn], Life] = {
    (Life.NEW, Turn.JOINED): Life.ALIVE,
    (Life.LOST, Turn.JOINED): Life.ALIVE,
    (Life.DROPPED, Turn.JOINED): Life.ALIVE,
    (Life.BANNED, Turn.JOINED): Life.BANNED,  # answered with another Ban
    (Life.ALIVE, Turn.LOST): Life.LOST,
    (Life.LOST, Turn.LOST): Life.LOST,
    (Life.DROPPED, Turn.LOST): Life.DROPPED,
    (Life.BANNED, Turn.LOST): Life.BANNED,
    (Life.ALIVE, Turn.STRUCK_OUT): Life.DROPPED,
    (Life.ALIVE, Turn.CORRUPT): Life.BANNED,
    (Life.LOST, Turn.CORRUPT): Life.BANNED,
    (Life.DROPPED, Turn.CORRUPT): Life.BANNED,
    (Life.BANNED, Turn.CORRUPT): Life.BANNED,
}


@dataclass(slots=True, eq=False)
class Ask:
    """A request that is out.

    Args:
        number: counts the requests to its source.
        asked: when it was made.
        overdue: when another source may be asked for the chunk as well.
        deadline: when it is given up.
        extended: how often that was put off because nobody else could take over.
        late: it is overdue.
    """

    number: int
    asked: float
    overdue: float
    deadline: float
    extended: int = 0
    late: bool = False


@dataclass(frozen=True, slots=True)
class SourceView:
    """What is known of one source, for progress display.

    Args:
        name: as it joined.
        tier: peer or HTTP.
        life: whether it is alive, and if not, why.
        delivered: bytes it delivered that were new, over all its lives.
        chunks: how many chunks it has.
        out: requests out to it.
        window: the most it may have out now.
        rate: bytes a second, smoothed; None before its first delivery.
    """

    name: str
    tier: Tier
    life: Life
    delivered: int
    chunks: int
    out: int
    window: int
    rate: float | None


class Source:
    """The state of one source. `Swarm` is its only user.

    Invariants: `out` is empty unless alive; `strikes` counts failures since the last delivery, those of requests
    that were out together as one; `avoid` holds the chunks that it failed and has not been asked for again;
    `window` is how many requests it may have out now: one after a failure, until it delivers again. By its
    pace alone it would be `usual`.
    """

    __slots__ = (
        "_asks",
        "_crowd",
        "_settings",
        "_struck_at",
        "avoid",
        "brought",
        "deferrals",
        "deferred",
        "has",
        "life",
        "name",
        "out",
        "pace",
        "pipeline",
        "plan",
        "rest_until",
        "strikes",
        "tier",
        "trial_at",
        "usual",
        "window",
    )

    def __init__(self, name: str, n_chunks: int, settings: SwarmSettings, crowd: Crowd) -> None:
        self._settings = settings
        self._crowd = crowd
        self._asks = 0
        self._struck_at = 0
        self.name = name
        self.life = Life.NEW
        self.tier = Tier.PEER
        self.pipeline = 1
        self.pace = Pace(settings, crowd)
        self.has = ChunkSet(n_chunks)
        self.out: dict[int, Ask] = {}  # in the order they were asked
        self.avoid: set[int] = set()
        self.deferred = 0  # chunks it put off, as a set
        self.deferrals: dict[int, float] = {}  # the same, and until when; the first ends first
        self.plan: list[int] = []
        self.brought = 0  # bytes that it was the first to deliver, over all its lives
        self.strikes = 0
        self.usual = self.window = 1
        self.rest_until = _NEVER
        self.trial_at = -math.inf  # when one that is slow is asked for anything again

    def turn(self, turn: Turn) -> bool:
        """Go through `TRANSITIONS`.

        Returns:
            Whether its life changed.

        Raises:
            LocalProtocolError: if there is no such transition.
        """
        before = self.life
        after = TRANSITIONS.get((before, turn))
        if after is None:
            raise LocalProtocolError(
                f"swarm: source {self.name!r} is {before.name}, it cannot be {turn.name}"
            )
        self.life = after
        return after is not before

    def begin(self, tier: Tier, pipeline: int) -> None:
        """Start a life: nothing is remembered of an earlier one."""
        self.tier = tier
        self.pipeline = pipeline
        self.pace = Pace(self._settings, self._crowd)
        self.strikes = 0
        self.rest_until = self.trial_at = -math.inf
        self.usual, self.window = self.pace.window(pipeline)

    def end(self) -> None:
        """Forget what it had and what was out to it."""
        self.has = ChunkSet(self.has.n)
        self.out = {}
        self.avoid = set()
        self.deferred = 0
        self.deferrals = {}
        self.plan = []

    def new_ask(self, now: float) -> Ask:
        """A request made now, behind those that are out."""
        self._asks += 1
        ahead = len(self.out)
        overdue, wait = self.pace.limits(ahead)
        if self.strikes:
            wait = self.patience(ahead)
        return Ask(self._asks, now, now + overdue, now + wait)

    def patience(self, ahead: int) -> float:
        """How long to wait for a request behind `ahead` others; twice as long for each failure before."""
        return min(self.pace.timeout(ahead) * 2.0**self.strikes, self._crowd.longest)

    def deadline(self, ask: Ask) -> float:
        """When a request is overdue: what waits behind deliveries gets more time, up to a bound."""
        if ask.extended:
            return ask.deadline
        while_delivering = self.pace.last_delivery + self.patience(0)
        # Others may have come meanwhile, and share what we can receive.
        in_a_crowd = ask.asked + self._crowd.patience
        latest = ask.asked + self._crowd.longest
        return min(max(ask.deadline, while_delivering, in_a_crowd), latest)

    def still_due(self, ask: Ask) -> float:
        """When a request is overdue: later, while the queue before it moves."""
        return max(ask.overdue, self.pace.last_delivery + self.pace.overdue(0))

    def extend(self, ask: Ask, now: float) -> float:
        """Put off the deadline, each time twice as far, unless that was done often enough."""
        if ask.extended < self._settings.extensions:
            ask.extended += 1
            ask.deadline = now + self.patience(0) * 2.0**ask.extended
        return ask.deadline

    def reached(self, round_trip: float, lanes: int) -> None:
        """A request takes at least so many seconds there and back, and chunks come on so many connections at once."""
        self.pace.round_trip = min(round_trip, self._settings.farthest)
        self.pace.lanes = lanes
        if not self.strikes:
            self.usual, self.window = self.pace.window(self.pipeline)

    def delivered(self, ask: Ask | None, now: float) -> None:
        """It delivered a chunk, in answer to `ask` or long after that was called off."""
        if ask is not None:
            self.pace.delivered(ask.asked, now)
        self.strikes = 0
        self.rest_until = _NEVER
        self.usual, self.window = self.pace.window(self.pipeline)

    def defer(self, index: int, until: float) -> None:
        """It put off a chunk; times do not go back."""
        if index not in self.deferrals:
            self.deferrals[index] = until
            self.deferred |= 1 << index

    def still_deferred(self, now: float) -> int:
        """The chunks that it put off for longer than until now."""
        deferrals = self.deferrals
        while deferrals and deferrals[index := next(iter(deferrals))] <= now:
            del deferrals[index]
            self.deferred ^= 1 << index
        return self.deferred

    def strike(self, ask: Ask, now: float) -> bool:
        """It failed a request.

        Returns:
            Whether that was one too many.
        """
        if ask.number <= self._struck_at:
            return False
        self._struck_at = self._asks
        self.strikes += 1
        self.window = 1
        if self.strikes > 1:
            self.rest_until = now + self._settings.rest * 2.0 ** (self.strikes - 2)
        return self.strikes >= self._settings.max_strikes

    def ready_in(self) -> float:
        """Seconds that one more chunk, queued behind what is out, is expected to take."""
        return self.pace.queued(len(self.out))

    def view(self, chunk_size: int) -> SourceView:
        """What progress displays show of it."""
        rate = chunk_size / max(self.pace.chunk_time, 1e-9) if self.pace.measured else None
        return SourceView(
            name=self.name,
            tier=self.tier,
            life=self.life,
            delivered=self.brought,
            chunks=self.has.count,
            out=len(self.out),
            window=self.window,
            rate=rate,
        )
