"""The keeper: runs fetches, one for each blob at a time, and starts by itself those that the policy wants.

A fetch is shared by all who wait for it. One that nobody waits for any more ends, unless the policy wants the
model anyway. What a person asked for is an intent on disk first, so that it goes on after a crash.
"""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import trio

from peatnet.concurrency import Stirring
from peatnet.config import FetchPolicy
from peatnet.errors import (
    HttpSourceError,
    IntegrityError,
    LocalProtocolError,
    NoSource,
    PeatnetError,
    StorageError,
)
from peatnet.fetching import BlobFetch, Peers
from peatnet.library import LocalState, Target, check_against
from peatnet.log import get_logger
from peatnet.views import SourceChoice

if TYPE_CHECKING:
    # libp2p brings trio-typing, whose stubs hide trio's own types from the type checker.
    import random
    from collections.abc import Callable

    from trio_typing import TaskStatus

    from peatnet.blobs import BlobInfo, Hash
    from peatnet.library import Library, Model
    from peatnet.views import Progress

FIRST_RETRY = 2.0
LONGEST_RETRY = 300.0
# Fetches that run at once by themselves; what people ask for comes on top.
PARALLEL_FETCHES = 4

log = get_logger(__name__)


@dataclass(slots=True)
class Job:
    """One fetch that runs, or is about to."""

    name: str
    target: Target
    choice: SourceChoice
    fetch: BlobFetch
    asked_for: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    info: BlobInfo | None = None
    error: PeatnetError | None = None
    waiters: int = 0


@dataclass(slots=True)
class _Retry:
    failures: int = 0
    due: float = 0.0
    lasting: bool = False


