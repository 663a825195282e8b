"""The part of a download that fetches: sources on one side, the swarm on the other, the partial blob below.

The swarm, a state machine, decides; the engine carries what happens to it and carries out what it answers. What a chunk
costs here: one event into the swarm, the requests that come out of it, three counters. Everything belongs to the
trio thread but ``fail`` and what :mod:`peatnet.transfer.source` says otherwise of.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import trio

from peatnet.errors import IntegrityError, NoSource, PeatnetError, RemoteProtocolError
from peatnet.log import get_logger
from peatnet.swarm import (
    Ban,
    Budget,
    Cancel,
    Done,
    Drop,
    Request,
    SourceJoined,
    SourceLost,
    Swarm,
    Tick,
    Tier,
)
from peatnet.transfer.background import Flusher, Follower
from peatnet.transfer.failures import give_up_error, most_telling, without_frames
from peatnet.transfer.link import Link
from peatnet.transfer.progress import RateMeter
from peatnet.transfer.roster import HURRY, Roster

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from peatnet.blobs import PartialBlob, WholeHasher
    from peatnet.swarm import Action, ChunkArrived, Event
    from peatnet.transfer.budget import DownloadBudget, Share
    from peatnet.transfer.settings import DownloadSettings
    from peatnet.transfer.source import Source

_log = get_logger(__name__)

# How often a download that gets nothing looks whether it still can get something.
_LOOK = 1.0
# A download that got nothing for so long does not compete for the budget.
_STALLED = 5.0


class Engine:
    """Fills one partial blob from sources that come and go.

    Invariants: ``links`` holds the sources that the swarm thinks are alive, each under its name, but for those that it
    is about to be told are gone; of peers no more than ``max_sources``. Those beyond wait in the roster, and are unknown
    to the swarm until their turn comes.

    Args:
        partial: what is filled; stays the caller's.
        hasher: hashes the whole behind the download.
        rng: breaks the swarm's ties.
        settings: limits and times.
        priority: 1 (most urgent) to 5; what holders and the budget go by.
        budget: of the node; None for no bounds.
        on_ban: told of sources that sent wrong bytes; None for nobody.
        on_change: called whenever there is something new to show.
        clock: seconds; see Download.
    """

    def __init__(
        self,
        partial: PartialBlob,
        hasher: WholeHasher,
        *,
        rng: random.Random,
        settings: DownloadSettings,
        priority: int,
        budget: DownloadBudget | None,
        on_ban: Callable[[str, str], None] | None,
        on_change: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        table = partial.table
        self.partial = partial
        self.follower = Follower(hasher, settings.hash_step, self.fail)
        self.links: dict[str, Link] = {}
        self.swarm = Swarm(
            n_chunks=table.n_chunks,
            chunk_size=table.chunk_size,
            size=table.size,
            have=partial.have(),
            rng=rng,
            settings=settings.swarm,
        )
        self._settings = settings
        self._priority = priority
        self._budget = budget
        self._share: Share | None = None
        self._told_made = self._told_in_vain = 0  # what the share knows of
        self._told_out: tuple[int, bool] | None = (
            None  # likewise, for as long as nothing is asked for
        )
        self._progress_at = -math.inf
        self._roster = Roster(settings.max_sources)
        self._on_ban = on_ban
        self._on_change = on_change
        self._clock = clock
        self._meter = RateMeter(clock())
        self._flusher = Flusher(partial, settings, self.fail)
        self._lost: dict[str, PeatnetError] = {}  # why each source was lost last
        self._banned: set[str] = set()
        self._over = trio.Event()
        self._error: PeatnetError | None = None
        self._timer = trio.CancelScope()
        self._token = trio.lowlevel.current_trio_token()
        self._arrivals = 0
        self._someone_left = trio.Event()
        self._someone_waits = trio.Event()
        self._events: deque[Event] = deque()
        self._feeding = False
        self._nursery: trio.Nursery | None = None

    async def run(self, sources: list[Source]) -> None:
        """Fetch until every chunk is there.

        Cancellation: all sources are cancelled and waited for.

        Args:
            sources: the first ones; more may come through ``add``.

        Raises:
            NoSource, IntegrityError: see Download.run.
            DiskFull, StorageError: writing or flushing failed.
        """
        try:
            if self._budget is not None:
                self._share = self._budget.join(
                    self._priority, self.partial.table.chunk_size, self._budget_changed
                )
            await self._fetch(sources)
        finally:
            if self._share is not None:
                self._share.leave()
        if self._error is not None:
            raise self._error

    async def _fetch(self, sources: list[Source]) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._tick)
            nursery.start_soon(self._flusher.run)
            nursery.start_soon(self.follower.run)
            nursery.start_soon(self._watch_for_the_end)
            nursery.start_soon(self._take_turns)
            self.feed(Tick())
            for source in sources:
                self.add(source)
            await self._over.wait()
            nursery.cancel_scope.cancel()

    def add(self, source: Source) -> bool:
        """Use one more source, now or when it has its turn; False when it is known or banned, or all is over."""
        name = source.name
        if (
            self._nursery is None
            or self._over.is_set()
            or name in self.links
            or name in self._roster
            or name in self._banned
        ):
            return False
        if source.tier is Tier.PEER and self._roster.full:
            self._roster.wait(source)
            self._someone_waits.set()
        else:
            self._begin(source, self._nursery)
        return True

    def _begin(self, source: Source, nursery: trio.Nursery) -> None:
        name = source.name
        link = Link(self, source, self.partial)
        link.priority = self._priority
        self.links[name] = link
        self._lost.pop(name, None)
        if source.tier is Tier.PEER:
            self._roster.entered(name, self._clock())
        self.feed(SourceJoined(name, source.tier, source.pipeline))
        nursery.start_soon(self._run_source, link, name=f"source {name}")
        self._on_change()

    def set_priority(self, priority: int) -> None:
        """Become more or less urgent, 1 to 5."""
        self._priority = priority
        for link in self.links.values():
            link.priority = priority
        if self._share is not None:
            self._share.set_priority(priority)

    def remove(self, name: str) -> None:
        """Use a source no longer; its ``run`` is cancelled. Unknown names are ignored."""
        self._roster.forget(name)
        if (link := self.links.get(name)) is not None:
            self._lose(link, NoSource(f"{name}: taken away"))

    def rate(self) -> float:
        """Verified bytes a second, smoothed."""
        return self._meter.rate(self._clock())

    # What links call.

    def feed(self, event: Event) -> None:
        """Give the swarm an event and do what it answers; what comes up meanwhile has its turn afterwards."""
        self._events.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._events and not self._over.is_set():
                for action in self.swarm.handle(self._events.popleft(), self._clock()):
                    self._act(action)
        finally:
            self._events.clear()
            self._feeding = False
        if self._over.is_set():
            return
        wakeup = self.swarm.next_wakeup(self._timer.deadline)
        if wakeup is not None:
            self._timer.deadline = wakeup
        if self._share is not None:
            self._report(self._share)

    def chunk_arrived(self, event: ChunkArrived) -> None:
        """The same for a chunk that is on disk now."""
        before = self.swarm.verified_bytes
        self.feed(event)
        if count := self.swarm.verified_bytes - before:
            self._arrivals += 1
            self._progress_at = self._clock()
            self._meter.add(count)
            self._flusher.note(count)
            self.follower.note(count)
            self._on_change()

    def fail(self, error: PeatnetError) -> None:
        """End the whole download with this error. Any thread; the first error counts."""
        self._token.run_sync_soon(self._end, error)

    def _end(self, error: PeatnetError) -> None:
        if not self._over.is_set():
            self._error = error
            self._over.set()

    # The budget.

    def _budget_changed(self, ceiling: int | None, credit: int | None) -> None:
        self.feed(Budget(ceiling, credit))

    def _report(self, share: Share) -> None:
        """Say what was asked for since last time. The share may answer with another budget at once."""
        made = self.swarm.requests_made - self._told_made
        in_vain = self.swarm.requests_in_vain - self._told_in_vain
        self._told_made += made
        self._told_in_vain += in_vain
        out, now = self.swarm.requests_out, self._clock()
        if made and out == made:
            self._progress_at = now  # nothing was out before, so nothing is late yet
        progressing = now - self._progress_at < _STALLED
        if not made and not in_vain and (out, progressing) == self._told_out:
            return  # most news changes nothing that the share wants to know
        self._told_out = out, progressing
        share.requested(made)
        share.requested(-in_vain)
        share.out(out, progressing)

    # Sources.

    async def _run_source(self, link: Link) -> None:
        name = link.source.name
        error: PeatnetError = NoSource(f"{name}: it ended")
        try:
            with link.scope:
                await link.source.run(link)
        except PeatnetError as exc:
            error = exc
        except BaseExceptionGroup as group:
            ours, rest = group.split(PeatnetError)
            if rest is not None:
                raise rest from None  # a bug, or our own cancellation: what it stirred up is no news
            if ours is not None:
                error = most_telling(ours)
        if link.closed:
            return
        if isinstance(error, (NoSource, RemoteProtocolError, IntegrityError)):
            self._lose(link, error)
        else:
            self._end(error)

    def _lose(self, link: Link, error: PeatnetError) -> None:
        _log.info("source lost", source=link.source.name, reason=error.message)
        self._let_go(link.source.name, error)
        self.feed(SourceLost(link.source.name))

    def _let_go(self, name: str, error: PeatnetError) -> None:
        self._lost[name] = without_frames(error)
        if (link := self.links.get(name)) is not None:
            self._end_link(link)
        self._someone_left.set()
        self._fill_places()

    def _end_link(self, link: Link) -> None:
        link.close()
        del self.links[link.source.name]
        self._roster.left(link.source.name)
        self._on_change()

    def _fill_places(self) -> None:
        """Whoever waits takes the places that are free."""
        while (
            self._nursery is not None
            and not self._over.is_set()
            and (source := self._roster.next()) is not None
        ):
            self._begin(source, self._nursery)

    async def _take_turns(self) -> None:
        """Let those who wait for a place have that of who is of little use."""
        while True:
            await self._someone_waits.wait()
            self._someone_waits = trio.Event()
            while self._roster.waiting:
                await trio.sleep(HURRY)
                self._take_a_turn()

    def _take_a_turn(self) -> None:
        missing = self._missing()

        def has_something(name: str) -> bool | None:
            link = self.links.get(name)
            if link is not None and not link.told:
                return None
            return link is not None and bool(link.holds & missing)

        for name in self._roster.of_little_use(
            self.swarm.bytes_by_source, has_something, self._clock()
        ):
            link = self.links.get(name)
            if link is None:
                continue  # the one before took it along
            _log.info("source waits again", source=name)
            self._end_link(link)
            self._roster.wait(link.source)
            self.feed(SourceLost(name))
            self._fill_places()

    def _act(self, action: Action) -> None:
        match action:
            # A link may be gone of which the swarm has not been told yet: what is asked of it comes back then.
            case Request(name, index):
                if (link := self.links.get(name)) is not None:
                    link.push(index)
            case Cancel(name, index):
                if (link := self.links.get(name)) is not None:
                    link.withdraw(index)
            case Drop(name, reason):
                _log.info("source dropped", source=name, reason=reason)
                self._let_go(name, NoSource(f"{name}: {reason}"))
            case Ban(name, reason):
                _log.warning("source banned", source=name, reason=reason)
                self._banned.add(name)
                self._let_go(name, IntegrityError(f"{name}: {reason}"))
                if self._on_ban is not None:
                    self._on_ban(name, reason)
            case Done():
                self._over.set()

    # Time.

    async def _tick(self) -> None:
        """Wake the swarm when it wants to be woken; ``feed`` brings the deadline forward."""
        while True:
            wakeup = self.swarm.next_wakeup()
            self._timer = trio.CancelScope(deadline=math.inf if wakeup is None else wakeup)
            with self._timer:
                await trio.sleep(math.inf)
            self.feed(Tick())

    async def _watch_for_the_end(self) -> None:
        """Give up when there was nothing to be had for too long."""
        seen, since = -1, self._clock()
        while not self._over.is_set():
            wait, patience = _LOOK, self._patience()
            if patience and (self._arrivals != seen or self._could_get_something()):
                seen, since = self._arrivals, self._clock()
            elif (left := since + patience - self._clock()) > 0:
                wait = min(wait, left)
            else:
                self._end(self._no_source())
            with trio.move_on_after(wait):
                await self._someone_left.wait()
            self._someone_left = trio.Event()

    def _patience(self) -> float:
        """Peers come and go; an HTTP server that was given up does not come back by itself."""
        if Tier.PEER not in self._settings.swarm.tiers and self._lost and not self.links:
            return 0.0
        return self._settings.give_up_after

    def _could_get_something(self) -> bool:
        """Whether a living source has a chunk that is missing."""
        missing = self._missing()
        return any(link.holds & missing for link in self.links.values())

    def _missing(self) -> int:
        everything = (1 << self.partial.table.n_chunks) - 1
        return everything ^ int.from_bytes(self.swarm.have(), "little")

    def _no_source(self) -> PeatnetError:
        return give_up_error(
            blob=self.partial.hash.hex(),
            missing=self.swarm.missing,
            n_chunks=self.partial.table.n_chunks,
            waited=self._patience(),
            lost=self._lost,
            alive=list(self.links),
        )
