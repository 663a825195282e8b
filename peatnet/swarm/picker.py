"""Which chunk to ask of a source that has room for one more request.

In this order: the rarest wanted chunk that it has and did not fail before, at random among equals (among the
first few of them, while no peer is still filling up: random order only serves to spread chunks among those who
download together, and a blob that fills from its beginning can be hashed as a whole meanwhile); a chunk it did fail, once nobody else is left to try; and in the *endgame*, when nothing obtainable is wanted any
more, a chunk that is out to another source and would come sooner from this one.

"Sooner" is judged by pace. The request at position p of a source's queue is expected p+1 chunk times after the
source last delivered. When that passed by a chunk time for the first of them, the queue has stalled, and
the best guess is that each of its requests takes as long again as it has been out already. So the endgame
takes from the ends of long queues first, and does not double what is just about to arrive.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from peatnet.swarm.availability import PLAN_SHARE, choose, mask_of
from peatnet.swarm.board import MAX_ASKED, Board
from peatnet.swarm.events import Tier
from peatnet.swarm.fallback import Gate

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from peatnet.swarm.sources import Source


# Enough that two downloaders who do not know of each other yet seldom ask for the same chunk first.
IN_ORDER_AMONG = 16


class Picker:
    """Chooses chunks on one board.

    Args:
        board: the board; only looked at.
        tiers: the kinds of source that may be asked at all.
        rng: breaks ties.
    """

    def __init__(self, board: Board, tiers: frozenset[Tier], rng: random.Random) -> None:
        self._board = board
        self._peers_allowed = Tier.PEER in tiers
        self._rng = rng
        self._ahead = 1 + board.n_chunks // PLAN_SHARE
        self.gate = Gate.SHUT
        self._look_again = math.inf

    def may_ask(self, source: Source) -> bool:
        """Whether a living source may be asked for anything, as far as its tier goes."""
        if source.tier is Tier.PEER:
            return self._peers_allowed
        return self.gate is not Gate.SHUT

    def can_serve(self, source: Source, index: int) -> bool:
        """Whether the source may be asked for this chunk, and did not fail it before."""
        return index not in source.avoid and self._reaches(source, index)

    def elsewhere(self, index: int, source: Source) -> bool:
        """Whether some other source that is not asked for the chunk yet could serve it."""
        return any(
            other is not source and index not in other.out and self.can_serve(other, index)
            for other in self._board.living.values()
        )

    def endgame(self) -> bool:
        """Whether all that is wanted is out of reach, so that only what is out already can be asked again."""
        wanted = self._board.wanted
        if not wanted.count:
            return True
        reach = self._board.rarity.held() if self._peers_allowed else 0
        for source in self._board.living.values():
            if source.tier is Tier.HTTP and self.may_ask(source):
                reach |= source.has.mask
        return not wanted.mask & reach

    def pick(self, source: Source, now: float) -> int | None:
        """The next chunk for a source that `may_ask` allows; None if there is none for it now."""
        while source.plan:
            planned = source.plan.pop()
            if (
                planned in self._board.wanted
                and planned not in source.deferred
                and self.can_serve(source, planned)
            ):
                return planned
        candidates = self._board.wanted.mask & source.has.mask
        if self._gaps_only(source):
            candidates ^= candidates & self._board.rarity.held()
        if source.avoid:
            candidates ^= candidates & mask_of(source.avoid, self._board.n_chunks)
        if source.deferred:
            candidates ^= candidates & mask_of(self._deferred(source, now), self._board.n_chunks)
        if candidates:
            among = None if self._others_fill_up() else IN_ORDER_AMONG
            rarest = self._board.rarity.rarest(candidates)
            found = choose(rarest, self._ahead, self._rng, among=among)
            source.plan = found[:0:-1]
            return found[0]
        again = self._failed_before(source)
        if again is None:
            again = self._put_off(source)
        if again is None and self.endgame():
            return self._second(source, now)
        return again

    def take_look_again(self) -> float:
        """When a second request that was judged too early may make sense, as far as picks since last time saw."""
        soonest, self._look_again = self._look_again, math.inf
        return soonest

    def _reaches(self, source: Source, index: int) -> bool:
        return (
            index in source.has
            and self.may_ask(source)
            and not (self._gaps_only(source) and self._board.rarity.count(index))
        )

    def _others_fill_up(self) -> bool:
        """Whether some living peer lacks something, so that it may be downloading as we are."""
        n_chunks = self._board.n_chunks
        return any(
            other.tier is Tier.PEER and other.has.count < n_chunks
            for other in self._board.living.values()
        )

    def _gaps_only(self, source: Source) -> bool:
        return source.tier is Tier.HTTP and self.gate is Gate.GAPS

    def _failed_before(self, source: Source) -> int | None:
        """A wanted chunk that the source failed, when nobody is left who did not."""
        for index in source.avoid:
            if (
                index in self._board.wanted
                and self._reaches(source, index)
                and not self.elsewhere(index, source)
            ):
                source.avoid.discard(index)
                return index
        return None

    def _deferred(self, source: Source, now: float) -> dict[int, float]:
        """What the source put off for longer than until now."""
        for index in [index for index, until in source.deferred.items() if until <= now]:
            del source.deferred[index]
        for until in source.deferred.values():
            self._look_again = min(self._look_again, until)
            break  # the first put off is the first to come back
        return source.deferred

    def _put_off(self, source: Source) -> int | None:
        """A wanted chunk that an idle source put off, when nobody else could serve it."""
        if source.out:
            return None
        for index in source.deferred:
            if (
                index in self._board.wanted
                and self.can_serve(source, index)
                and not self.elsewhere(index, source)
            ):
                del source.deferred[index]
                return index
        return None

    def _second(self, source: Source, now: float) -> int | None:
        """The chunk with the longest wait before it elsewhere, if it would come sooner from this source.

        One chunk of each queue is looked at: the last, which waits longest while all goes well, or the first,
        which waited longest, once the queue stalled.
        """
        best: int | None = None
        ready = longest = source.ready_in()
        for other in self._board.living.values():
            if other is source or not other.out:
                continue
            queue = other.out
            step = other.pace.chunk_time
            begun = max(other.pace.last_delivery, queue[next(iter(queue))].asked)
            stalled = begun + 2 * step
            if now >= stalled:
                _, index = self._first_single(source, iter(queue))
                if index is None:
                    continue
                worthwhile = queue[index].asked + ready
                wait = now - queue[index].asked
            else:
                behind, index = self._first_single(source, reversed(queue))
                if index is None:
                    continue
                wait = begun + step * (len(queue) - behind) - now
                worthwhile = now if wait > ready else stalled
            if now < worthwhile:
                self._look_again = min(self._look_again, worthwhile)
            elif best is None or wait > longest:
                best, longest = index, wait
        return best

    def _first_single(self, source: Source, queue: Iterator[int]) -> tuple[int, int | None]:
        """The first of a queue's chunks that is asked once and that the source could serve; how many precede it."""
        passed = 0
        for passed, index in enumerate(queue):
            if len(self._board.asked[index]) < MAX_ASKED and self.can_serve(source, index):
                return passed, index
        return passed, None
