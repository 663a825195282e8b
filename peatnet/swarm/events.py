"""What the swarm is told, and what it answers: events in, actions out.

All are plain frozen values. A source is known by the name that its owner gave it; a chunk by its index.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Tier(Enum):
    """How willingly a source is used: peers first, the HTTP server behind the manifest as fallback."""

    PEER = "peer"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class SourceJoined:
    """A source can be asked from now on; what it has comes with `SourceHas`.

    Args:
        source: its name; one that is alive already is refused, one that was lost or dropped may come back.
        tier: peer or HTTP.
        pipeline: the most requests it likes to have out at once, at least 1.
    """

    source: str
    tier: Tier
    pipeline: int


@dataclass(frozen=True, slots=True)
class SourceLine:
    """How a source is reached, in place of what was told of that before. It ends with the source's life.

    What is not told counts as no time and one lane, which is right for sources nearby.

    Args:
        source: its name.
        round_trip: seconds that a short request takes at least, there and back.
        lanes: on how many connections chunks come at once, at least 1.
    """

    source: str
    round_trip: float
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class SourceHas:
    """All that a source has, replacing what was known: one bit a chunk, low bit first; None means all."""

    source: str
    bitmap: bytes | None


@dataclass(frozen=True, slots=True)
class SourceGained:
    """A source has these chunks as well: bit i for chunk i, as `mask_of` makes it."""

    source: str
    chunks: int


@dataclass(frozen=True, slots=True)
class ChunkArrived:
    """A chunk was verified and written, and this source had sent it (asked for still, or not any more)."""

    source: str
    index: int


@dataclass(frozen=True, slots=True)
class ChunkFailed:
    """A source will not deliver a chunk that was asked of it, or said so too late to matter."""

    source: str
    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class ChunkDeferred:
    """A source that has a chunk would rather send it later: others of this download can spread it meanwhile.

    No failure: the source is asked for other chunks at once, and for this one when nobody else can serve it.
    """

    source: str
    index: int


@dataclass(frozen=True, slots=True)
class ChunkCorrupt:
    """A source sent bytes that do not match the chunk's digest."""

    source: str
    index: int


@dataclass(frozen=True, slots=True)
class SourceLost:
    """A source is gone: its connection ended, or its owner took it away."""

    source: str


@dataclass(frozen=True, slots=True)
class ChunkFound:
    """A chunk came some other way than from a source, verified and written."""

    index: int


@dataclass(frozen=True, slots=True)
class Budget:
    """What the download may ask for from now on; it replaces what was said before. None is without bound.

    Args:
        ceiling: the most requests that may be out in all. Those above it that are out already stay out.
        credit: how many more requests may be made.
    """

    ceiling: int | None
    credit: int | None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed. Wanted at the start of a download and at every `Swarm.next_wakeup`; never harmful."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The download ends here, complete or not: what is out is canceled and no more is asked."""


Event = (
    SourceJoined
    | SourceLine
    | SourceHas
    | SourceGained
    | ChunkArrived
    | ChunkFailed
    | ChunkDeferred
    | ChunkCorrupt
    | SourceLost
    | ChunkFound
    | Budget
    | Tick
    | Stopped
)


@dataclass(frozen=True, slots=True)
class Request:
    """Ask this source for this chunk."""

    source: str
    index: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """The chunk is no longer wanted from this source. If it comes all the same, `ChunkArrived` says so."""

    source: str
    index: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Let go of a source that keeps failing. All that was asked of it is off, without a `Cancel` each."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ban:
    """Let go of a source that sent wrong bytes, and don't take it back. Its requests are off as well."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """Every chunk is there. Said once, as the last action of the list that holds it."""


Action = Request | Cancel | Drop | Ban | Done
