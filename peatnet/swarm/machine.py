"""The state machine of one download: it is told what happens and answers what to do next.

Theory. There is no I/O, no clock and no thread here. `Swarm.handle` takes one event and the time, changes
the board, and returns actions for the engine to carry out; `next_wakeup` says when time alone will
change something. The same code therefore runs under the real engine, in property tests and in a simulation
on a virtual clock. Each event goes through the same four steps:

    1. its own handler changes sources and chunks            (`_HANDLERS`, one row an event)
    2. requests that are overdue are taken back              (`_expire`)
    3. every source with room for more is given requests     (`_fill`, the policy is in picker.py)
    4. `Done` is said when nothing is missing

A source's life is the table in sources.py, a chunk's states are in board.py, the tiers in fallback.py.

Failure. A source that fails a chunk is asked for it again only when nobody else can serve it. Failures in a row
bring it down to one request at a time, then to pauses that grow, then it is dropped. Requests that run out
of time together count as one failure. Where nobody else could serve a chunk, its request gets more time
instead: asking the same slow source again would only throw away what it has sent. One corrupt chunk
bans the source.

Events that come late, as they do when an engine runs on several tasks, are taken for what they still are
worth: an arrival always counts, a failure of what is no longer asked is ignored. Events that make no sense
raise `LocalProtocolError` and change nothing.
"""

from __future__ import annotations

import heapq
import math
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

from peatnet.errors import LocalProtocolError
from peatnet.swarm import events as ev
from peatnet.swarm.availability import ChunkSet
from peatnet.swarm.board import Board
from peatnet.swarm.events import Action, Ban, Cancel, Done, Drop, Event, Request, Tier
from peatnet.swarm.fallback import Fallback
from peatnet.swarm.picker import Picker
from peatnet.swarm.settings import SwarmSettings
from peatnet.swarm.sources import Ask, Life, Source, SourceView, Turn

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

_REASON_LENGTH = 200
_DEFAULTS = SwarmSettings()


