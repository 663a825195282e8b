"""Carries out activations, one at a time; see ``activation`` for what they are and why a crash does no harm."""

from __future__ import annotations

import secrets
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from peatnet.deploy.activation import MAX_ATTEMPTS, Activation, Candidate, Outcome, Phase, Standing
from peatnet.deploy.commands import end_marked
from peatnet.deploy.headers import check_header
from peatnet.deploy.loaders import LoaderConfig, LoadJob, choose_loader
from peatnet.deploy.running import run_loader
from peatnet.deploy.service_pins import pin_only
from peatnet.deploy.service_table import ServiceTable
from peatnet.deploy.slots import Slots
from peatnet.errors import PeatnetError
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from peatnet.blobs import Database, Hash
    from peatnet.deploy.loaders import LoadResult
    from peatnet.deploy.service_pins import Pins
    from peatnet.models import ModelManifest

CANCELED: Final = "canceled"
REMOVED: Final = "it was removed there by hand"

log = get_logger(__name__)


class Activator:
    """Puts models into service on this node.

    One at a time: loading two at once could take twice the memory that either was found to have.

    Args:
        data_dir: where ``models/`` is; one process at a time works there.
        database: peatnet.db.
        loaders: by the name of a model, a type or a format.
        pins: whatever keeps blobs; None where nothing removes any.
    """

    def __init__(
        self,
        data_dir: Path,
        database: Database,
        loaders: Mapping[str, LoaderConfig],
        pins: Pins | None = None,
    ) -> None:
        self._slots = Slots(data_dir)
        self._table = ServiceTable(database)
        self._loaders = loaders
        self._pins = pins
        self._turn = trio.Lock()
        # The activation whose wanted model's loader runs now, and what ends that.
        self._loading: tuple[Activation, trio.CancelScope] | None = None
        # Commands that were called off, perhaps before their activation has begun.
        self._unwanted: set[str] = set()
        # Blobs that are being removed, and how often.
        self._leaving: Counter[str] = Counter()

    # What there is; costs no disk

    def candidate(
        self,
        publisher: str,
        manifest: ModelManifest,
        path: Path,
        manifest_path: Path | None = None,
        *,
        blob: Hash | None = None,
    ) -> Candidate:
        """A verified model file on this disk, as something that can be put into service.

        Args:
            publisher: who signed the manifest.
            manifest: the model's.
            path: the file, best under ``models/``: runtimes go by its name.
            manifest_path: a JSON file with the manifest, for loaders.
            blob: the file's, where the manifest does not name it.
        """
        return Candidate(
            publisher=publisher,
            model_id=manifest.model_id,
            version=manifest.version,
            model_type=manifest.model_type.value,
            format=manifest.format.value,
            path=self._slots.relative(path),
            manifest_path=None if manifest_path is None else self._slots.relative(manifest_path),
            blob=manifest.blob_hash if blob is None else blob.hex(),
        )

    def standings(self) -> Mapping[str, Standing]:
        """What is in service, by model id: also while something else is on its way there."""
        return self._table.standings()

    def slots_with(self, blob: Hash) -> list[str]:
        """In which slots this blob is."""
        standings = self._table.standings().items()
        return [slot for slot, each in standings if each.candidate.blob == blob.hex()]

    def current(self, model_id: str) -> Candidate | None:
        """The model that ``models/<id>/current`` leads to, or will again when a running activation fails."""
        standing = self._table.standings().get(model_id)
        return standing.candidate if standing else None

    def previous(self, model_id: str) -> Candidate | None:
        """The model that was in service before the current one."""
        return self._table.previous(model_id)

    def loaded(self) -> list[Candidate]:
        """The models of which a loader said that they are loaded."""
        return [each.candidate for each in self._table.standings().values() if each.loaded]

    def involved(self) -> list[Candidate]:
        """The models in service, and those that are on their way there or may be gone back to. Blocks."""
        found = [standing.candidate for standing in self._table.standings().values()]
        for activation in self._table.pending():
            found.extend(activation.candidates)
        return found

    def path_of(self, candidate: Candidate) -> Path:
        """The file of a candidate, as an absolute path; it may be gone."""
        return self._slots.absolute(candidate.path)

    # What is done

    async def activate(
        self, wanted: Candidate, rollback: Candidate | None = None, *, command: str = ""
    ) -> Outcome:
        """Put a model into service, or go back when that fails.

        Cancellation: the loader is ended, and the activation goes on with the next `recover` or `activate`, as after
        a crash. To give it up instead, use `cancel`.

        Args:
            wanted: which.
            rollback: where to go back to, instead of to what is in service.
            command: whose order it is. The last one of a slot is done once: given again, it returns how it ended.

        Returns:
            How it ended, which is never an error because of the model or its loader.

        Raises:
            StorageError, DiskFull: the database could not be written; it goes on later.
        """
        async with self._turn:
            await self._finish_pending()
            done = await trio.to_thread.run_sync(self._table.outcome, wanted.model_id)
            if command and done is not None and done[0] == command:
                return done[1]
            activation = Activation.begin(
                wanted,
                rollback,
                self._table.standings(),
                has_loader=self._loader_of(wanted) is not None,
                command=command,
            )
            await trio.to_thread.run_sync(self._begin, activation)
            return await self._run(activation)

    async def recover(self) -> list[Outcome]:
        """Finish what a crash or a stop has interrupted, and set links right; to be called once, at the start.

        Cancellation: as for `activate`.

        Returns:
            How those that were interrupted have ended now.

        Raises:
            StorageError, DiskFull: as for `activate`.
        """
        async with self._turn:
            outcomes = await self._finish_pending()
            await trio.to_thread.run_sync(self._set_right)
        return outcomes

    async def finish(self, model_id: str, command: str) -> Outcome | None:
        """How a command's activation ended that an earlier run of the node may have begun; it is finished now.

        Cancellation: as for `activate`.

        Returns:
            None: it had not begun, or another one of the same slot came after it.

        Raises:
            StorageError, DiskFull: as for `activate`.
        """
        async with self._turn:
            await self._finish_pending()
            done = await trio.to_thread.run_sync(self._table.outcome, model_id)
        return done[1] if done is not None and done[0] == command else None

    async def cancel(self, model_id: str, command: str | None = None) -> bool:
        """Give up putting a model into service: its loader is ended, and the node goes back to what was in service.

        Args:
            model_id: the slot.
            command: only if it is this one's order, which may have yet to begin; None: in any case.

        Returns:
            Whether there was something to give up; `activate` tells how it ended, since it may have ended just before.
        """
        if command is not None:
            self._unwanted.add(command)
        found = await trio.to_thread.run_sync(self._table.cancel, model_id, command)
        if found and self._loading is not None and self._loading[0].slot == model_id:
            self._loading[1].cancel()
        return found

    @asynccontextmanager
    async def without(self, blob: Hash) -> AsyncIterator[list[str]]:
        """A blob is in no slot, nor on its way into one, for as long as the context lasts.

        Where it is being put into service, its loader is ended, and the node goes back to what was in service; where another one
        is, in a slot that this blob is in or may come back into, that is waited for. Then its link goes, and so does the pin; no
        loader is told.

        Returns:
            The slots that it was in.

        Raises:
            StorageError, DiskFull: a link or the database could not be written; then it may still be in service.
        """
        leaving = blob.hex()
        self._leaving[leaving] += 1
        try:
            if self._loading is not None and self._loading[0].wanted.blob == leaving:
                self._loading[1].cancel()
            if not await trio.to_thread.run_sync(self._involves, leaving):
                yield []
                return
            async with self._turn:
                await self._finish_pending()
                slots = self.slots_with(blob)  # it may have been replaced meanwhile
                for slot in slots:
                    await trio.to_thread.run_sync(self._retire, slot)
                yield slots
        finally:
            self._leaving[leaving] -= 1
            self._leaving += Counter()  # drops those at zero

    # One activation, step by step

    async def _finish_pending(self) -> list[Outcome]:
        pending = await trio.to_thread.run_sync(self._table.pending)
        return [await self._run(activation) for activation in pending]

    async def _run(self, activation: Activation) -> Outcome:
        """Take an activation that is on disk to its end."""
        while True:
            activation = await self._step(activation)
            # What was done is noted also when the node is about to stop, or it would count as cut short.
            with trio.CancelScope(shield=True):
                if activation.phase is Phase.DONE:
                    return await trio.to_thread.run_sync(self._settle, activation)
                await trio.to_thread.run_sync(self._table.put, activation)

    async def _step(self, activation: Activation) -> Activation:
        """Do what a state says; returns the next state."""
        if activation.phase is Phase.RESTORE:
            await trio.to_thread.run_sync(self._set_links, activation)
            return activation.restored()
        if activation.at == 0 and (reason := await self._why_not(activation)) is not None:
            return activation.called_off(reason)
        match activation.phase:
            case Phase.LOAD:
                return await self._load(activation)
            case Phase.CHECK:
                return await self._check(activation)
        try:
            await trio.to_thread.run_sync(self._switch, activation)
        except PeatnetError as exc:
            return self._failed(activation, exc)
        return activation.switched()

    async def _check(self, activation: Activation) -> Activation:
        if activation.exhausted:
            return activation.failed(
                f"the node ended {MAX_ATTEMPTS} times while its header was read"
            )
        activation = activation.checking()
        candidate = activation.candidate or activation.wanted
        # A header that takes the node down must be told from a node that was stopped meanwhile.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._table.put, activation)
            try:
                await trio.to_thread.run_sync(self._check_header, candidate)
            except PeatnetError as exc:
                return self._failed(activation, exc)
        return activation.checked()

    def _failed(self, activation: Activation, error: PeatnetError) -> Activation:
        log.warning("not put into service", model=str(activation.candidate), reason=error.message)
        return activation.failed(error.message)

    async def _load(self, activation: Activation) -> Activation:
        candidate = activation.candidate or activation.wanted
        if activation.token:
            # Of an attempt that a crash cut short, something may still be running.
            await trio.to_thread.run_sync(end_marked, activation.token)
        loader = self._loader_of(candidate)
        if loader is None:
            return activation.succeeded(loaded=False)
        if activation.exhausted:
            return activation.failed(f"the node ended {MAX_ATTEMPTS} times while it was loading")
        try:
            job = self._job(candidate, activation.previous())
        except PeatnetError as exc:
            return self._failed(activation, exc)
        activation = activation.starting(secrets.token_hex(16))
        await trio.to_thread.run_sync(self._table.put, activation)
        try:
            result = await self._run_loader(loader, activation, job)
        except* trio.Cancelled:  # also in the groups that nurseries make
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._table.put, activation.suspended())
            raise
        if result is None:
            return activation.called_off(await self._why_not(activation) or CANCELED)
        if result.reason is None:
            return activation.succeeded(loaded=True)
        return activation.failed(result.reason, result.lines)

    async def _run_loader(
        self, loader: LoaderConfig, activation: Activation, job: LoadJob
    ) -> LoadResult | None:
        """Run a loader until it ends or (None) is not wanted any more."""
        result: LoadResult | None = None
        with trio.CancelScope() as scope:
            if activation.at == 0:
                self._loading = (activation, scope)
            try:
                # Once more: it may have been called off between the last look and now.
                if activation.at or await self._why_not(activation) is None:
                    result = await run_loader(
                        loader, job, cwd=self._slots.data_dir, token=activation.token
                    )
            finally:
                self._loading = None
        return result

    async def _why_not(self, activation: Activation) -> str | None:
        """Why the wanted model is not wanted any more; None: it is."""
        if activation.wanted.blob in self._leaving:
            return REMOVED
        if activation.command in self._unwanted:
            return CANCELED
        canceled = await trio.to_thread.run_sync(self._table.is_canceled, activation.slot)
        return CANCELED if canceled else None

    def _job(self, candidate: Candidate, previous: Candidate | None) -> LoadJob:
        path = candidate.manifest_path
        return LoadJob(
            model_id=candidate.model_id,
            version=candidate.version,
            model_path=self._slots.file_of(candidate),
            manifest_path=None if path is None else self._slots.absolute(path),
            previous_path=None if previous is None else self._slots.absolute(previous.path),
        )

    def _loader_of(self, candidate: Candidate) -> LoaderConfig | None:
        return choose_loader(
            self._loaders, candidate.model_id, candidate.model_type, candidate.format
        )

    # What blocks, in worker threads

    def _involves(self, blob: str) -> bool:
        return any(candidate.blob == blob for candidate in self.involved())

    def _begin(self, activation: Activation) -> None:
        self._table.put(activation)
        self._keep()

    def _check_header(self, candidate: Candidate) -> None:
        check_header(self._slots.file_of(candidate), candidate.format)

    def _switch(self, activation: Activation) -> None:
        chosen = activation.candidate or activation.wanted
        self._slots.set(chosen.model_id, chosen)
        self._set_links(activation, but=chosen.model_id)

    def _set_links(self, activation: Activation, *, but: str | None = None) -> None:
        """Set the links that nothing depends on."""
        for slot, candidate in activation.links().items():
            if slot == but:
                continue
            try:
                self._slots.set(slot, candidate)
            except PeatnetError as exc:
                # The standing is right, and the link will be when the next start finds the trouble mended.
                log.error("link not set back", model_id=slot, error=exc.message)  # noqa: TRY400  # no bug

    def _settle(self, activation: Activation) -> Outcome:
        outcome = self._table.settle(activation)
        self._unwanted.discard(activation.command)
        self._keep()
        log.info(
            "activation ended",
            model=str(outcome.wanted),
            status=outcome.status.value,
            in_service=str(outcome.in_service),
            reason=outcome.reason,
        )
        return outcome

    async def set_right(self) -> None:
        """Have links lead again to where they should, though somebody else has changed them, or what they led to.

        Not while a model is being put into service, which may take long.

        Raises:
            StorageError, DiskFull: pins could not be set; a link that cannot be is logged.
        """
        if not self._turn.locked():
            async with self._turn:
                await trio.to_thread.run_sync(self._set_right)

    def _set_right(self) -> None:
        """Links as standings say, though somebody else has changed them; pins likewise."""
        for slot, standing in self._table.standings().items():
            try:
                other = self._slots.other(slot, standing.candidate)
                if other is not None:
                    # As where an older peatnet.db was put back. Whoever follows the link has another model, or nobody knows
                    # what. An error, since commands, of which `verify` does this too, show nothing less.
                    log.error(
                        "link led to something else than what is in service: set back, and not known to be loaded",
                        model=str(standing.candidate),
                        led_to=str(other),
                    )
                    self._table.unload(slot)
                self._slots.set(slot, standing.candidate)
            except PeatnetError as exc:
                log.error("model in service", model=str(standing.candidate), error=exc.message)  # noqa: TRY400  # no bug
        self._keep()

    def _retire(self, model_id: str) -> None:
        # The link first: if the node ends in between, the next start puts it back.
        self._slots.set(model_id, None)
        self._table.clear(model_id)
        self._keep()

    def _keep(self) -> None:
        """Pin what is in service or may be soon, and nothing else for this reason."""
        if self._pins is not None:
            pin_only(self._pins, self.involved())
