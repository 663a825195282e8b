"""The download budget of a node: what each of its downloads may ask for, by priority and within a limit.

:mod:`peatnet.swarm.shares` decides; this gives it a clock, and tells a download when what it may do has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import trio

from peatnet.concurrency import Stirring
from peatnet.swarm.shares import Grant, Shares

if TYPE_CHECKING:
    from peatnet.swarm.shares import Member

# How often what is allowed is dealt out, while there is anything to deal out.
STEP_SECONDS = 0.05

_UNBOUNDED = Grant(None, None)

OnChange = Callable[[int | None, int | None], None]


class DownloadBudget:
    """Shares what a node may download among its downloads. Belongs to the trio thread; one a node.

    Without `run`, limits are dealt out only as downloads come, go and ask.

    Args:
        rate: bytes a second of all downloads together; None for no limit.
        clock: seconds, never backwards.

    Raises:
        LocalProtocolError: the rate is not above 0.
    """

    def __init__(
        self, *, rate: float | None = None, clock: Callable[[], float] = trio.current_time
    ) -> None:
        self._clock = clock
        self._shares = Shares(rate, clock())
        self._joined: dict[Share, None] = {}
        self._stir = trio.Event()

    @property
    def rate(self) -> float | None:
        """The limit on all downloads together."""
        return self._shares.rate

    def set_rate(self, rate: float | None) -> None:
        """Change the limit from now on.

        Raises:
            LocalProtocolError: the rate is not above 0; nothing has changed then.
        """
        self._shares.set_rate(rate, self._clock())
        self._stir.set()
        self._tell()

    def join(self, priority: int, chunk_size: int, on_change: OnChange) -> Share:
        """A download takes part until its share's `leave`.

        Args:
            priority: 1 (most urgent) to 5.
            chunk_size: what a request is counted as, in bytes.
            on_change: called with the ceiling of requests out and the credit of requests to make (None: any number)
                whenever they are no longer what was said last, less the requests made since; before this returns
                where they are bounded from the start. It may call the share's `requested` and `out`.

        Raises:
            LocalProtocolError: the priority or the size is out of bounds.
        """
        member = self._shares.join(priority, chunk_size, self._clock())
        share = Share(self._shares, member, self._clock, on_change, self._leave)
        self._joined[share] = None
        self._stir.set()
        share.tell()
        return share

    def _leave(self, share: Share) -> None:
        self._joined.pop(share, None)

    def _tell(self) -> None:
        for share in list(self._joined):
            share.tell()

    async def run(self) -> None:
        """Deal out what the limit allows and have downloads yield, until cancelled. One task of the node runs this."""
        while True:
            self._stir = trio.Event()
            if self._shares.busy:
                self._shares.step(self._clock())
                self._tell()
                await trio.sleep(STEP_SECONDS)
            else:
                self._tell()
                await self._stir.wait()


class Share:
    """One download's part of the budget. Belongs to the trio thread."""

    def __init__(
        self,
        shares: Shares,
        member: Member,
        clock: Callable[[], float],
        on_change: OnChange,
        on_leave: Callable[[Share], None],
    ) -> None:
        self._shares = shares
        self._member = member
        self._clock = clock
        self._on_change = on_change
        self._on_leave = on_leave
        self._told = _UNBOUNDED
        self._left = False

    def requested(self, count: int) -> None:
        """So many chunk requests were made. Negative: so many ended without a byte, and cost nothing after all."""
        if not count or self._left:
            return
        self._shares.requested(self._member, count, self._clock())
        if self._told.credit is not None and count > 0:
            # The download has counted its credit down by itself.
            self._told = replace(self._told, credit=max(0, self._told.credit - count))

    def out(self, count: int, progressing: bool) -> None:  # noqa: FBT001  # two facts of one moment
        """So many requests are out now; ``progressing``: something comes in, or is about to."""
        if not self._left:
            self._shares.out(self._member, count, self._clock(), progressing=progressing)

    def set_priority(self, priority: int) -> None:
        """The download becomes more or less urgent.

        Raises:
            LocalProtocolError: it is not one of 1 to 5.
        """
        if not self._left:
            self._shares.set_priority(self._member, priority, self._clock())

    def leave(self) -> None:
        """The download has ended. Said again, it changes nothing."""
        if not self._left:
            self._left = True
            self._shares.leave(self._member, self._clock())
            self._on_leave(self)

    def tell(self) -> None:
        """The budget's side: say what the download may do, where that has changed."""
        if self._left:
            return
        grant = self._shares.grant(self._member, self._clock())
        if grant != self._told:
            self._told = grant
            self._on_change(grant.ceiling, grant.credit)


class Pacer:
    """A share of the budget for what is read in a stream and not asked for in chunks. A context.

    Args:
        budget: of the node; None for no bounds.
        priority: 1 (most urgent) to 5.
        unit: bytes that are read at a time.
    """

    def __init__(self, budget: DownloadBudget | None, priority: int, unit: int) -> None:
        self._budget = budget
        self._priority = priority
        self._unit = unit
        self._share: Share | None = None
        self._credit: int | None = None
        self._stirring = Stirring()

    def __enter__(self) -> Self:
        if self._budget is not None:
            self._share = self._budget.join(self._priority, self._unit, self._on_change)
        return self

    def __exit__(self, *_: object) -> None:
        if self._share is not None:
            self._share.leave()

    def _on_change(self, _ceiling: int | None, credit: int | None) -> None:
        self._credit = credit
        self._stirring.stir()

    async def wait(self) -> None:
        """Wait until one more unit may be read. Cancellation is safe."""
        if self._share is None:
            return
        while self._credit is not None and self._credit <= 0:
            await self._stirring.event.wait()
        if self._credit is not None:
            self._credit -= 1
        self._share.requested(1)
        self._share.out(1, True)  # noqa: FBT003  # as the interface has it
