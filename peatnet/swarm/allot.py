"""Who gets work: after each event, every source that has room and might find something is offered chunks.

A source with room for more is either *hungry*, and is offered chunks now, or *starved*: it found nothing when it
last looked. A starved one looks again when its own state changes, and all of them do when something changes that
any of them might profit from: a chunk came back, a source came, went or holds other chunks, the HTTP gate moved,
the endgame began, a request became overdue, or a time came that was noted for it (the *nudge*): the end of a
pause, the end of a deferral, or the moment from which doubling a request makes sense. So an event costs
what it changes, however many sources there are.

Nothing is asked beyond the budget, and who would ask stays hungry until there is some again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from peatnet.swarm.events import Request

if TYPE_CHECKING:
    from peatnet.swarm.board import Board
    from peatnet.swarm.events import Action
    from peatnet.swarm.fallback import Gate
    from peatnet.swarm.picker import Picker
    from peatnet.swarm.sources import Source
    from peatnet.swarm.timers import Timers


class Allotter:
    """Offers chunks to the sources of one board, and puts on it what is asked.

    Attributes:
        nudge: when to call `allot` though nothing happened; infinity for never.
    """

    __slots__ = (
        "_board",
        "_bounded",
        "_ceiling",
        "_credit",
        "_endgame",
        "_picker",
        "_timers",
        "nudge",
    )

    def __init__(self, board: Board, picker: Picker, timers: Timers) -> None:
        self._board = board
        self._picker = picker
        self._timers = timers
        self.nudge = math.inf
        self._endgame = False
        self._bounded = False
        self._ceiling = math.inf
        self._credit = math.inf

    def budget(self, ceiling: int | None, credit: int | None) -> None:
        """At most so many requests out in all, and so many more to be made; None is without bound."""
        self._bounded = ceiling is not None or credit is not None
        self._ceiling = math.inf if ceiling is None else ceiling
        self._credit = math.inf if credit is None else credit

    def allot(self, gate: Gate, now: float, actions: list[Action]) -> None:
        """Make the requests that make sense now, and add them to the actions."""
        board = self._board
        if gate is not self._picker.gate:
            self._picker.gate = gate
            board.wake_starved()
        if now >= self.nudge:
            self.nudge = math.inf
            board.wake_starved()
        if board.hungry:
            self._round(now, actions)
        if board.wanted.count:
            self._endgame = False
            return
        if not self._endgame and board.starved:
            # Who had nothing to do may double what is out, from this moment on.
            board.wake_starved()
            self._round(now, actions)
        self._endgame = True

    def _round(self, now: float, actions: list[Action]) -> None:
        board, picker = self._board, self._picker
        hungry = list(board.hungry)
        if len(hungry) > 1:
            hungry.sort(key=_chunk_time)
        for source in hungry:
            if source.rest_until > now:
                self.nudge = min(self.nudge, source.rest_until)
                board.starve(source)
                continue
            out, window = source.out, source.window
            while len(out) < window:
                if self._bounded and (self._credit <= 0 or board.requests_out >= self._ceiling):
                    return
                index = picker.pick(source, now)
                if index is None:
                    board.starve(source)
                    break
                ask = source.new_ask(now)
                board.ask(source, index, ask)
                self._timers.watch(min(ask.overdue, ask.deadline), source, index, ask)
                self._credit -= 1
                actions.append(Request(source.name, index))
            else:
                del board.hungry[source]
        if picker.look_again < math.inf:
            self.nudge = min(self.nudge, picker.look_again)
            picker.look_again = math.inf


def _chunk_time(source: Source) -> float:
    return source.pace.chunk_time
