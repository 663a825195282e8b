"""Which chunk to ask of a source that has room for one more request.

In this order:

1. A chunk that is *overdue* elsewhere by that source's own measured pace: the hedge.
2. The rarest wanted chunk that the source has, did not fail before and did not put off. Among equals at random: that
   is what spreads chunks among those who download together. But only among the first equals, a quarter of the blob:
   enough to spread, and a blob that fills more or less from its beginning can be hashed as a whole meanwhile; at the
   end everybody who downloads would have all of it to hash at once. While no peer is still filling up, and no holder
   has put off anything (which it does for others' sake), there is nobody to spread them among, and one of the first
   few is taken. With `in_order`, the first one, however many have it.
3. A chunk it failed, when nobody else is left to try; one it put off, when it has nothing else to do.
4. In the *endgame*, when every missing chunk is asked of somebody, a chunk that would come sooner from here.

A source that is far slower than this download's others (`slow_factor`) is asked only for what no other peer has, and for
one chunk now and then, to see whether it is faster by now. What it holds alone is better got slowly than never.

"Sooner" is judged by pace. The request at position p of a source's queue is expected p+1 chunk times after the
source last delivered. When that passed by a chunk time for the first of them, the queue has stalled, and
the best guess is that each of its requests takes as long again as it has been out already. So the endgame
takes from the ends of long queues first, and does not double what is just about to arrive.

A request cannot be called back from a peer that has it, so every chunk that is asked twice may come twice. `spare`
bounds that: no more chunks than so many have come twice, or may yet, or are asked twice. Sources that failed to answer
do not count: what they were asked for will hardly come. In the endgame those do not count either that may have more out
than their pace allows, for they are far away (timing.py): else one that is silent, or slower than it seemed, would hold up
so many chunks that are to be had nearby.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from peatnet.swarm.availability import PLAN_SHARE, choose, mask_of, pick_one
from peatnet.swarm.board import MAX_ASKED, Board
from peatnet.swarm.events import Tier
from peatnet.swarm.fallback import Gate

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from peatnet.swarm.ledger import Ledger
    from peatnet.swarm.settings import SwarmSettings
    from peatnet.swarm.sources import Source


# Enough that two downloaders who do not know of each other yet seldom ask for the same chunk first.
IN_ORDER_AMONG = 16
# The part of the blob among whose chunks equals are taken at random. Simulated fleets are as fast with a quarter as
# with all of it (1 -> 16 takes 1 % longer, a source of 250 sends 1.6 times the file instead of 1.1), and slower with less.
SPREAD_SHARE = 4
# However small a blob is, so many chunks of it may be asked twice.
MIN_SPARE = 2
_PEER = Tier.PEER  # see machine.py


class Picker:
    """Chooses chunks on one board.

    Args:
        board: the board; only looked at.
        ledger: knows what came twice.
        settings: of the download.
        rng: breaks ties.

    Attributes:
        gate: what HTTP may be asked for; for the allotter to set.
        look_again: when picks that came to nothing may come to something, as far as picks saw since the allotter
            last set it to infinity.
    """

    __slots__ = (
        "_ahead",
        "_among",
        "_board",
        "_in_order",
        "_ledger",
        "_peers_allowed",
        "_rng",
        "_spare",
        "_trial",
        "gate",
        "look_again",
    )

    def __init__(
        self, board: Board, ledger: Ledger, settings: SwarmSettings, rng: random.Random
    ) -> None:
        self._board = board
        self._ledger = ledger
        self._in_order = settings.in_order
        self._trial = settings.trial
        self._peers_allowed = Tier.PEER in settings.tiers
        self._rng = rng
        self._ahead = 1 if settings.in_order else 1 + board.n_chunks // PLAN_SHARE
        self._among = max(IN_ORDER_AMONG, board.n_chunks // SPREAD_SHARE)
        self._spare = max(MIN_SPARE, int(settings.spare * board.n_chunks))
        self.gate = Gate.SHUT
        self.look_again = math.inf

    def may_ask(self, source: Source) -> bool:
        """Whether a living source may be asked for anything, as far as its tier goes."""
        if source.tier is _PEER:
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

    def pick(self, source: Source, now: float) -> int | None:
        """The next chunk for a source; None if there is none for it now."""
        board = self._board
        is_peer = source.tier is _PEER
        if not (self._peers_allowed if is_peer else self.may_ask(source)):
            return None
        has = source.has.mask
        if board.late & has and (late := self._overdue(source)) is not None:
            return late
        if self._ahead > 1 and (planned := self._planned(source)) is not None:
            return planned
        candidates = board.wanted.mask & has
        if not is_peer:
            if self.gate is Gate.GAPS:
                candidates &= ~board.rarity.held()
        elif source.pace.chunk_time > board.slow_from:
            candidates = self._for_slow(source, candidates, now)
        if source.avoid:
            candidates &= ~mask_of(source.avoid, board.n_chunks)
        if source.deferred:
            candidates &= ~self._deferred(source, now)
        if candidates:
            return self._choose(source, candidates)
        return self._otherwise(source, now)

    def _choose(self, source: Source, candidates: int) -> int:
        if self._in_order:
            return (candidates & -candidates).bit_length() - 1
        rarest = self._board.rarity.rarest(candidates)
        board = self._board
        among = self._among if board.partial or board.contested else IN_ORDER_AMONG
        if self._ahead == 1:
            return pick_one(rarest, self._rng, among=among)
        found = choose(rarest, self._ahead, self._rng, among=among)
        source.plan = found[:0:-1]
        return found[0]

    def _planned(self, source: Source) -> int | None:
        while source.plan:
            planned = source.plan.pop()
            if (
                planned in self._board.wanted
                and planned not in source.deferrals
                and self.can_serve(source, planned)
            ):
                return planned
        return None

    def _for_slow(self, source: Source, candidates: int, now: float) -> int:
        """Of a slow source's candidates, those that nobody else has; all of them, when a trial is due."""
        if now >= source.trial_at:
            source.trial_at = now + self._trial
            return candidates
        alone = candidates & self._board.rarity.single()
        if not alone:
            self.look_again = min(self.look_again, source.trial_at)
        return alone

    def _reaches(self, source: Source, index: int) -> bool:
        return (
            index in source.has
            and self.may_ask(source)
            and not (self._gaps_only(source) and self._board.rarity.count(index))
        )

    def _gaps_only(self, source: Source) -> bool:
        return source.tier is Tier.HTTP and self.gate is Gate.GAPS

    def _deferred(self, source: Source, now: float) -> int:
        """What the source put off for longer than until now."""
        deferred = source.still_deferred(now)
        if deferred:
            soonest = next(iter(source.deferrals.values()))
            self.look_again = min(self.look_again, soonest)
        return deferred

    # When a source has nothing fresh that is wanted.

    def _otherwise(self, source: Source, now: float) -> int | None:
        board = self._board
        if not board.wanted.count:
            return self._second(source, now)
        if source.avoid and (failed := self._failed_before(source)) is not None:
            return failed
        if source.deferrals and not source.out:
            return self._put_off(source)
        return None

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

    def _put_off(self, source: Source) -> int | None:
        """A wanted chunk that an idle source put off, when nobody else could serve it."""
        candidates = self._board.wanted.mask & source.has.mask & source.deferred
        candidates &= self._board.rarity.single()
        return pick_one(candidates, self._rng) if candidates else None

    # What is asked already.

    def _may_double(self) -> bool:
        twice = self._ledger.duplicates // self._ledger.chunk_size
        return max(twice, self._board.risked) + self._board.doubled < self._spare

    def _overdue(self, source: Source) -> int | None:
        """A chunk that is overdue elsewhere and that this source could deliver."""
        board = self._board
        if source.strikes or source.pace.chunk_time > board.slow_from:
            return None
        may_double = self._may_double()
        has = source.has.mask
        for index in board.overdue:
            if (
                has >> index & 1
                and index not in source.out
                and (may_double or board.asked[index][0].strikes)
                and self.can_serve(source, index)
            ):
                return index
        return None

    def _second(self, source: Source, now: float) -> int | None:
        """The chunk with the longest wait before it elsewhere, if it would come sooner from this source.

        One chunk of each queue is looked at: the last, which waits longest while all goes well, or the first,
        which waited longest, once the queue stalled.
        """
        may_double = self._may_double()
        best: int | None = None
        ready = longest = source.ready_in()
        for other in self._board.living.values():
            if other is source or not other.out:
                continue
            if not (may_double or other.strikes or other.window > other.usual):
                continue
            queue = other.out
            step = other.pace.chunk_time
            first = queue[next(iter(queue))].asked + other.pace.round_trip
            begun = max(other.pace.last_delivery, first)
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
                self.look_again = min(self.look_again, worthwhile)
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
