"""Who gets work: after each event, every source that has room and might find something is offered chunks.

A source that found nothing is not offered anything again until its own state changes, or the board's epoch
does. The epoch grows when a chunk comes back, when a source comes, goes or changes, when the HTTP gate moves,
when the endgame begins, and when a time comes that was noted for it (the *nudge*): the end of a pause, or the
moment from which doubling an overdue request makes sense.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peatnet.swarm.board import Board
    from peatnet.swarm.fallback import Gate
    from peatnet.swarm.picker import Picker
    from peatnet.swarm.sources import Source


class Allotter:
    """Offers chunks to the sources of one board."""

    __slots__ = ("_board", "_ceiling", "_credit", "_endgame", "_nudge", "_picker", "_starved")

    def __init__(self, board: Board, picker: Picker) -> None:
        self._board = board
        self._picker = picker
        self._nudge = math.inf
        self._endgame = False
        self._ceiling = math.inf
        self._credit = math.inf
        self._starved: set[Source] = set()  # found nothing when last offered

    @property
    def nudge(self) -> float:
        """When to call `allot` though nothing happened; infinity for never."""
        return self._nudge

    def budget(self, ceiling: int | None, credit: int | None) -> None:
        """At most so many requests out in all, and so many more to be made; None is without bound."""
        self._ceiling = math.inf if ceiling is None else ceiling
        self._credit = math.inf if credit is None else credit

    def _exhausted(self) -> bool:
        return self._credit <= 0 or self._board.requests_out >= self._ceiling

    def nudge_at(self, time: float) -> None:
        """Note a time at which sources shall look again."""
        self._nudge = min(self._nudge, time)

    def allot(self, gate: Gate, now: float) -> Iterator[tuple[Source, int]]:
        """Yield each source and chunk to ask for; the caller puts it on the board before it goes on."""
        if gate is not self._picker.gate:
            self._picker.gate = gate
            self._board.epoch += 1
        if now >= self._nudge:
            self._nudge = math.inf
            self._board.epoch += 1
        yield from self._round(now)
        # The moment the endgame begins, sources that had nothing to do may double what is out.
        before, self._endgame = self._endgame, bool(self._starved) and self._picker.endgame()
        if self._endgame and not before:
            self._board.epoch += 1
            yield from self._round(now)

    def _round(self, now: float) -> Iterator[tuple[Source, int]]:
        epoch = self._board.epoch
        hungry = []
        for source in self._board.living.values():
            if source.rest_until > now:
                self.nudge_at(source.rest_until)
            elif source.epoch != epoch and self._picker.may_ask(source):
                hungry.append(source)
        hungry.sort(key=lambda source: source.pace.chunk_time)
        for source in hungry:
            self._starved.discard(source)
            while len(source.out) < source.window:
                if self._exhausted():
                    return
                index = self._picker.pick(source, now)
                if index is None:
                    self._starved.add(source)
                    break
                self._credit -= 1
                yield source, index
            # Idle or full, it has nothing to look for before something changes.
            source.epoch = epoch
        self.nudge_at(self._picker.take_look_again())
