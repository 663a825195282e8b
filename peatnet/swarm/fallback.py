"""When the HTTP tier may be asked: a gate that peers hold shut as long as they deliver."""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import TYPE_CHECKING

from peatnet.swarm.events import Tier

if TYPE_CHECKING:
    from peatnet.swarm.settings import SwarmSettings


class Gate(Enum):
    """What HTTP sources may be asked for."""

    SHUT = auto()  # nothing
    GAPS = auto()  # chunks that no living peer has
    OPEN = auto()  # anything


class Fallback:
    """The gate of one download. Times are seconds on the caller's clock.

    It opens fully when no peer has delivered for `fallback_after`, and for the gaps when the set of peers, or
    what one says it has, has been the same for as long. A delivery shuts it again.

    Attributes:
        delivered: when a peer delivered a chunk for the last time; for whoever sees that to set.
    """

    __slots__ = ("_changed", "_settings", "delivered")

    def __init__(self, settings: SwarmSettings) -> None:
        self._settings = settings
        self.delivered = -math.inf
        self._changed = -math.inf

    def begin(self, now: float) -> None:
        """The download begins. Said once, after what the first event changed."""
        self.delivered = self._changed = now

    def peers_changed(self, now: float) -> None:
        """A peer came, went, or has other chunks than it said."""
        self._changed = now

    def gate(self, now: float) -> Gate:
        """What HTTP may be asked for at `now`."""
        if Tier.HTTP not in self._settings.tiers:
            return Gate.SHUT
        if Tier.PEER not in self._settings.tiers:
            return Gate.OPEN
        if now >= self.delivered + self._settings.fallback_after:
            return Gate.OPEN
        if now >= self._changed + self._settings.fallback_after:
            return Gate.GAPS
        return Gate.SHUT

    def next_change(self, now: float) -> float:
        """When the gate opens further if nothing happens; infinity if it never does."""
        if self._settings.tiers != frozenset(Tier):
            return math.inf
        grace = self._settings.fallback_after
        times = (self.delivered + grace, self._changed + grace)
        return min((time for time in times if time > now), default=math.inf)
