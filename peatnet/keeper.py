"""The keeper: runs fetches, one for each blob at a time, and starts by itself those that the policy wants.

A fetch is shared by all who wait for it. One that nobody waits for any more ends, unless the policy wants the
model anyway. What a person asked for is an intent on disk first, so that it goes on after a crash; a node that
starts again tries its intents until they are done, withdrawn, or hopeless.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from peatnet.blobs import Hash
from peatnet.concurrency import Stirring, cancellable, first_error
from peatnet.errors import (
    HttpSourceError,
    IntegrityError,
    LocalProtocolError,
    NoSource,
    PeatnetError,
)
from peatnet.fetching import REPORT_INTERVAL, USUAL_PRIORITY, BlobFetch
from peatnet.intents import Intents
from peatnet.jobs import Job, fetch_name, retry_key, share_of
from peatnet.log import get_logger
from peatnet.policy import Policy
from peatnet.retrying import LONGEST_RETRY, Retries
from peatnet.small_fetch import SmallFetches
from peatnet.states import Intent
from peatnet.views import SourceChoice

if TYPE_CHECKING:
    # libp2p brings trio-typing, whose stubs hide trio's own types from the type checker.
    import random
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from trio_typing import TaskStatus

    from peatnet.blobs import BlobInfo
    from peatnet.deploy.probe import HardwareProbe
    from peatnet.library import Library
    from peatnet.small_fetch import Member
    from peatnet.states import Key
    from peatnet.tables import Peers
    from peatnet.targets import Model, Target
    from peatnet.transfer.budget import DownloadBudget
    from peatnet.views import Progress

# Fetches that run at once by themselves; what people ask for comes on top.
PARALLEL_FETCHES = 4
# A look at all models is followed by so many times its own length without one (s at most): thousands of records that
# come in one by one must not keep the node busy with looking.
REST_AFTER_LOOK = 9.0
LONGEST_REST = 1.0

log = get_logger(__name__)


class Keeper:
    """Fetches for one node.

    Args:
        library: the node's models and store.
        peers: the network; None without one.
        rng: breaks ties, spreads retries.
        budget: what the downloads of the node share; None for no bounds.
        lasting: whether what is asked for and not done is taken up again when the node next starts.
        on_change: called with a model whose state has changed.
        on_blob: called with a blob of which the first chunk, or all, has come.
    """

    def __init__(
        self,
        library: Library,
        peers: Peers | None,
        rng: random.Random,
        *,
        budget: DownloadBudget | None = None,
        lasting: bool,
        on_change: Callable[[Model], None],
        on_blob: Callable[[Hash], None],
    ) -> None:
        self._library = library
        self._peers = peers
        self._rng = rng
        self._budget = budget
        self._lasting = lasting
        self._on_change = on_change
        self._on_blob = on_blob
        self._jobs: dict[str, Job] = {}
        self._retries = Retries(rng)
        # Names that somebody sees to, and how many do: the policy leaves them alone.
        self._claims: Counter[str] = Counter()
        self._intents = Intents(library.states)
        self._policy = Policy(library)
        self._wake = trio.Event()
        # Something has changed since the last look at all models; otherwise the next ones of the queue are started.
        self._changed = True
        # What was wanted and due at the last look, but found no room.
        self._queue: deque[tuple[Target, SourceChoice]] = deque()
        self._groups = SmallFetches(library, peers, rng, budget)
        self._nursery: trio.Nursery | None = None

    def progress(self, model: Model) -> Progress | None:
        """How far the fetch of a model is; None where none runs."""
        job = self._jobs.get(fetch_name(model, self._library.blob_of(model)))
        return job.fetch.progress if job is not None else None

    @property
    def is_fetching(self) -> bool:
        """Whether any fetch runs."""
        return bool(self._jobs)

    def fetching_models(self) -> set[Key]:
        """The models that fetches run for."""
        return {job.target.model.key for job in self._jobs.values() if job.target.model is not None}

    @property
    def hardware(self) -> HardwareProbe:
        """What this machine has, as models are held against it."""
        return self._policy.hardware

    def fetching(self) -> set[Hash]:
        """The blobs that are being fetched, or were asked for and will be."""
        return {Hash.parse(name) for name in (*self._jobs, *self._intents.left) if "/" not in name}

    def wake(self, *, peers: bool = False) -> None:
        """Something changed that may matter: a record, trust, or (``peers``) who is there to ask."""
        if peers:
            for job in self._jobs.values():
                job.stirring.stir()
            self._retries.hurry()
        self._look_again()

    def wake_for(self, blob: Hash) -> None:
        """A peer says that it has (some of) this blob."""
        name = blob.hex()
        if (job := self._jobs.get(name)) is not None:
            job.stirring.stir()
        self._groups.again(name)
        if self._retries.hurry(name.__eq__):
            self._look_again()

    async def get(
        self,
        target: Target,
        choice: SourceChoice,
        report: Callable[[Progress], None] | None,
        *,
        priority: int = USUAL_PRIORITY,
        noted: bool = True,
    ) -> tuple[BlobInfo, dict[str, int]]:
        """Fetch what somebody waits for.

        Where it is ``noted``, a node that ends before it is done goes on when it is back; an update command sees to that
        itself.

        A fetch that runs already is joined, unless it may not use the sources that are wanted: then it ends, and
        those who wait for it hear that it was stopped. Of those who wait for one fetch, the most urgent counts.

        Cancellation: the fetch ends too, unless others wait for it or the policy wants it.

        Returns:
            The verified blob, and the bytes that each source gave.

        Raises:
            PeatnetError: as :meth:`BlobFetch.run` raises.
        """
        name = fetch_name(target.model, target.blob)
        self._claims[name] += 1
        try:
            if self._lasting and noted:
                await self._intents.note(Intent(name, choice, priority))
            job = await self._followed(name, target, choice, report, priority)
            if job.error is not None and retry_key(job.target) != retry_key(target):
                # It went by another manifest, which may be wrong where this one is right.
                job = await self._followed(name, target, choice, report, priority)
        finally:
            self._unclaim(name)
            if name not in self._claims:
                if noted:
                    self._intents.give_up(name)
                running = self._jobs.get(name)
                if running is not None and not self._wanted_anyway(running):
                    self._cancel(running)
        if job.error is not None:
            raise job.error
        if job.info is None:
            raise NoSource(f"the fetch of {name} was stopped", hint="ask again")
        info = await self._checked(target, job.info)
        return info, job.fetch.progress.bytes_by_source

    async def _followed(
        self,
        name: str,
        target: Target,
        choice: SourceChoice,
        report: Callable[[Progress], None] | None,
        priority: int,
    ) -> Job:
        """A fetch that runs and will do, or a new one, after it has ended."""
        while (job := self._jobs.get(name)) is not None:
            if choice in {SourceChoice.ANY, job.choice} and not job.scope.cancel_called:
                break
            self._cancel(job)  # the new wish goes before the old one; what is here already stays
            await job.done.wait()
        else:
            job = self._start(name, target, choice)
        with job.asked_for(priority):
            while not job.done.is_set():
                if report is not None:
                    report(job.fetch.progress)
                with trio.move_on_after(REPORT_INTERVAL):
                    await job.done.wait()
        if report is not None:
            report(job.fetch.progress)
        if job.left_over:
            return await self._followed(name, target, choice, report, priority)
        return job

    @asynccontextmanager
    async def stopped(self, target: Target) -> AsyncIterator[None]:
        """No fetch of this target runs, and the policy starts none, for as long as the context lasts.

        Where the context ends well, the target is not asked for any more.
        """
        name = fetch_name(target.model, target.blob)
        with self.claimed(name):
            if (job := self._jobs.get(name)) is not None:
                self._cancel(job)
                await job.done.wait()
            yield
            self._intents.give_up(name)

    @contextmanager
    def claimed(self, *names: str) -> Iterator[None]:
        """The policy starts no fetch of these names for as long as the context lasts: somebody sees to them."""
        self._claims.update(names)
        try:
            yield
        finally:
            self._unclaim(*names)

    def _unclaim(self, *names: str) -> None:
        self._claims.subtract(names)
        self._claims += Counter()  # drops those at zero
        self._look_again()

    def _look_again(self) -> None:
        self._changed = True
        self._wake.set()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Fetch what the policy and the intents want, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._peers is None:
                task_status.started()
                await trio.sleep_forever()
            if self._lasting:
                await self._intents.load()
            # Asking the drivers may take a second.
            await trio.to_thread.run_sync(self._policy.hardware.lasting)
            task_status.started()
            rested = soonest = -math.inf
            while True:
                self._wake = trio.Event()
                await self._intents.strike(self._claims)
                now = trio.current_time()
                if now >= soonest or (self._changed and now >= rested):
                    self._changed = False
                    began = time.perf_counter()
                    soonest = self._start_due()
                    took = time.perf_counter() - began
                    rested = now + min(LONGEST_REST, REST_AFTER_LOOK * took)
                else:
                    self._start_queued()
                with trio.move_on_at(min(soonest, rested) if self._changed else soonest):
                    await self._wake.wait()

    def _start_due(self) -> float:
        """Start what is wanted and due, end what is not wanted any more; returns when to look again."""
        now = trio.current_time()
        soonest = now + LONGEST_RETRY
        models = self._library.models()
        wanted = [(target, SourceChoice.ANY) for target in self._policy.wanted(models)]
        if self._jobs:
            self._end_unwanted(
                {fetch_name(model, self._library.blob_of(model)) for model in models},
                {fetch_name(target.model, target.blob) for target, _ in wanted},
            )
        for name, intent in list(self._intents.left.items()):
            intended = self._policy.intended(name)
            if intended is not None:
                wanted.insert(0, (intended, intent.source))
            elif name not in self._jobs:
                self._intents.give_up(name)
                self._look_again()
        self._retries.keep(retry_key(target) for target, _ in wanted)
        # Those that failed least go first, or models that nobody has could take up all places for good.
        wanted.sort(key=lambda item: self._retries.of(retry_key(item[0])).failures)
        self._queue.clear()
        for target, choice in wanted:
            name, retry = fetch_name(target.model, target.blob), self._retries.of(retry_key(target))
            if (job := self._jobs.get(name)) is not None:
                # Of two models with one blob, the other's turn comes when this fetch has ended.
                job.look_after |= retry_key(job.target) != retry_key(target)
                continue
            if name in self._claims:
                continue
            if retry.due > now:
                soonest = min(soonest, retry.due)
            elif name in self._intents.left:
                self._start(name, target, choice)
            else:
                self._queue.append((target, choice))
        self._queue = self._groups.pick(self._queue)
        self._start_queued()
        return soonest

    def _start_queued(self) -> None:
        """Start the next of those that were wanted and due at the last look, as far as there is room."""
        while self._queue and self._has_room(self._queue[0][0]):
            target, choice = self._queue.popleft()
            if self._may_start(target):
                self._start(fetch_name(target.model, target.blob), target, choice)
        while self._nursery is not None and (group := self._groups.begin(self._may_start)):
            jobs = [
                self._start(member.key[0], member.target, SourceChoice.ANY, member)
                for member in group
            ]
            self._nursery.start_soon(self._run_group, group, jobs)

    def _may_start(self, target: Target) -> bool:
        """Whether one of the queue is to be started still."""
        name, model = fetch_name(target.model, target.blob), target.model
        if (job := self._jobs.get(name)) is not None:
            job.look_after = True
        taken = job is not None or name in self._claims
        # What has changed since the last look may not have been looked at yet.
        return (
            model is not None
            and not taken
            and self._policy.counts(model)
            and self._policy.wants(model)
        )

    def _end_unwanted(self, live: set[str], wanted: set[str]) -> None:
        """End what was withdrawn or replaced by a newer record, and what only a policy wanted that has changed."""
        for job in list(self._jobs.values()):
            if job.target.model is not None and job.name not in live:
                self._intents.give_up(job.name)
                self._cancel(job)
            elif not self._is_asked_for(job.name) and job.name not in wanted:
                self._cancel(job)

    def _is_asked_for(self, name: str) -> bool:
        return name in self._claims or name in self._intents.left

    def _has_room(self, target: Target) -> bool:
        """Whether one more fetch may run by itself."""
        taken = sum(
            share_of(job.target)
            for name, job in self._jobs.items()
            if job.member is None and not self._is_asked_for(name)
        )
        return taken + share_of(target) <= PARALLEL_FETCHES

    def _wanted_anyway(self, job: Job) -> bool:
        if job.name in self._intents.left:
            return True
        return (
            self._peers is not None
            and job.target.model is not None
            and self._policy.wants(job.target.model)
        )

    def _start(
        self, name: str, target: Target, choice: SourceChoice, member: Member | None = None
    ) -> Job:
        if self._nursery is None:
            raise LocalProtocolError("the keeper does not run")
        stirring = Stirring()
        fetch = BlobFetch(
            target,
            choice,
            store=self._library.store,
            peers=self._peers,
            config=self._library.config,
            rng=self._rng,
            budget=self._budget,
            stirring=stirring,
            on_chunks=self._on_blob,
        )
        priority = self._intents.priority_of(name)
        job = self._jobs[name] = Job(name, target, choice, fetch, stirring, priority, member=member)
        job.look_after = member is not None and member.twin
        if member is None:
            log.info("fetching", target=str(target.model or target.blob), source=choice.value)
            self._nursery.start_soon(self._run_job, job)
        if target.model is not None:
            self._on_change(target.model)
        return job

    async def _run_job(self, job: Job) -> None:
        try:
            with job.scope:
                try:
                    job.info = await self._fetch(job)
                except* PeatnetError as group:
                    job.error = first_error(group)
                except* (
                    Exception
                ):  # our bug, set off by somebody's bytes: one fetch must not end the node
                    log.exception("fetch failed", target=str(job.target.model or job.target.blob))
                    job.error = PeatnetError("a bug in peatnet ended the fetch; the log has it")
                if job.error is not None:
                    await self._failed(job, job.error)
                elif job.info is not None:
                    self._intents.give_up(job.name)
        finally:
            self._end(job)

    async def _run_group(self, group: Sequence[Member], jobs: Sequence[Job]) -> None:
        """Run the jobs of a group of small blobs, which have no task of their own."""
        try:
            await self._groups.run(group)
        finally:
            for member, job in zip(group, jobs, strict=True):
                if job.done.is_set():
                    continue
                if member.info is not None and not job.scope.cancel_called:
                    job.info = member.info
                    job.fetch.came_whole(member.info, member.source)
                    self._retries.done(member.key)
                    self._on_blob(member.blob)
                    self._intents.give_up(job.name)
                # Of those that were not had, the next look starts the ordinary fetch.
                self._end(job)

    def _cancel(self, job: Job) -> None:
        """End a fetch soon: at once, unless it is on its way to the disk, where it is in a group."""
        job.scope.cancel()
        if job.member is not None and not job.done.is_set():
            job.member.wanted = False
            if not job.member.storing:
                self._end(job)

    def _end(self, job: Job) -> None:
        del self._jobs[job.name]
        job.done.set()
        self._changed |= job.look_after or job.info is None
        self._wake.set()
        if job.target.model is not None:
            self._on_change(job.target.model)

    async def _checked(self, target: Target, info: BlobInfo) -> BlobInfo:
        return await trio.to_thread.run_sync(self._library.checked, target, info, cancellable())

    async def _fetch(self, job: Job) -> BlobInfo:
        model = job.target.model
        info = await self._checked(job.target, await job.fetch.run())
        if model is not None:
            await trio.to_thread.run_sync(self._library.set_ready, model, info)
        self._retries.done(retry_key(job.target))
        self._on_blob(info.hash)
        log.info("verified", target=str(model or info.hash), bytes=info.size, blob=info.hash.hex())
        return info

    async def _failed(self, job: Job, error: PeatnetError) -> None:
        model, what = job.target.model, str(job.target.model or job.target.blob)
        log.warning("fetch failed", target=what, error=str(error))
        try:
            hopeless = isinstance(error, IntegrityError) and not await self._left_something(job)
            # "Nobody is there", or nobody but those who sent wrong bytes, mends itself and is tried again soon;
            # anything else may need a person. A manifest that contradicts its file stays wrong: only a new record,
            # or somebody who asks, is worth another try.
            lasting = hopeless or not isinstance(error, (NoSource, IntegrityError))
            lasting = lasting or isinstance(error, HttpSourceError)
            self._retries.failed(retry_key(job.target), lasting=lasting, hopeless=hopeless)
            if hopeless:
                self._intents.give_up(job.name)
            if model is not None:
                note = partial(self._library.set_failed, model, str(error), failed=lasting)
                await trio.to_thread.run_sync(note)
        except PeatnetError as exc:
            log.warning("state not kept", target=what, error=exc.message)

    async def _left_something(self, job: Job) -> bool:
        """Whether what was fetched stayed: it does unless the whole contradicted the manifest."""
        blob, store = job.target.blob, self._library.store
        if blob is None:
            return False
        return await trio.to_thread.run_sync(store.partial_table, blob) is not None
