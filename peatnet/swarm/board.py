"""The board that the swarm plays on: every chunk, every source, every request that is out.

A chunk is in one of four states, and only the methods here move it:

    WANTED  --ask-->  ASKED ONCE  --ask-->  ASKED TWICE
    any of them  --obtain-->  HAD;   ASKED TWICE --retire--> ASKED ONCE --retire--> WANTED

Invariants: `wanted`, the keys of `asked` and `have` are disjoint and together all chunks; `asked[i]` names
one or two sources, each alive, each with i in its `out`; `rarity` counts the living peers that have a chunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peatnet.errors import LocalProtocolError
from peatnet.swarm.availability import ChunkSet, Rarity, mask_of
from peatnet.swarm.events import Tier

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peatnet.swarm.sources import Ask, Source

MAX_ASKED = 2


class Board:
    """Chunks, sources and requests of one download. `now` plays no part here."""

    def __init__(self, n_chunks: int, have: ChunkSet) -> None:
        self.n_chunks = n_chunks
        self.have = have
        self.wanted = ChunkSet(n_chunks, ((1 << n_chunks) - 1) ^ have.mask)
        self.asked: dict[int, list[Source]] = {}
        self.rarity = Rarity()
        self.sources: dict[str, Source] = {}
        self.living: dict[str, Source] = {}
        self.living_http = 0
        self.requests_made = 0
        self.requests_out = 0
        # Grows whenever a source that found nothing to do might find something if it looked again.
        self.epoch = 0

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

    def join(self, source: Source) -> None:
        """A source that begins a life takes part."""
        self.sources[source.name] = source
        self.living[source.name] = source
        self.living_http += source.tier is Tier.HTTP

    def ask(self, source: Source, index: int, ask: Ask) -> None:
        """A request goes out."""
        self.wanted.discard(index)
        self.asked.setdefault(index, []).append(source)
        source.out[index] = ask
        self.requests_made += 1
        self.requests_out += 1

    def retire(self, source: Source, index: int) -> None:
        """A request is off; the chunk is wanted again unless somebody else was asked too."""
        del source.out[index]
        self.requests_out -= 1
        source.epoch = -1
        askers = self.asked[index]
        askers.remove(source)
        if not askers:
            del self.asked[index]
            self.wanted.add(index)
            self.epoch += 1

    def obtain(self, index: int) -> list[Source] | None:
        """A chunk is there: all requests for it are off.

        Returns:
            The sources that were asked for it; None if it was there before.
        """
        if not self.have.add(index):
            return None
        self.wanted.discard(index)
        askers = self.asked.pop(index, [])
        self.requests_out -= len(askers)
        for source in askers:
            del source.out[index]
            source.epoch = -1
        return askers

    def set_holding(self, source: Source, has: ChunkSet) -> bool:
        """A living source has exactly these chunks; False if that was known. Requests are left alone."""
        before, after = source.has, has
        common = before.mask & after.mask
        gone, new = before.mask ^ common, after.mask ^ common
        if not gone and not new:
            return False
        if source.tier is Tier.PEER:
            self.rarity.remove(gone)
            self.rarity.add(new)
        source.has = has
        source.avoid = {index for index in source.avoid if index in before and index in after}
        self.epoch += 1
        return True

    def add_holding(self, source: Source, indices: Iterable[int]) -> None:
        """A living source has these chunks as well, all of them checked."""
        fresh = [index for index in indices if source.has.add(index)]
        source.avoid.difference_update(fresh)
        if source.tier is Tier.PEER:
            self.rarity.add(mask_of(fresh, self.n_chunks))
        source.epoch = -1

    def release(self, source: Source) -> None:
        """A source's life ended: forget what it had, and want again what was asked of it alone."""
        del self.living[source.name]
        self.living_http -= source.tier is Tier.HTTP
        for index in list(source.out):
            self.retire(source, index)
        if source.tier is Tier.PEER:
            self.rarity.remove(source.has.mask)
        source.end()
        self.epoch += 1

    def full(self) -> ChunkSet:
        """The set of all chunks."""
        return ChunkSet(self.n_chunks, (1 << self.n_chunks) - 1)

    def lapsed(self, source: Source) -> list[int]:
        """The chunks asked of a source that it no longer has."""
        return [index for index in source.out if index not in source.has]
