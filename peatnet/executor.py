"""The executor: carries out update commands on this node, each once, also over restarts.

``deploy.orders`` says which commands are to be followed, from the catalogue and from what has ended here; each that is
gets a task. A task waits for the model's manifest, has the keeper fetch the model, and has the activator put it into
service. All that matters is on disk: the commands are in the catalogue, how far they are is in ``OrderTable``, an
activation that has begun is the activator's. So a node that was killed begins each task again, and what was done is found
done. A command that is not to be followed any more is let go while it is being fetched; once it is being put into
service, that is carried to its end, unless its publisher has canceled it. What had begun in an earlier run of the node and is
not to be followed any more is brought to an end as well: by what the activator says of it, or it is forgotten.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from peatnet.concurrency import Stirring
from peatnet.deploy.activator import CANCELED, REMOVED
from peatnet.deploy.hardware import shortfalls
from peatnet.deploy.orders import Decision, Directive, judge
from peatnet.errors import PeatnetError
from peatnet.log import get_logger
from peatnet.models import ModelStatus
from peatnet.net.node_status import CommandOutcome
from peatnet.order_table import OrderEntry, OrderState, OrderTable
from peatnet.ordered import NO_MANIFEST, Ordered, explain
from peatnet.records import RecordType, decode_command
from peatnet.telling import Teller
from peatnet.views import SourceChoice

if TYPE_CHECKING:
    # libp2p brings trio-typing, whose stubs hide trio's own types from the type checker.
    import random
    from collections.abc import AsyncIterator, Callable

    from trio_typing import TaskStatus

    from peatnet.deploy.activation import Outcome
    from peatnet.deploy.orders import Judgment
    from peatnet.keeper import Keeper
    from peatnet.library import Library
    from peatnet.models import ModelManifest, ModelUpdateCommand
    from peatnet.net.node_status import CommandReport
    from peatnet.ordered import OrderedModel
    from peatnet.records import Record
    from peatnet.targets import Model

# After a fetch that failed: the first wait, and the longest. A peer that comes shortens all but the first.
FIRST_RETRY: Final = 2.0
LONGEST_RETRY: Final = 300.0
# After the disk refused that a command that is not followed any more be stopped, or brought to an end.
LOOK_AGAIN: Final = 10.0

log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Run:
    """One command that is being carried out."""

    directive: Directive
    command: ModelUpdateCommand
    entry: OrderEntry
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    stirring: Stirring = field(default_factory=Stirring)
    activating: bool = False
    removed: bool | None = None  # whether the model had been removed by hand before
    told: tuple[CommandOutcome, str] | None = None


class Executor:
    """Update commands for one node.

    Args:
        library: the node's models, what it has heard, and what is in service.
        keeper: fetches.
        rng: spreads retries.
        tell: called with how far a command is.
        on_model: called with a model whose state has changed.
    """

    def __init__(
        self,
        library: Library,
        keeper: Keeper,
        rng: random.Random,
        *,
        tell: Callable[[CommandReport], None],
        on_model: Callable[[Model], None],
    ) -> None:
        self._library = library
        self._keeper = keeper
        self._rng = rng
        self._on_model = on_model
        self._ordered = Ordered(library)
        self._table = OrderTable(library.database)
        self._teller = Teller(self._table, tell)
        self._runs: dict[Directive, _Run] = {}
        # What is being brought to an end without having been carried out, by name.
        self._closing: set[tuple[str, str, str]] = set()
        self._directives: dict[bytes, Directive] = {}  # by record id: bodies are read once
        self._wake = trio.Event()
        # Held while something is put into service: until then, a command can be let go.
        self._turn = trio.Lock()

    def wake(self, *, peers: bool = False) -> None:
        """Something changed that may matter: a record, trust, or (``peers``) who is there to ask."""
        self._wake.set()
        for run in self._runs.values() if peers else ():
            run.stirring.stir()

    def entries(self) -> list[OrderEntry]:
        """What became of the commands that were followed here, oldest first."""
        return self._table.entries()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Finish what was interrupted, and follow commands, until cancelled."""
        # Asking the drivers may take a second.
        await trio.to_thread.run_sync(self._keeper.hardware.lasting)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._recover)
            task_status.started()
            while True:
                self._wake = trio.Event()
                done = await self._look(nursery)
                with trio.move_on_after(float("inf") if done else LOOK_AGAIN):
                    await self._wake.wait()

    async def _recover(self) -> None:
        async with self._turn:
            try:
                await self._library.activator.recover()
                await trio.to_thread.run_sync(self._tidy)
            except PeatnetError as exc:
                log.error("models in service not restored", error=exc.message)  # noqa: TRY400  # no bug

    def _tidy(self) -> None:
        self._library.tidy_names()
        self._ordered.tidy()

    # Deciding

    async def _look(self, nursery: trio.Nursery) -> bool:
        """Begin what is to be done, and let go of what is not any more; False: something of that has to be tried again."""
        judged = judge(
            self._heard(),
            node_id=self._library.identity.peer_id,
            marks=self._table.marks(),
            is_trusted=self._library.ledger.is_trusted,
            shortfalls=self._shortfalls,
        )
        canceled = {item.name for item in judged if item.command is None}
        self._teller.judged(judged)
        done = True
        for run in list(self._runs.values()):
            judgment = judged.get(run.directive)
            if judgment is not None and judgment.decision is Decision.FOLLOW:
                continue
            if not run.activating:
                run.scope.cancel()
            elif run.directive.name in canceled:
                done = await self._stop(run.entry) and done
        self._close_left(nursery, {item.name: each for item, each in judged.items()}, canceled)
        # A command's last version may be ending still.
        running = {run.directive.name for run in self._runs.values()}
        # How an activation ended is not known any more once another one of its model has ended.
        waits_for = {model_id for _, model_id, _ in self._closing}
        for item, judgment in judged.items():
            if item.command is None or judgment.decision is not Decision.FOLLOW:
                continue
            if item.name not in running and item.model_id not in waits_for:
                self._begin(nursery, item, item.command)
        return done

    def _shortfalls(self, manifest: ModelManifest) -> list[str]:
        # Of the disk the store judges, when the model is fetched: it may be here, and room may be made.
        return shortfalls(manifest, self._keeper.hardware.lasting(), missing_bytes=0)

    def _heard(self) -> list[Directive]:
        """The commands and cancellations in the catalogue."""
        records = self._library.ledger.catalogue.commands()
        known = self._directives
        self._directives = {
            record.id: known.get(record.id) or directive_of(record) for record in records
        }
        return list(self._directives.values())

    # What is not followed any more

    async def _stop(self, entry: OrderEntry) -> bool:
        """Have the activator give up what a canceled command ordered; False: the disk refused to note it."""
        try:
            await self._library.activator.cancel(entry.model_id, entry.order[1].hex())
        except PeatnetError as exc:
            log.error("command not canceled", command=entry.command_id, error=exc.message)  # noqa: TRY400  # no bug
            return False
        return True

    def _close_left(
        self,
        nursery: trio.Nursery,
        judged: dict[tuple[str, str, str], Judgment],
        canceled: set[tuple[str, str, str]],
    ) -> None:
        """Bring to an end what had begun here, perhaps in an earlier run of the node, and is not followed any more."""
        busy = self._closing | {run.directive.name for run in self._runs.values()}
        for entry in self._table.entries():
            if not entry.is_open or entry.name in busy:
                continue
            judgment = judged.get(entry.name)
            decision = judgment.decision if judgment is not None else None
            if decision is Decision.FOLLOW:
                continue
            # One that only waited may be followed again, when the newer one is canceled, or its publisher trusted.
            over = entry.name in canceled or decision in {None, Decision.OLDER}
            if over or entry.state is OrderState.ACTIVATING:
                self._closing.add(entry.name)
                nursery.start_soon(self._close, entry, entry.name in canceled)

    async def _close(self, entry: OrderEntry, canceled: bool) -> None:  # noqa: FBT001  # of a task
        try:
            await self._bring_to_end(entry, canceled=canceled)
        except PeatnetError as exc:
            log.error("command not ended", command=entry.command_id, error=exc.message)  # noqa: TRY400  # no bug
            await trio.sleep(LOOK_AGAIN)
        finally:
            self._closing.discard(entry.name)
            self._wake.set()

    async def _bring_to_end(self, entry: OrderEntry, *, canceled: bool) -> None:
        """Note what has become of a command that no task carries out.

        Raises:
            DiskFull, StorageError: it cannot be written down.
        """
        outcome = None
        if entry.state is OrderState.ACTIVATING:
            # Its activation may have ended, may be going on, or may never have begun: the activator knows.
            activator, command = self._library.activator, entry.order[1].hex()
            if canceled:
                await activator.cancel(entry.model_id, command)
            async with self._turn:
                outcome = await activator.finish(entry.model_id, command)
        if outcome is not None:
            await self._settle(entry, outcome)
        elif canceled:
            await self._end(entry, OrderState.CANCELED)
        else:
            await trio.to_thread.run_sync(self._table.forget, entry)

    # Carrying out

    def _begin(self, nursery: trio.Nursery, item: Directive, command: ModelUpdateCommand) -> None:
        entry = OrderEntry(*item.name, command.manifest.version, item.order, OrderState.BEGUN)
        known = self._table.get(item)
        if known is not None and known.order == item.order:
            entry = known
        run = self._runs[item] = _Run(item, command, entry)
        nursery.start_soon(self._carry_out, run)

    async def _carry_out(self, run: _Run) -> None:
        try:
            with run.scope:
                try:
                    await self._follow(run)
                except* (
                    Exception
                ):  # our bug, set off by somebody's command: one of them must not end the node
                    log.exception("command failed here", command=run.entry.command_id)
                    await self._give_up(run)
        finally:
            del self._runs[run.directive]
            self._wake.set()

    async def _give_up(self, run: _Run) -> None:
        """Note that a bug of ours has ended a command, so that it is not begun again at once."""
        try:
            await self._end(
                run.entry, OrderState.FAILED, "a bug in peatnet ended the command; the log has it"
            )
        except PeatnetError as exc:
            log.error("command not ended", command=run.entry.command_id, error=exc.message)  # noqa: TRY400  # no bug
            await trio.sleep(LOOK_AGAIN)

    async def _follow(self, run: _Run) -> None:
        """Take a command to its end."""
        failures = 0
        while True:
            stirred, heard = run.stirring.event, self._wake
            try:
                if await self._was_activated(run):
                    return
                ordered = self._ordered.find(run.directive.publisher, run.command)
                if ordered is None:
                    self._tell_run(run, CommandOutcome.WAITING, NO_MANIFEST)
                    await heard.wait()  # a record will tell
                    continue
                if run.removed is None:
                    run.removed = ordered.removed
                if ordered.removed and not run.removed:
                    await self._end(run.entry, OrderState.FAILED, REMOVED)
                    return
                await self._attempt(run, ordered)
            except PeatnetError as exc:
                log.warning("command not done yet", command=run.entry.command_id, error=exc.message)
                reason = f"transfer failed: {exc.message}; it will be tried again"
                self._tell_run(run, CommandOutcome.WAITING, reason)
            else:
                return
            delay = FIRST_RETRY * 2.0 ** min(failures, 8)
            failures += 1
            await trio.sleep(FIRST_RETRY * self._rng.uniform(0.5, 1.0))
            with trio.move_on_after(min(LONGEST_RETRY, delay) * self._rng.uniform(0.75, 1.25)):
                await stirred.wait()

    async def _was_activated(self, run: _Run) -> bool:
        """Whether an earlier run of the node began to put the model into service, and how that ended.

        Raises:
            DiskFull, StorageError: it cannot be written down.
        """
        if run.entry.state is OrderState.BEGUN and self._table.get(run.directive) != run.entry:
            run.entry = await self._end(run.entry, OrderState.BEGUN)
        if run.entry.state is not OrderState.ACTIVATING:
            return False
        async with self._activating(run):
            activator = self._library.activator
            outcome = await activator.finish(run.entry.model_id, run.entry.order[1].hex())
            if outcome is not None:
                await self._settle(run.entry, outcome)
        return outcome is not None

    async def _attempt(self, run: _Run, ordered: OrderedModel) -> None:
        """Fetch the model and put it into service.

        Raises:
            PeatnetError: the model cannot be had, or the disk refused something.
        """
        command, model = run.command, ordered.model
        self._tell_run(run, CommandOutcome.RUNNING)
        info = self._ordered.ready(model)
        if info is None:
            try:
                info, _ = await self._keeper.get(
                    ordered.target, SourceChoice.ANY, None, priority=command.priority, noted=False
                )
            except PeatnetError as exc:
                final = self._ordered.final(ordered, exc)
                if final is None:
                    raise
                await self._end(run.entry, OrderState.FAILED, final)
                return
            await trio.to_thread.run_sync(self._library.set_ready, model, info)
            self._on_model(model)
        if not command.auto_load:
            await self._end(run.entry, OrderState.DONE)
            return
        async with self._activating(run):
            wanted = await trio.to_thread.run_sync(self._ordered.candidate, model, info)
            rollback = await trio.to_thread.run_sync(self._ordered.rollback, command)
            run.entry = await self._end(run.entry, OrderState.ACTIVATING)
            outcome = await self._library.activator.activate(
                wanted, rollback, command=run.entry.order[1].hex()
            )
            await self._settle(run.entry, outcome)
            await trio.to_thread.run_sync(self._tidy)
        self._on_model(model)

    @asynccontextmanager
    async def _activating(self, run: _Run) -> AsyncIterator[None]:
        """One at a time; and from here on the command is not let go by its scope."""
        async with self._turn:
            await trio.lowlevel.checkpoint_if_cancelled()
            run.activating = True
            try:
                yield
            finally:
                run.activating = False

    async def _settle(self, entry: OrderEntry, outcome: Outcome) -> None:
        if outcome.status is not ModelStatus.FAILED:
            await self._end(entry, OrderState.DONE)
        elif outcome.reason == CANCELED:
            await self._end(entry, OrderState.CANCELED)
        else:
            await self._end(entry, OrderState.FAILED, explain(outcome))

    async def _end(self, entry: OrderEntry, state: OrderState, reason: str = "") -> OrderEntry:
        """Note on disk what a command has come to, and tell of it."""
        with trio.CancelScope(shield=True):
            ended = await trio.to_thread.run_sync(self._table.end, entry, state, reason)
        log.info(
            "command is now",
            state=state.value,
            command=entry.command_id,
            model=entry.model_id,
            reason=reason,
        )
        self._teller.entry(ended)
        return ended

    def _tell_run(self, run: _Run, outcome: CommandOutcome, reason: str = "") -> None:
        if run.told != (outcome, reason):
            run.told = outcome, reason
            self._teller.run(run.entry, outcome, reason)


def directive_of(record: Record) -> Directive:
    """A record of kind command, as ``deploy.orders`` wants it."""
    command = decode_command(record) if record.type is RecordType.COMMAND else None
    command_id = record.key.partition("/")[2]
    return Directive(str(record.publisher), record.order, record.model_id, command_id, command)