class Swarm:
    """Decides which source to ask for which chunk of one blob.

    Start with `handle(Tick(), now)`: the time of the first event is the start, from which the grace of the
    HTTP tier counts, and a blob that is complete already is answered with `Done`.

    Args:
        n_chunks: chunks in the blob, at least 1.
        chunk_size: bytes in each chunk but the last.
        size: bytes in the blob.
        have: the chunks that are there already: one bit a chunk, low bit first.
        rng: breaks ties; the same one and the same events give the same actions.
        settings: times and limits.

    Raises:
        LocalProtocolError: if the numbers do not fit each other.
    """

    def __init__(
        self,
        *,
        n_chunks: int,
        chunk_size: int,
        size: int,
        have: bytes,
        rng: random.Random,
        settings: SwarmSettings = _DEFAULTS,
    ) -> None:
        if chunk_size < 1 or n_chunks < 1 or -(-size // chunk_size) != n_chunks:
            raise LocalProtocolError(
                f"swarm: {size} bytes in chunks of {chunk_size} are not {n_chunks} chunks"
            )
        self._chunk_size = chunk_size
        self._size = size
        self._settings = settings
        self._board = Board(n_chunks, ChunkSet.from_bitmap(n_chunks, have, what="swarm: have"))
        self._picker = Picker(self._board, settings.tiers, rng)
        self._fallback: Fallback | None = None  # from the first event on
        self._now = -math.inf
        self._timers: list[tuple[float, int, Source, int, Ask]] = []
        self._serial = count()  # orders timers of the same time
        self._nudge = math.inf  # when sources that found nothing to do shall look again
        self._endgame = False
        self._finished = False
        self._stopped = False
        self._actions: list[Action] = []
        self._delivered: dict[str, int] = {}
        self._duplicate_bytes = 0
        had_last = (n_chunks - 1) in self._board.have
        self._verified = self._board.have.count * chunk_size
        self._verified -= (n_chunks * chunk_size - size) if had_last else 0

    # What is known, for progress.

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return self.missing == 0

    @property
    def missing(self) -> int:
        """How many chunks are not there."""
        return self._board.n_chunks - self._board.have.count

    @property
    def verified_bytes(self) -> int:
        """Bytes in the chunks that are there; never falls."""
        return self._verified

    @property
    def duplicate_bytes(self) -> int:
        """Bytes that arrived though their chunk was there already."""
        return self._duplicate_bytes

    @property
    def bytes_by_source(self) -> dict[str, int]:
        """Bytes that each source delivered first; a copy."""
        return dict(self._delivered)

    def have(self) -> bytes:
        """The chunks that are there: one bit a chunk, low bit first."""
        return self._board.have.to_bytes()

    def sources(self) -> list[SourceView]:
        """All sources that ever joined, in that order."""
        return [self._view(source) for source in self._board.sources.values()]

    def _view(self, source: Source) -> SourceView:
        pace = source.pace
        return SourceView(
            name=source.name,
            tier=source.tier,
            life=source.life,
            delivered=self._delivered.get(source.name, 0),
            chunks=source.has.count,
            out=len(source.out),
            window=source.window,
            rate=self._chunk_size / max(pace.chunk_time, 1e-9) if pace.measured else None,
        )

    # Events in, actions out.

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event.

        Args:
            event: what happened.
            now: the time it happened, in seconds on any clock that does not go back.

        Returns:
            What to do, in this order.

        Raises:
            LocalProtocolError: if the event makes no sense here; nothing has changed then.
        """
        if now < self._now:
            raise LocalProtocolError(f"swarm: time went back from {self._now} to {now}")
        handler = self._HANDLERS.get(type(event))
        if handler is None:
            raise LocalProtocolError(f"swarm: {event!r} is no event")
        if self._stopped:
            return []
        if self._fallback is None:
            self._fallback = Fallback(self._settings, now)
        handler(self, event, now)
        self._now = now
        if not self._stopped:
            self._expire(now)
            self._fill(now)
        actions, self._actions = self._actions, []
        return actions

    def next_wakeup(self) -> float | None:
        """When `handle(Tick(), now)` is wanted, if nothing else happens before.

        Returns:
            A time on the caller's clock, or None where time alone will change nothing.
        """
        if self._stopped or self.complete or self._fallback is None:
            return None
        while self._timers and not self._is_out(*self._timers[0][2:]):
            heapq.heappop(self._timers)
        times = [self._nudge]
        if self._timers:
            times.append(self._timers[0][0])
        if any(source.tier is Tier.HTTP for source in self._board.alive()):
            opens = self._fallback.next_change(self._now)
            times.append(math.inf if opens is None else opens)
        soonest = min(times)
        return None if soonest == math.inf else soonest

    # 1. What each event changes.

    def _on_joined(self, event: ev.SourceJoined, now: float) -> None:
        if event.pipeline < 1:
            raise LocalProtocolError(
                f"swarm: source {event.source!r} with pipeline {event.pipeline}"
            )
        source = self._board.sources.get(event.source) or Source(event.source, self._board.n_chunks)
        source.turn(Turn.JOINED)
        if source.life is Life.BANNED:
            self._actions.append(Ban(source.name, "it was banned before"))
            return
        self._board.sources[source.name] = source
        source.begin(event.tier, event.pipeline, self._settings)
        self._peers_changed(source, now)

    def _on_has(self, event: ev.SourceHas, now: float) -> None:
        source = self._board.source(event.source)
        n = self._board.n_chunks
        if event.bitmap is None:
            has = ChunkSet(n, (1 << n) - 1)
        else:
            has = ChunkSet.from_bitmap(n, event.bitmap, what=f"swarm: source {source.name!r}")
        if source.life is not Life.ALIVE or not self._board.set_holding(source, has):
            return
        self._peers_changed(source, now)
        for index in self._board.lapsed(source):
            self._take_back(source, index)

    def _on_gained(self, event: ev.SourceGained, _now: float) -> None:
        source = self._board.source(event.source)
        indices = list(event.indices)
        for index in indices:
            self._board.check_index(index)
        if source.life is Life.ALIVE:
            self._board.add_holding(source, indices)

    def _on_arrived(self, event: ev.ChunkArrived, now: float) -> None:
        self._board.check_index(event.index)
        source = self._board.source(event.source)
        ask = source.out.get(event.index)
        if ask is not None:
            source.pace.delivered(ask.asked, now)
        source.strikes = 0
        source.rest_until = -math.inf
        length = self._length(event.index)
        if not self._obtain(event.index, source):
            self._duplicate_bytes += length
            return
        self._delivered[source.name] = self._delivered.get(source.name, 0) + length
        if source.tier is Tier.PEER:
            self._gatekeeper.peer_delivered(now)

    def _on_failed(self, event: ev.ChunkFailed, now: float) -> None:
        self._board.check_index(event.index)
        source = self._board.source(event.source)
        if event.index in source.out:
            self._board.retire(source, event.index)
            source.avoid.add(event.index)
            self._strike(source, event.reason, now)

    def _on_corrupt(self, event: ev.ChunkCorrupt, now: float) -> None:
        self._board.check_index(event.index)
        source = self._board.source(event.source)
        if source.turn(Turn.CORRUPT):
            self._let_go(source, now)
            self._actions.append(Ban(source.name, f"chunk {event.index} does not match its digest"))

    def _on_lost(self, event: ev.SourceLost, now: float) -> None:
        source = self._board.source(event.source)
        if source.turn(Turn.LOST):
            self._let_go(source, now)

    def _on_found(self, event: ev.ChunkFound, _now: float) -> None:
        self._board.check_index(event.index)
        self._obtain(event.index, None)

    def _on_tick(self, _event: ev.Tick, _now: float) -> None:
        pass

    def _on_stopped(self, _event: ev.Stopped, _now: float) -> None:
        self._stopped = True
        for source in self._board.alive():
            for index in list(source.out):
                self._take_back(source, index)

    _HANDLERS: ClassVar[dict[type, Callable[[Swarm, Any, float], None]]] = {
        ev.SourceJoined: _on_joined,
        ev.SourceHas: _on_has,
        ev.SourceGained: _on_gained,
        ev.ChunkArrived: _on_arrived,
        ev.ChunkFailed: _on_failed,
        ev.ChunkCorrupt: _on_corrupt,
        ev.SourceLost: _on_lost,
        ev.ChunkFound: _on_found,
        ev.Tick: _on_tick,
        ev.Stopped: _on_stopped,
    }

    # What the handlers share.

    @property
    def _gatekeeper(self) -> Fallback:
        assert self._fallback is not None  # noqa: S101 - set by handle before any handler runs
        return self._fallback

    def _length(self, index: int) -> int:
        return min(self._chunk_size, self._size - index * self._chunk_size)

    def _obtain(self, index: int, winner: Source | None) -> bool:
        askers = self._board.obtain(index)
        if askers is None:
            return False
        self._verified += self._length(index)
        self._actions += [Cancel(each.name, index) for each in askers if each is not winner]
        return True

    def _take_back(self, source: Source, index: int) -> None:
        self._board.retire(source, index)
        self._actions.append(Cancel(source.name, index))

    def _peers_changed(self, source: Source, now: float) -> None:
        if source.tier is Tier.PEER:
            self._gatekeeper.peers_changed(now)

    def _let_go(self, source: Source, now: float) -> None:
        self._board.release(source)
        self._peers_changed(source, now)

    def _strike(self, source: Source, reason: str, now: float) -> None:
        source.strikes += 1
        if source.strikes >= self._settings.max_strikes:
            source.turn(Turn.STRUCK_OUT)
            self._let_go(source, now)
            why = f"{source.strikes} failures in a row, the last: {reason[:_REASON_LENGTH]}"
            self._actions.append(Drop(source.name, why))
        elif source.strikes > 1:
            source.rest_until = now + self._settings.rest * 2 ** (source.strikes - 2)

    # 2. What is overdue.

    def _is_out(self, source: Source, index: int, ask: Ask) -> bool:
        return source.out.get(index) is ask

    def _watch(self, deadline: float, source: Source, index: int, ask: Ask) -> None:
        heapq.heappush(self._timers, (deadline, next(self._serial), source, index, ask))

    def _expire(self, now: float) -> None:
        late: dict[str, Source] = {}
        while self._timers and self._timers[0][0] <= now:
            _, _, source, index, ask = heapq.heappop(self._timers)
            if not self._is_out(source, index, ask):
                continue
            deadline = self._deadline(source, ask)
            if deadline <= now and not self._picker.elsewhere(index, source):
                deadline = self._extend(source, ask, now)
            if deadline > now:
                self._watch(deadline, source, index, ask)
                continue
            self._take_back(source, index)
            source.avoid.add(index)
            late[source.name] = source
        for source in late.values():
            self._strike(source, "no answer in time", now)

    def _deadline(self, source: Source, ask: Ask) -> float:
        """A source that keeps delivering gets more time for what waits behind, up to a bound."""
        if ask.extended:
            return ask.deadline
        alive_until = source.pace.last_delivery + source.pace.timeout(0)
        return min(max(ask.deadline, alive_until), ask.asked + self._settings.timeout_max)

    def _extend(self, source: Source, ask: Ask, now: float) -> float:
        if ask.extended < self._settings.extensions:
            ask.extended += 1
            ask.deadline = now + source.pace.timeout(0) * 2**ask.extended
        return ask.deadline

    # 3. What to ask next.

    def _fill(self, now: float) -> None:
        if self.complete:
            if not self._finished:
                self._finished = True
                self._actions.append(Done())
            return
        gate = self._gatekeeper.gate(now)
        if gate is not self._picker.gate:
            self._picker.gate = gate
            self._board.epoch += 1
        if now >= self._nudge:
            self._nudge = math.inf
            self._board.epoch += 1
        while self._give(now):
            pass

    def _give(self, now: float) -> bool:
        """Give each source with room all it can take; whether another round could find more."""
        epoch = self._board.epoch
        idle = [source for source in self._board.alive() if source.idle(now)]
        hungry = [each for each in idle if each.epoch != epoch and self._picker.may_ask(each)]
        hungry.sort(key=lambda source: source.pace.chunk_time)
        self._picker.look_again = math.inf
        for source in hungry:
            while source.idle(now):
                index = self._picker.pick(source, now)
                if index is None:
                    source.epoch = epoch
                    break
                self._request(source, index, now)
        self._nudge = min(self._nudge, self._picker.look_again)
        for source in self._board.alive():
            if source.rest_until > now:
                self._nudge = min(self._nudge, source.rest_until)
        # The moment the endgame begins, sources that had nothing to do may double what is out.
        began = not self._endgame
        self._endgame = any(each.idle(now) for each in idle) and self._picker.endgame()
        if began and self._endgame:
            self._board.epoch += 1
            return True
        return False

    def _request(self, source: Source, index: int, now: float) -> None:
        ask = Ask(now, now + source.pace.timeout(len(source.out)))
        self._board.ask(source, index, ask)
        self._watch(ask.deadline, source, index, ask)
        self._actions.append(Request(source.name, index))
