"""The node: library, keeper and network wired together. The Python API, and what the daemon runs.

    async with peatnet.open_node(peatnet.load_config(Path("data"))) as node:
        manifest = await node.publish(Path("model.gguf"), draft)

All methods belong to the trio task tree that opened the node. Blocking work is done in worker threads.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from peatnet.blobs import AddMode, Hash
from peatnet.commanding import Commander
from peatnet.concurrency import Feed, cancellable
from peatnet.errors import IntegrityError, NoSource, NotFound, UsageError
from peatnet.executor import Executor
from peatnet.exporting import export
from peatnet.fetching import USUAL_PRIORITY, no_url
from peatnet.keeper import Keeper
from peatnet.limiting import Limits
from peatnet.lookout import Lookout
from peatnet.mending import finish_publishing, mend
from peatnet.peer_list import peer_views
from peatnet.publisher import Publisher
from peatnet.publishing import Publication, check_out
from peatnet.records import RecordType
from peatnet.records.bodies import Withdrawal
from peatnet.removal import remove
from peatnet.reporting import Reporter
from peatnet.targets import Model, Target
from peatnet.transfer.budget import DownloadBudget
from peatnet.views import (
    Change,
    GetResult,
    ModelChanged,
    ModelView,
    PeerChanged,
    PeerView,
    Progress,
    SourceChoice,
)

if TYPE_CHECKING:
    import random

    # libp2p brings trio-typing, whose stubs hide trio's own types from the type checker.
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from trio_typing import TaskStatus

    from peatnet.blobs import BlobInfo, GcReport, VerifyReport
    from peatnet.errors import PeatnetError
    from peatnet.library import Library, OfAll
    from peatnet.models import ModelManifest
    from peatnet.net.network import Network
    from peatnet.records import Record

# What a slow subscriber may leave unread before it misses changes.
SUBSCRIPTION_BUFFER = 256


class Node:
    """One node. Made by :func:`open_node`.

    Attributes:
        config: its settings.
        peer_id: its peer id, which is its publisher id as well.
        fleet: the other nodes, and where models stand on them.
        reporter: what this node tells the others of itself.
        commander: gives update commands.
        limits: what it may send and fetch.
    """

    def __init__(
        self, library: Library, network: Network | None, rng: random.Random, *, lasting: bool
    ) -> None:
        self.config = library.config
        self.peer_id = library.identity.peer_id
        self._library = library
        self._network = network
        self._feed: Feed[Change] = Feed(SUBSCRIPTION_BUFFER)
        self._budget = DownloadBudget(rate=self.config.download_limit)
        self.limits = Limits(self.config, network, self._budget)
        self._keeper = Keeper(
            library,
            network,
            rng,
            budget=self._budget,
            lasting=lasting and network is not None,
            on_change=self._model_changed,
            on_blob=self._blob_changed,
        )
        self._publisher = Publisher(library, self._keeper, self._tell_of_publication)
        self.reporter = Reporter(library, self._keeper)
        self.fleet = Lookout(
            library, network, self.reporter, rng, self._feed.tell, silent=not lasting
        )
        self.commander = Commander(library, self._announce, self.fleet.find)
        self._executor = Executor(
            library,
            self._keeper,
            rng,
            tell=self.reporter.tell_outcome,
            on_model=self._model_changed,
        )
        self._follows_commands = lasting and network is not None
        library.ledger.on_change.append(self._record_changed)
        if network is not None:
            network.on_peer.append(self._peer_changed)
            network.on_gained.append(self._peer_gained)

    @property
    def addrs(self) -> list[str]:
        """Full addresses that other machines can dial; empty without a network."""
        return self._network.addrs if self._network is not None else []

    # Publishing

    async def publish(
        self,
        path: Path,
        manifest: ModelManifest,
        *,
        mode: AddMode = AddMode.AUTO,
        progress: Callable[[int], None] | None = None,
    ) -> ModelManifest:
        """Add a file to the store, sign its manifest, and tell the others.

        Args:
            path: the model file.
            manifest: what it is. Sizes and hashes may be left empty; where they are given, they must be right.
            mode: how the file gets into the store.
            progress: called, from a worker thread, with the bytes hashed so far.

        Returns:
            The manifest as it was signed: with size, hashes and chunk table hash filled in.

        Raises:
            NotFound: there is no such file.
            UsageError: it is no regular file, or an empty one.
            IntegrityError: the file is not what the manifest says.
            InvalidManifest: the manifest, filled in, breaks a rule.
            DiskFull, StorageError: the store cannot take it.

        Cancellation: nothing is published; of what was added before it, only a blob may stay, for ``gc``.
        """
        return await self._publisher.publish(Publication(path, manifest, mode), progress)

    async def publish_all(
        self,
        publications: Sequence[Publication],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[ModelManifest | PeatnetError]:
        """Do what :meth:`publish` does for many files; small ones together, at far less cost than one by one.

        Args:
            publications: the files with their manifests.
            progress: called, from a worker thread, with the bytes of all of them hashed so far.

        Returns:
            For each file, in order, its manifest as it was signed, or the error that :meth:`publish` would have raised.

        Cancellation: those that are done stay published, the others are not.
        """
        return await self._publisher.publish_all(publications, progress)

    async def withdraw(self, reference: str) -> str:
        """Take back a model version that this node published; returns its ``model_id@version``. Files stay until they are removed.

        Raises:
            NotFound: there is no such model.
            UsageError: another node published it.
        """
        try:
            model = self._library.find(reference, publisher=self.peer_id).model
        except NotFound:
            model = self._library.find(reference).model
        if model is None:
            raise NotFound(f"{reference} is a blob without a manifest: nothing to withdraw")
        if model.publisher != self.peer_id:
            raise UsageError(
                f"{model} was published by {model.publisher}: only that node can withdraw it",
                hint="`peatnet rm` removes it from this node, `peatnet trust remove` stops trust",
            )
        manifest = model.manifest
        body = Withdrawal(model_id=manifest.model_id, version=manifest.version)
        record = await self._library.ledger.sign(
            RecordType.WITHDRAWAL, model.record.key, body.to_json()
        )
        await self._announce(record)
        return model.record.key

    async def _tell_of_publication(self, record: Record, blob: Hash) -> None:
        await self._announce(record)
        self._blob_changed(blob)

    async def _announce(self, record: Record) -> None:
        if self._network is not None:
            await self._network.announce(record.envelope)

    # Looking

    async def models(self) -> list[ModelView]:
        """Every model in the catalogue that is not withdrawn, trusted ones first."""
        unfinished = await trio.to_thread.run_sync(self._library.unfinished)
        return [self._view(model, unfinished) for model in self._library.models()]

    async def show(self, reference: str) -> ModelManifest:
        """The manifest of a model.

        Raises:
            NotFound, Ambiguous, UsageError: as the reference is.
        """
        model = self._library.find(reference).model
        if model is None:
            raise NotFound(f"{reference} is a blob without a manifest")
        return model.manifest

    async def peers(self) -> list[PeerView]:
        """The other nodes that this node knows."""
        if self._network is None:
            return []
        return peer_views(self._network)

    def subscribe(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Change]]:
        """Changes as they happen, for as long as the context lasts.

        A subscriber that leaves 256 of them unread misses the next ones; it should look again with
        :meth:`models` and :meth:`peers` whenever it has been slow.
        """
        return self._feed.subscribe()

    # Fetching

    async def is_here(self, reference: str) -> bool:
        """Whether a model or blob is in the store, complete.

        Raises:
            NotFound, Ambiguous, UsageError: as the reference is.
            IntegrityError: what is here contradicts the manifest.
        """
        target = self._library.find(reference)
        return await trio.to_thread.run_sync(self._complete, target) is not None

    async def get(
        self,
        reference: str,
        *,
        source: SourceChoice = SourceChoice.ANY,
        out: Path | None = None,
        force: bool = False,
        priority: int = USUAL_PRIORITY,
        progress: Callable[[Progress], None] | None = None,
    ) -> GetResult:
        """Have a model or blob here, complete and verified.

        A person asked for it, so an untrusted publisher's model is fetched too.

        Args:
            reference: MODEL, MODEL@VERSION, a hash, or the beginning of one.
            source: where bytes may come from, if they are not here.
            out: leave a copy of the file there as well.
            force: overwrite ``out``.
            priority: 1 (most urgent) to 5, among the fetches of this node, and among all that its peers serve.
            progress: called with the progress, a few times a second.

        Raises:
            AlreadyExists: ``out`` exists and ``force`` is not given; checked before anything is fetched.
            NotFound, Ambiguous, UsageError: as the reference is.
            UsageError: the priority is not one of 1 to 5.
            NoSource, HttpSourceError: nobody delivered.
            IntegrityError: what was delivered contradicts the manifest.
            DiskFull, StorageError: the store cannot take it.

        Cancellation: what is here stays; a later call goes on from there.
        """
        began = trio.current_time()
        if not 1 <= priority <= 5:
            raise UsageError(f"priority {priority}: 1 (most urgent) to 5 are meant")
        target = self._library.find(reference)
        if out is not None:
            check_out(out, force=force)
        have = partial(self._have, choice=source, priority=priority, report=progress)
        try:
            info, by_source = await have(target)
        except (IntegrityError, NoSource):
            if not target.hearsay:
                raise
            # A stranger's word on it may be wrong, and must keep nobody from getting what its hash names.
            target = Target(None, target.blob)
            info, by_source = await have(target)
        path = info.path
        if target.model is not None:
            path = await trio.to_thread.run_sync(self._library.set_ready, target.model, info)
            self._model_changed(target.model)
        if out is not None:
            path = await export(self._library.store, info, out, by_source, progress, force=force)
        seconds = trio.current_time() - began
        return GetResult(str(path), info.hash.hex(), info.size, seconds, by_source)

    async def _have(
        self,
        target: Target,
        *,
        choice: SourceChoice,
        priority: int,
        report: Callable[[Progress], None] | None,
    ) -> tuple[BlobInfo, dict[str, int]]:
        info = await trio.to_thread.run_sync(self._complete, target)
        if info is not None:
            return info, {}
        if choice is SourceChoice.HTTP and target.blob is not None and target.url is None:
            raise no_url(target)
        return await self._keeper.get(target, choice, report, priority=priority)

    def _complete(self, target: Target) -> BlobInfo | None:
        here = self._library.store.info(target.blob) if target.blob is not None else None
        return self._library.checked(target, here, cancellable()) if here is not None else None

    # Trust

    async def trust_add(self, peer_id: str) -> None:
        """Trust a publisher: its models are fetched as the policy says.

        Raises:
            UsageError: it is no peer id.
        """
        await self._library.ledger.trust(peer_id)
        await trio.to_thread.run_sync(self._library.place_all, peer_id)
        self._keeper.wake()
        self._executor.wake()
        self.reporter.changed()
        if self._network is not None:
            self._network.sync_with_all()

    async def trust_remove(self, peer_id: str) -> None:
        """Stop trusting a publisher. Files that are here stay.

        Raises:
            UsageError: it is no peer id, it is our own, or it is trusted by the configuration.
        """
        await self._library.ledger.distrust(peer_id)
        self._keeper.wake()
        self._executor.wake()
        self.reporter.changed()

    async def trust_list(self) -> list[str]:
        """The trusted publishers, this node included."""
        return self._library.ledger.trusted()

    # Keeping and removing

    async def remove(self, reference: str, *, force: bool = False) -> int:
        """Remove a model's file, or an unfinished download, from this node; returns the bytes freed.

        With ``force``, one that is in service is taken out of it, and one on its way there goes no further, before it goes.
        It is not fetched again by itself; ``get`` brings it back.

        Raises:
            InUse: it is pinned, in service or another model's file, too (and no ``force`` is given), or being served.
            NotFound: it is not here.
        """
        target = self._library.find(reference)
        freed = await remove(self._library, self._keeper, target, force=force)
        if target.model is not None:
            self._model_changed(target.model)
        return freed

    async def pin(self, reference: str) -> str:
        """Keep a blob from ``gc``; returns its hash."""
        blob = self._blob_of(reference)
        await trio.to_thread.run_sync(self._library.store.pin, blob)
        return blob.hex()

    async def unpin(self, reference: str) -> str:
        """Let ``gc`` have a blob again; returns its hash."""
        blob = self._blob_of(reference)
        await trio.to_thread.run_sync(self._library.store.unpin, blob)
        return blob.hex()

    async def verify(
        self, reference: str | None = None, *, rebuild: bool = False, progress: OfAll | None = None
    ) -> VerifyReport:
        """Read blobs again and compare them with their hashes; damaged ones are set aside.

        Args:
            reference: one model or blob; None for all.
            rebuild: first enter blob files that the index has lost.
            progress: called with the bytes read, and those to read in all, in another thread and often.
        """
        blob = self._blob_of(reference) if reference is not None else None
        tell = cancellable(progress)
        verify = partial(self._library.verify, blob, rebuild=rebuild, progress=tell)
        report = await trio.to_thread.run_sync(verify)
        await self._library.activator.set_right()
        self._keeper.wake()
        return report

    async def gc(self, *, dry_run: bool = False) -> GcReport:
        """Remove blobs that no model in the catalogue needs and nobody pinned."""
        wanted = self._keeper.fetching()
        collect = partial(self._library.collect, wanted, dry_run=dry_run, progress=cancellable())
        return await trio.to_thread.run_sync(collect)

    def _blob_of(self, reference: str) -> Hash:
        target = self._library.find(reference)
        if target.blob is None:
            raise NotFound(f"{reference} has no blob yet", hint=f"`peatnet get {reference}` first")
        return target.blob

    # Changes

    def _view(self, model: Model, unfinished: dict[Hash, float]) -> ModelView:
        progress, blob = self._keeper.progress(model), self._library.blob_of(model)
        if progress is None:
            part = unfinished.get(blob, 0.0) if blob is not None else 0.0
            return self._library.view(model, progress=None, unfinished=part)
        size = progress.size_bytes or model.manifest.size_bytes
        return self._library.view(model, progress=progress.verified_bytes / size if size else 0.0)

    def _model_changed(self, model: Model) -> None:
        self.reporter.changed()
        if self._feed:
            fetching = self._keeper.progress(model) is not None
            status = self._library.status(model, fetching=fetching).value.lower()
            self._feed.tell(ModelChanged(model.manifest.model_id, model.manifest.version, status))

    def _record_changed(self, record: Record) -> None:
        self._keeper.wake()
        self._executor.wake()
        self.reporter.changed(urgent=False)
        if record.type in {RecordType.MANIFEST, RecordType.WITHDRAWAL}:
            model_id, _, version = record.key.partition("@")
            kind = "withdrawn" if record.type is RecordType.WITHDRAWAL else "available"
            self._feed.tell(ModelChanged(model_id, version, kind))

    def _blob_changed(self, blob: Hash) -> None:
        if self._network is not None:
            self._network.announce_blob(blob)

    def _peer_changed(self, peer_id: str, *, connected: bool) -> None:
        if connected:
            self._keeper.wake(peers=True)
            self._executor.wake(peers=True)
        banned = self._network is not None and peer_id in self._network.banned()
        self._feed.tell(PeerChanged(peer_id, connected, banned))

    def _peer_gained(self, _peer_id: str, blob: Hash) -> None:
        self._keeper.wake_for(blob)

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Do all that a node does by itself, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._budget.run)
            nursery.start_soon(mend, self._library, self._keeper.wake)
            nursery.start_soon(finish_publishing, self._library, self._model_changed)
            await nursery.start(self._keeper.run)
            await nursery.start(self.fleet.run)
            if self._follows_commands:
                await nursery.start(self._executor.run)
            task_status.started()
