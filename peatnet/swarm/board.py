"""The board that the swarm plays on: every chunk, every source, every request that is out.

A chunk is in one of four states, and only the methods here move it:

    WANTED  --ask-->  ASKED ONCE  --ask-->  ASKED TWICE
    any of them  --obtain-->  HAD;   ASKED TWICE --retire--> ASKED ONCE --retire--> WANTED

Invariants: `wanted`, the keys of `asked` and `have` are disjoint and together all chunks; `asked[i]` names
one or two sources, each alive, each with i in its `out`; `rarity` counts the living peers that have a chunk;
`requests_out` is the sum of all `out`, `doubled` how many chunks are asked twice, `partial` how many living peers
lack something; `late` is the set of the keys of `overdue`. A living source with room for more is in `hungry` or in
`starved`, not in both (see allot.py).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from peatnet.errors import LocalProtocolError
from peatnet.swarm.availability import ChunkSet, Rarity
from peatnet.swarm.events import Tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peatnet.swarm.settings import SwarmSettings
    from peatnet.swarm.sources import Ask, Source

MAX_ASKED = 2
_WEIGHT = 1 / 16
_PEER = Tier.PEER  # see machine.py


class Board:
    """Chunks, sources and requests of one download. `now` plays no part here."""

    __slots__ = (
        "_slow_factor",
        "_slow_least",
        "_typical",
        "asked",
        "contested",
        "doubled",
        "have",
        "hungry",
        "late",
        "living",
        "living_http",
        "n_chunks",
        "overdue",
        "partial",
        "rarity",
        "requests_in_vain",
        "requests_made",
        "requests_out",
        "risked",
        "slow_from",
        "sources",
        "starved",
        "wanted",
    )

    def __init__(self, n_chunks: int, have: ChunkSet, settings: SwarmSettings) -> None:
        self.n_chunks = n_chunks
        self.have = have
        self.wanted = ChunkSet(n_chunks, ((1 << n_chunks) - 1) ^ have.mask)
        self.asked: dict[int, tuple[Source, ...]] = {}
        self.rarity = Rarity()
        self.sources: dict[str, Source] = {}
        self.living: dict[str, Source] = {}
        self.living_http = 0
        self.requests_made = 0
        self.requests_out = 0
        self.requests_in_vain = 0
        self.doubled = 0
        self.risked = 0  # chunks that came while two were asked: they may come again
        self.slow_from = math.inf  # a peer is slow whose chunk time is above
        self._typical = math.nan  # chunk time over all that peers deliver
        self._slow_factor = settings.slow_factor
        # Nobody is slow to whom one request at a time is enough to do what the horizon allows.
        self._slow_least = max(settings.horizon, settings.guess)
        self.partial = 0
        self.contested = False  # a holder has put off a chunk: others download from it
        self.overdue: dict[int, None] = {}  # asked once, and that takes longer than it should
        self.late = 0  # the same, as a set
        self.hungry: dict[Source, None] = {}  # in the order in which they became so
        self.starved: dict[Source, None] = {}

    def source(self, name: str) -> Source:
        """The source of this name.

        Raises:
            LocalProtocolError: if none of this name ever joined.
        """
        found = self.sources.get(name)
        if found is None:
            raise LocalProtocolError(f"swarm: there is no source {name!r}")
        return found

    def check_index(self, index: int) -> None:
        """Refuse what is no chunk.

        Raises:
            LocalProtocolError: naming the index.
        """
        if not 0 <= index < self.n_chunks:
            raise LocalProtocolError(f"swarm: chunk {index} of {self.n_chunks}")

    def wake(self, source: Source) -> None:
        """A living source may find something to do."""
        self.starved.pop(source, None)
        self.hungry[source] = None

    def wake_starved(self) -> None:
        """Any source may find something to do."""
        if self.starved:
            self.hungry.update(self.starved)
            self.starved.clear()

    def starve(self, source: Source) -> None:
        """A hungry source found nothing."""
        del self.hungry[source]
        self.starved[source] = None

    def pace(self, chunk_time: float) -> None:
        """A peer delivered, and takes this long for a chunk by now."""
        if self._typical >= 0:
            self._typical += _WEIGHT * (chunk_time - self._typical)
        else:
            self._typical = chunk_time
        self.slow_from = max(self._slow_least, self._typical * self._slow_factor)

    def join(self, source: Source) -> None:
        """A source that begins a life takes part."""
        self.sources[source.name] = source
        self.living[source.name] = source
        if source.tier is Tier.HTTP:
            self.living_http += 1
        else:
            self.partial += 1
        self.wake(source)

    def ask(self, source: Source, index: int, ask: Ask) -> None:
        """A request goes out."""
        askers = self.asked.get(index)
        if askers is None:
            self.wanted.discard(index)
            self.asked[index] = (source,)
        else:
            self.asked[index] = (*askers, source)
            self.doubled += 1
            self._not_late(index)
        source.out[index] = ask
        self.requests_made += 1
        self.requests_out += 1

    def retire(self, source: Source, index: int) -> None:
        """A request is off; the chunk is wanted again unless somebody else was asked too."""
        del source.out[index]
        self.requests_out -= 1
        self.requests_in_vain += 1
        others = tuple(each for each in self.asked[index] if each is not source)
        if others:
            self.asked[index] = others
            self.doubled -= 1
        else:
            del self.asked[index]
            self._not_late(index)
            self.wanted.add(index)
            self.wake_starved()
        self.hungry.pop(source, None)  # whoever else could serve the chunk looks before it does
        self.wake(source)

    def is_late(self, index: int) -> None:
        """A chunk that was asked for once takes longer than it should."""
        self.overdue[index] = None
        self.late |= 1 << index
        self.wake_starved()

    def _not_late(self, index: int) -> None:
        if index in self.overdue:
            del self.overdue[index]
            self.late ^= 1 << index

    def obtain(self, index: int) -> Sequence[Source] | None:
        """A chunk is there: all requests for it are off.

        Returns:
            The sources that were asked for it; None if it was there before.
        """
        if not self.have.add(index):
            return None
        askers = self.asked.pop(index, None)
        if askers is None:
            self.wanted.discard(index)
            return ()
        if self.late:
            self._not_late(index)
        if len(askers) > 1:
            self.doubled -= 1
            self.risked += 1
        self.requests_out -= len(askers)
        for source in askers:
            del source.out[index]
            self.starved.pop(source, None)
            self.hungry[source] = None
        return askers

    def set_holding(self, source: Source, has: ChunkSet) -> bool:
        """A living source has exactly these chunks; False if that was known. Requests are left alone."""
        before, after = source.has, has
        common = before.mask & after.mask
        gone, new = before.mask ^ common, after.mask ^ common
        if not gone and not new:
            return False
        if source.tier is _PEER:
            self.rarity.remove(gone)
            self.rarity.add(new)
            self.partial += (has.count < self.n_chunks) - (before.count < self.n_chunks)
        source.has = has
        source.avoid = {index for index in source.avoid if index in before and index in after}
        self.wake_starved()
        self.wake(source)
        return True

    def add_holding(self, source: Source, news: int) -> None:
        """A living source has these chunks as well."""
        has = source.has
        # As `news & ~has.mask`, without a negative number of as many digits.
        fresh = news & has.mask ^ news
        if not fresh:
            return
        has.update(fresh)
        if source.avoid:
            source.avoid = {index for index in source.avoid if not news >> index & 1}
        if source.tier is _PEER:
            self.rarity.add(fresh)
            self.partial -= has.count == self.n_chunks
        if len(source.out) < source.window and (fresh & self.wanted.mask or not self.wanted.count):
            self.wake(source)

    def release(self, source: Source) -> None:
        """A source's life ended: forget what it had, and want again what was asked of it alone."""
        del self.living[source.name]
        for index in list(source.out):
            self.retire(source, index)
        if source.tier is _PEER:
            self.rarity.remove(source.has.mask)
            self.partial -= source.has.count < self.n_chunks
        else:
            self.living_http -= 1
        source.end()
        self.hungry.pop(source, None)
        self.starved.pop(source, None)
        self.wake_starved()

    def full(self) -> ChunkSet:
        """The set of all chunks."""
        return ChunkSet(self.n_chunks, (1 << self.n_chunks) - 1)

    def lapsed(self, source: Source) -> list[int]:
        """The chunks asked of a source that it no longer has."""
        return [index for index in source.out if index not in source.has]
