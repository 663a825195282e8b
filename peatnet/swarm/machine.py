"""The state machine of one download: it is told what happens and answers what to do next.

Theory. There is no I/O, no clock and no thread here. `Swarm.handle` takes one event and the time, changes
the board, and returns actions for the engine to carry out; `next_wakeup` says when time alone will
change something. The same code therefore runs under the real engine, in property tests and in a simulation
on a virtual clock. Each event goes through the same four steps:

    1. its own handler changes sources and chunks            (`_handlers`, one row an event)
    2. requests that are overdue are taken back              (`_expire`; how long they get is in timing.py)
    3. sources with room for more are given requests         (allot.py says who, picker.py says what)
    4. `Done` is said when nothing is missing

A source's life is the table in sources.py, a chunk's states are in board.py, the tiers in fallback.py.

Failure. A source that fails a chunk is asked for it again only when nobody else can serve it. Failures in a row
bring it down to one request at a time, then to pauses that grow, then it is dropped; requests that were out
together fail as one. Where nobody else could serve a chunk, its request gets more time
instead: asking the same slow source again would only throw away what it has sent. One corrupt chunk
bans the source.

Events that come late, as they do when an engine runs on several tasks, are taken for what they still are
worth: an arrival always counts, a failure of what is no longer asked is ignored. Events that make no sense
raise `LocalProtocolError` and change nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from peatnet.errors import LocalProtocolError
from peatnet.swarm import events as ev
from peatnet.swarm.allot import Allotter
from peatnet.swarm.availability import ChunkSet
from peatnet.swarm.board import MAX_ASKED, Board
from peatnet.swarm.books import Books
from peatnet.swarm.fallback import Fallback, Gate
from peatnet.swarm.ledger import Ledger
from peatnet.swarm.picker import Picker
from peatnet.swarm.settings import SwarmSettings
from peatnet.swarm.sources import Ask, Life, Source, Turn
from peatnet.swarm.timers import Timers
from peatnet.swarm.timing import Crowd

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

_REASON_LENGTH = 200
_DEFAULTS = SwarmSettings()
# What each event looks at, by its own name: a member of an enum takes Python 3.11 as long to find as a call takes.
_ALIVE = Life.ALIVE
_PEER = ev.Tier.PEER
_SHUT = Gate.SHUT
_NEVER = -math.inf


class Swarm(Books):
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

    __slots__ = (
        "_actions",
        "_allotter",
        "_crowd",
        "_done_said",
        "_fallback",
        "_now",
        "_picker",
        "_settings",
        "_stopped",
        "_timers",
    )

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
        self._settings = settings
        ledger = Ledger(n_chunks, chunk_size, size)
        board = Board(n_chunks, ChunkSet.from_bitmap(n_chunks, have, what="swarm: have"), settings)
        ledger.recovered(board.have)
        super().__init__(board, ledger)
        self._picker = Picker(board, ledger, settings, rng)
        self._timers = Timers()
        self._crowd = Crowd(settings)
        self._allotter = Allotter(board, self._picker, self._timers)
        self._fallback = Fallback(settings)
        self._now = _NEVER
        self._done_said = False
        self._stopped = False
        self._actions: list[ev.Action] = []

    # Events in, actions out.

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
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
        handler = _HANDLERS.get(type(event))
        if handler is None:
            raise LocalProtocolError(f"swarm: {event!r} is no event")
        if self._stopped:
            return []
        handler(self, event, now)
        if self._now == _NEVER:
            self._fallback.begin(now)
        self._now = now
        if not self._stopped:
            if self._timers.first <= now:
                self._expire(now)
            board = self._board
            if board.have.count < board.n_chunks:
                gate = self._fallback.gate(now) if board.living_http else _SHUT
                self._allotter.allot(gate, now, self._actions)
            elif not self._done_said:
                self._done_said = True
                self._actions.append(ev.Done())
        actions, self._actions = self._actions, []
        return actions

    def next_wakeup(self, before: float = math.inf) -> float | None:
        """When `handle(Tick(), now)` is wanted, if nothing else happens before.

        Args:
            before: later times are of no use to the caller, who will ask again by then; it is cheaper to say
                so than to throw them away.

        Returns:
            A time on the caller's clock, later than that of the last event; None where time alone will
            change nothing before that, and before the first event.
        """
        board = self._board
        if self._stopped or board.have.count == board.n_chunks:
            return None
        soonest = self._allotter.nudge
        if board.living_http:
            soonest = min(soonest, self._fallback.next_change(self._now))
        timers = self._timers
        if timers.first < before:
            soonest = min(soonest, timers.soonest())
        return soonest if soonest < before else None

    # 1. What each event changes. Every handler checks before it changes anything.

    def _on_joined(self, event: ev.SourceJoined, now: float) -> None:
        if event.pipeline < 1:
            raise LocalProtocolError(
                f"swarm: source {event.source!r} with pipeline {event.pipeline}"
            )
        source = self._board.sources.get(event.source)
        if source is None:
            source = Source(event.source, self._board.n_chunks, self._settings, self._crowd)
        source.turn(Turn.JOINED)
        if source.life is Life.BANNED:
            self._actions.append(ev.Ban(source.name, "it was banned before"))
            return
        source.begin(event.tier, event.pipeline)
        self._board.join(source)
        self._peers_changed(source, now)

    def _on_line(self, event: ev.SourceLine, _now: float) -> None:
        source = self._board.source(event.source)
        if not event.round_trip >= 0 or event.lanes < 1:
            raise LocalProtocolError(f"swarm: {event!r} is no line")
        if source.life is _ALIVE:
            source.reached(event.round_trip, event.lanes)
            if len(source.out) < source.window:
                self._board.wake(source)

    def _on_has(self, event: ev.SourceHas, now: float) -> None:
        source = self._board.source(event.source)
        if event.bitmap is None:
            has = self._board.full()
        else:
            what = f"swarm: source {source.name!r}"
            has = ChunkSet.from_bitmap(self._board.n_chunks, event.bitmap, what=what)
        if source.life is not _ALIVE or not self._board.set_holding(source, has):
            return
        self._peers_changed(source, now)
        for index in self._board.lapsed(source):
            self._take_back(source, index)

    def _on_gained(self, event: ev.SourceGained, _now: float) -> None:
        board = self._board
        source = board.source(event.source)
        if event.chunks >> board.n_chunks:
            raise LocalProtocolError(
                f"swarm: source {source.name!r} gained what is no set of {board.n_chunks} chunks"
            )
        if source.life is _ALIVE:
            board.add_holding(source, event.chunks)

    def _on_arrived(self, event: ev.ChunkArrived, now: float) -> None:
        source = self._source_and_index(event)
        board, index = self._board, event.index
        is_peer = source.tier is _PEER
        ask = source.out.get(index)
        source.delivered(ask, now)
        if ask is not None:
            self._crowd.waited(now - ask.asked)
            if is_peer:
                board.pace(source.pace.chunk_time)
        elif source.life is _ALIVE:
            board.wake(source)
        askers = board.obtain(index)
        if askers is None:
            self._ledger.came_twice(index)
            return
        source.brought += self._ledger.found(index)
        if ask is None or len(askers) != 1:
            self._cancel(index, askers, source)
        if is_peer:
            self._fallback.delivered = now

    def _on_failed(self, event: ev.ChunkFailed, now: float) -> None:
        source = self._source_and_index(event)
        ask = source.out.get(event.index)
        if ask is not None:
            self._board.retire(source, event.index)
            self._fail(source, event.index, ask, event.reason, now)

    def _on_deferred(self, event: ev.ChunkDeferred, now: float) -> None:
        source = self._source_and_index(event)
        if event.index in source.out:
            self._board.contested = True
            self._board.retire(source, event.index)
            source.defer(event.index, now + self._settings.defer)

    def _on_corrupt(self, event: ev.ChunkCorrupt, now: float) -> None:
        source = self._source_and_index(event)
        was_alive = source.life is Life.ALIVE
        if source.turn(Turn.CORRUPT):
            if was_alive:
                self._release(source, now)
            why = f"chunk {event.index} does not match its digest"
            self._actions.append(ev.Ban(source.name, why))

    def _on_lost(self, event: ev.SourceLost, now: float) -> None:
        source = self._board.source(event.source)
        if source.turn(Turn.LOST):
            self._release(source, now)

    def _on_found(self, event: ev.ChunkFound, _now: float) -> None:
        self._board.check_index(event.index)
        askers = self._board.obtain(event.index)
        if askers is not None:
            self._ledger.found(event.index)
            self._cancel(event.index, askers, None)

    def _on_budget(self, event: ev.Budget, _now: float) -> None:
        if min(event.ceiling or 0, event.credit or 0) < 0:
            raise LocalProtocolError(f"swarm: {event!r} is below zero")
        self._allotter.budget(event.ceiling, event.credit)

    def _on_tick(self, _event: ev.Tick, _now: float) -> None:
        pass

    def _on_stopped(self, _event: ev.Stopped, _now: float) -> None:
        self._stopped = True
        for source in self._board.living.values():
            for index in list(source.out):
                self._take_back(source, index)

    @staticmethod
    def _handlers() -> dict[type, Callable[[Swarm, Any, float], None]]:
        return {
            ev.SourceJoined: Swarm._on_joined,
            ev.SourceLine: Swarm._on_line,
            ev.SourceHas: Swarm._on_has,
            ev.SourceGained: Swarm._on_gained,
            ev.ChunkArrived: Swarm._on_arrived,
            ev.ChunkFailed: Swarm._on_failed,
            ev.ChunkDeferred: Swarm._on_deferred,
            ev.ChunkCorrupt: Swarm._on_corrupt,
            ev.SourceLost: Swarm._on_lost,
            ev.ChunkFound: Swarm._on_found,
            ev.Budget: Swarm._on_budget,
            ev.Tick: Swarm._on_tick,
            ev.Stopped: Swarm._on_stopped,
        }

    # What the handlers share.

    def _source_and_index(
        self, event: ev.ChunkArrived | ev.ChunkFailed | ev.ChunkDeferred | ev.ChunkCorrupt
    ) -> Source:
        board = self._board
        source = board.sources.get(event.source)
        if source is None or not 0 <= event.index < board.n_chunks:
            board.check_index(event.index)
            return board.source(event.source)
        return source

    def _cancel(self, index: int, askers: Sequence[Source], winner: Source | None) -> None:
        self._actions += [ev.Cancel(each.name, index) for each in askers if each is not winner]

    def _take_back(self, source: Source, index: int) -> None:
        self._board.retire(source, index)
        self._actions.append(ev.Cancel(source.name, index))

    def _peers_changed(self, source: Source, now: float) -> None:
        if source.tier is ev.Tier.PEER:
            self._fallback.peers_changed(now)

    def _release(self, source: Source, now: float) -> None:
        self._board.release(source)
        self._peers_changed(source, now)

    def _fail(self, source: Source, index: int, ask: Ask, reason: str, now: float) -> None:
        source.avoid.add(index)
        if source.strike(ask, now):
            source.turn(Turn.STRUCK_OUT)
            self._release(source, now)
            why = f"{source.strikes} failures in a row, the last: {reason[:_REASON_LENGTH]}"
            self._actions.append(ev.Drop(source.name, why))

    # 2. What is overdue.

    def _expire(self, now: float) -> None:
        for source, index, ask in self._timers.due(now):
            if not ask.late and now < ask.deadline:
                self._look_at_pace(source, index, ask, now)
                continue
            deadline = source.deadline(ask)
            if deadline <= now and not self._picker.elsewhere(index, source):
                deadline = source.extend(ask, now)
            if deadline > now:
                self._timers.watch(deadline, source, index, ask)
            else:
                self._crowd.waited(now - ask.asked)
                self._take_back(source, index)
                self._fail(source, index, ask, "no answer in time", now)

    def _look_at_pace(self, source: Source, index: int, ask: Ask, now: float) -> None:
        """Others may be asked too, if the source took longer than it usually does."""
        due = source.still_due(ask)
        if due <= now:
            ask.late = True
            if len(self._board.asked[index]) < MAX_ASKED:
                self._board.is_late(index)
            due = ask.deadline
        self._timers.watch(min(due, ask.deadline), source, index, ask)


# Not in the class: a compiled one (bench/compiled.py) cannot have a table of its own methods.
_HANDLERS = Swarm._handlers()  # noqa: SLF001