class Keeper:
    """Fetches for one node.

    Args:
        library: the node's models and store.
        peers: the network; None without one.
        rng: breaks ties, spreads retries.
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
        lasting: bool,
        on_change: Callable[[Model], None],
        on_blob: Callable[[Hash], None],
    ) -> None:
        self._library = library
        self._peers = peers
        self._rng = rng
        self._lasting = lasting
        self._given_up: set[str] = set()
        self._on_change = on_change
        self._on_blob = on_blob
        self._jobs: dict[str, Job] = {}
        self._retries: dict[tuple[str, bytes], _Retry] = {}
        self._stirring = Stirring()
        self._wake = trio.Event()
        self._nursery: trio.Nursery | None = None

    def progress(self, model: Model) -> Progress | None:
        """How far the fetch of a model is; None where none runs."""
        job = self._jobs.get(_name(model, self._library.blob_of(model)))
        return job.fetch.progress if job is not None else None

    def is_fetching(self, blob: Hash) -> bool:
        """Whether a fetch of this blob runs."""
        return blob.hex() in self._jobs

    def wake(self, *, peers: bool = False) -> None:
        """Something changed that may matter: a record, trust, or (``peers``) who is there to ask."""
        if peers:
            self._stirring.stir()
            for retry in self._retries.values():
                if not retry.lasting:
                    retry.due = min(retry.due, trio.current_time() + FIRST_RETRY)
        self._wake.set()

    async def get(
        self,
        target: Target,
        choice: SourceChoice,
        report: Callable[[Progress], None] | None,
    ) -> tuple[BlobInfo, dict[str, int]]:
        """Fetch what somebody waits for.

        Cancellation: the fetch ends too, unless others wait for it or the policy wants it.

        Returns:
            The verified blob, and the bytes that each source gave.

        Raises:
            PeatnetError: as :meth:`BlobFetch.run` raises.
        """
        name = _name(target.model, target.blob)
        if self._lasting:
            await trio.to_thread.run_sync(self._library.add_intent, name, choice.value)
        job = self._jobs.get(name)
        if job is not None and choice not in {SourceChoice.ANY, job.choice}:
            # The new wish goes before the old one; what is here already stays.
            job.scope.cancel()
            await job.done.wait()
            job = None
        if job is None:
            job = self._start(name, target, choice, asked_for=True)
        job.waiters += 1
        try:
            while not job.done.is_set():
                if report is not None:
                    report(job.fetch.progress)
                with trio.move_on_after(0.1):
                    await job.done.wait()
        finally:
            job.waiters -= 1
            # Not here: when the node stops, everybody is cancelled, and what was asked for must stay on disk.
            self._given_up.add(name)
            self._wake.set()
            if not job.waiters and not self._wanted_anyway(job):
                job.scope.cancel()
        if report is not None:
            report(job.fetch.progress)
        if job.error is not None:
            raise job.error
        if job.info is None:
            raise NoSource(f"the fetch of {name} was stopped", hint="ask again")
        return job.info, job.fetch.progress.bytes_by_source

    async def stop(self, target: Target) -> None:
        """End the fetch of this target, if one runs, and wait until it has ended."""
        job = self._jobs.get(_name(target.model, target.blob))
        if job is not None:
            job.scope.cancel()
            await job.done.wait()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Fetch what the policy and the intents want, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            if self._peers is None:
                await trio.sleep_forever()
            self._resume_intents()
            while True:
                self._wake = trio.Event()
                while self._given_up:
                    await trio.to_thread.run_sync(self._library.drop_intent, self._given_up.pop())
                soonest = self._start_due()
                with trio.move_on_at(soonest):
                    await self._wake.wait()

    def _resume_intents(self) -> None:
        for name, choice in self._library.intents():
            try:
                target = self._library.find(name.rpartition("/")[2])
            except PeatnetError as exc:
                log.info("intent dropped", target=name, reason=exc.message)
                self._library.drop_intent(name)
                continue
            if name not in self._jobs:
                self._start(name, target, SourceChoice(choice), asked_for=True)

    def _start_due(self) -> float:
        """Start what is wanted and due; returns when to look again."""
        now = trio.current_time()
        soonest = now + LONGEST_RETRY
        live = {_name(model, self._library.blob_of(model)) for model in self._library.models()}
        for job in self._jobs.values():
            if job.target.model is not None and job.name not in live:
                job.scope.cancel()  # withdrawn, or replaced by a newer record
        for target in self._wanted():
            name = _name(target.model, target.blob)
            if name in self._jobs or len(self._jobs) >= PARALLEL_FETCHES:
                continue
            retry = self._retries.get(_retry_key(target))
            if retry is not None and retry.due > now:
                soonest = min(soonest, retry.due)
                continue
            self._start(name, target, SourceChoice.ANY, asked_for=False)
        return soonest

    def _wanted(self) -> list[Target]:
        return [
            Target(model, self._library.blob_of(model))
            for model in self._library.models()
            if self._wants(model)
        ]

    def _wants(self, model: Model) -> bool:
        config = self._library.config
        if config.fetch is FetchPolicy.NONE or not model.trusted:
            return False
        state = self._library.state(model)
        if state.removed or self._library.ready_info(model) is not None:
            return False
        if config.fetch is FetchPolicy.ALL:
            return True
        ram_mb = psutil.virtual_memory().total // (1024 * 1024)
        return model.manifest.can_run_on(config.hardware.vram_mb, ram_mb, _architecture())

    def _wanted_anyway(self, job: Job) -> bool:
        return (
            self._peers is not None
            and job.target.model is not None
            and self._wants(job.target.model)
        )

    def _start(self, name: str, target: Target, choice: SourceChoice, *, asked_for: bool) -> Job:
        if self._nursery is None:
            raise LocalProtocolError("the keeper does not run")
        fetch = BlobFetch(
            target,
            choice,
            store=self._library.store,
            peers=self._peers,
            config=self._library.config,
            rng=self._rng,
            stirring=self._stirring,
            on_chunks=self._on_blob,
        )
        job = self._jobs[name] = Job(name, target, choice, fetch, asked_for)
        log.info("fetching", target=str(target.model or target.blob), source=choice.value)
        self._nursery.start_soon(self._run_job, job)
        if target.model is not None:
            self._on_change(target.model)
        return job

    async def _run_job(self, job: Job) -> None:
        model = job.target.model
        try:
            with job.scope:
                info = await self._fetch(job)
                self._retries.pop(_retry_key(job.target), None)
                job.info = info
                if job.asked_for:
                    self._given_up.add(job.name)
        except* PeatnetError as group:
            job.error = _first(group)
            await self._failed(job, job.error)
        finally:
            del self._jobs[job.name]
            job.done.set()
            self._wake.set()
            if model is not None:
                self._on_change(model)

    async def _fetch(self, job: Job) -> BlobInfo:
        model = job.target.model
        info = await job.fetch.run()
        if model is not None:
            wrong = check_against(model.manifest, info)
            if wrong is not None:
                raise IntegrityError(f"{model}: {wrong}", hint="the manifest is wrong")
            await trio.to_thread.run_sync(self._library.set_ready, model, info)
        self._on_blob(info.hash)
        log.info("verified", target=str(model or info.hash), bytes=info.size, blob=info.hash.hex())
        return info

    async def _failed(self, job: Job, error: PeatnetError) -> None:
        retry = self._retries.setdefault(_retry_key(job.target), _Retry())
        retry.failures += 1
        # "Nobody is there" mends itself and is tried again soon; anything else may need a person. A manifest that
        # contradicts its file stays wrong: only a new record, or somebody who asks, is worth another try.
        lasting = not isinstance(error, NoSource) or isinstance(error, HttpSourceError)
        delay = FIRST_RETRY * 2.0 ** min(retry.failures + (3 if lasting else -1), 8)
        if isinstance(error, IntegrityError):
            delay = math.inf
        else:
            delay = min(LONGEST_RETRY, delay) * self._rng.uniform(0.75, 1.25)
        retry.due = trio.current_time() + delay
        retry.lasting = lasting
        log.warning(
            "fetch failed", target=str(job.target.model or job.target.blob), error=str(error)
        )
        if job.target.model is not None and self._library.ready_info(job.target.model) is None:
            state = LocalState(
                blob=self._library.state(job.target.model).blob, error=str(error), failed=lasting
            )
            try:
                await trio.to_thread.run_sync(self._library.remember, job.target.model, state)
            except StorageError as exc:
                log.warning("state not kept", model=str(job.target.model), error=exc.message)


def _architecture() -> str:
    """This machine's architecture, by the names that manifests use (those of Linux)."""
    machine = platform.machine()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine)


def _name(model: Model | None, blob: Hash | None) -> str:
    """A fetch's name: the blob's, or (a manifest that names none) the model's."""
    if blob is not None:
        return blob.hex()
    if model is None:
        raise LocalProtocolError("a target without a model and without a blob")
    return f"{model.publisher}/{model.record.key}"


def _retry_key(target: Target) -> tuple[str, bytes]:
    """What failed: a fetch as one record describes it; a newer record starts with a clean slate."""
    record = target.model.record.id if target.model is not None else b""
    return _name(target.model, target.blob), record


def _first(group: BaseExceptionGroup[PeatnetError]) -> PeatnetError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise LocalProtocolError("an empty exception group")
