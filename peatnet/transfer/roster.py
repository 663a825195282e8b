"""Which peers a download uses at once, where there are more than it wants to talk to.

Each peer in use costs a lane, which is worth ten milliseconds of CPU or more at both ends. Some ten are enough for
any link; the others wait their turn, in the order in which they came. A place is free when a peer is lost, or when
one turns out to be of little use: it has nothing that is missing, or brings far less than the others do. It goes to
the end of the line then, and comes back in time: what is of no use now may be later.

Pure bookkeeping: the engine starts and ends the sources, and says what each one brought.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from peatnet.transfer.source import Source

# How often it is judged who is of use, in seconds. Who came later than this is not judged yet.
TURN = 5.0
# The same for who has said that it has nothing that is missing, while nobody in use has any: one who waits may have it.
HURRY = 1.0
# Who brings less than this part of the average is let go.
_LITTLE = 0.25


class Roster:
    """The peers that wait, and how long the others have been in use.

    Args:
        places: how many peers may be used at once.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._waiting: dict[str, Source] = {}
        self._since: dict[str, float] = {}
        self._brought: dict[str, int] = {}
        self._judged_at = -math.inf

    @property
    def waiting(self) -> int:
        """How many peers wait for a place."""
        return len(self._waiting)

    def __contains__(self, name: str) -> bool:
        """Whether this peer waits."""
        return name in self._waiting

    def wait(self, source: Source) -> None:
        """A peer joins the end of the line."""
        self._waiting[source.name] = source

    def forget(self, name: str) -> None:
        """A peer waits no longer. Unknown names are ignored."""
        self._waiting.pop(name, None)

    def entered(self, name: str, now: float) -> None:
        """A peer is in use from now on."""
        self._since[name] = now

    def left(self, name: str) -> None:
        """A peer is in use no longer. Unknown names are ignored."""
        self._since.pop(name, None)
        self._brought.pop(name, None)

    @property
    def full(self) -> bool:
        """Whether all places are taken."""
        return len(self._since) >= self._places

    def next(self) -> Source | None:
        """Take the one whose turn it is, if there is a place."""
        if self.full or not self._waiting:
            return None
        return self._waiting.pop(next(iter(self._waiting)))

    def of_little_use(
        self, brought: Mapping[str, int], has_something: Callable[[str], bool | None], now: float
    ) -> list[str]:
        """Whom to let go, so that others have their turn: at most as many as wait, none while there are places.

        To be asked every HURRY seconds while somebody waits.

        Args:
            brought: bytes that each source has delivered in all.
            has_something: whether this one has a chunk that is missing; None while it has not said.
            now: the present, in seconds on the clock that `entered` is told of.
        """
        in_vain = not any(has_something(name) for name in self._since)

        def is_due(name: str) -> bool:
            # On a long line it takes seconds until one can say what it has.
            hurried = in_vain and has_something(name) is not None
            return now - self._since[name] >= (HURRY if hurried else TURN)

        if not in_vain and now < self._judged_at + TURN:
            return []
        self._judged_at = now
        lately = {
            name: brought.get(name, 0) - self._brought.get(name, brought.get(name, 0))
            for name in self._since
            if is_due(name)
        }
        self._brought = {name: brought.get(name, 0) for name in self._since}
        if not self.full or not self._waiting or not lately:
            return []
        let_go = [name for name in lately if not has_something(name)]
        average = sum(lately.values()) / len(lately)
        worst = min(lately, key=lambda name: lately[name])
        if lately[worst] < _LITTLE * average and worst not in let_go:
            let_go.append(worst)
        return let_go[: len(self._waiting)]
