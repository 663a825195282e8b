"""The local half of a node: identity, store, catalogue and what became of each model here. No network.

A model is a manifest in the catalogue, named by (publisher, key). What is kept of it besides is small: which
blob it turned out to be, the last error, whether the operator removed it. Its status is worked out from
these and from what the store holds, so there is nothing that could contradict the files.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from peatnet.blobs import Database, Hash, Store
from peatnet.blobs.index import REBUILT
from peatnet.deploy.activator import Activator
from peatnet.errors import Ambiguous, DiskFull, IntegrityError, InUse, NotFound, StorageError
from peatnet.log import get_logger
from peatnet.models import ModelStatus, parse_reference
from peatnet.places import Places
from peatnet.states import LocalState, States
from peatnet.sweeping import Sweeper
from peatnet.targets import Model, Target, best_of, check_against
from peatnet.views import ModelView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from peatnet.blobs import BlobInfo, GcReport, VerifyReport
    from peatnet.config import Config
    from peatnet.deploy.activation import Standing
    from peatnet.identity import Identity
    from peatnet.ledger import Ledger
    from peatnet.states import Key

    # Takes the bytes that are done, and those that there are.
    OfAll = Callable[[int, int], None]

# Why a blob is pinned that is being published and has no manifest yet.
PUBLISHING = "publish"
_DOWNLOADING = "download"
_HASH_DIGITS = 64

log = get_logger(__name__)


class Library:
    """One data directory, opened. Made by :func:`peatnet.opening.open_library`.

    Methods that touch the disk block. Those that change something may be called from any thread, and take turns.
    """

    def __init__(
        self, config: Config, identity: Identity, database: Database, store: Store, ledger: Ledger
    ) -> None:
        self.config = config
        self.identity = identity
        self.database = database
        self.store = store
        self.ledger = ledger
        self.states = States(database)
        # Held over the disk, so never taken by the trio thread: states, names under models/, removals.
        self._turn = threading.RLock()
        loaders = {name: settings.loader() for name, settings in config.loaders.items()}
        self.activator = Activator(config.data_dir, database, loaders, pins=store)
        self.places = Places(config.data_dir, database, store, self.states, self.activator)
        self._sweeper = Sweeper(self, self._turn)
        for blob, reasons in store.pins().items():
            if PUBLISHING in reasons:
                store.unpin(blob, PUBLISHING)  # a crash came in between

    # Models

    def models(self) -> list[Model]:
        """All models that count, trusted ones first, then by name and publisher."""
        return self.ledger.models()

    def find(self, reference: str, *, publisher: str | None = None) -> Target:
        """What a person means by MODEL, MODEL@VERSION, a hash, or the beginning of one.

        A trusted publisher's model goes before an untrusted one's; without a version, the one published last. A
        whole hash is never taken for a model's name, or anybody could offer another file under it.

        Args:
            reference: what the person wrote.
            publisher: whose models are meant; None for anybody's.

        Raises:
            UsageError: it could not be a reference.
            NotFound: nothing here is called that.
            Ambiguous: several things are.
        """
        parsed = parse_reference(reference)
        models = [model for model in self.models() if publisher in {None, model.publisher}]
        prefix = parsed.hash_prefix
        if prefix is not None and len(prefix) == _HASH_DIGITS:
            return self._target(Hash.parse(prefix), models)
        named = [
            model
            for model in models
            if model.manifest.model_id == parsed.model_id
            and parsed.version in {None, model.manifest.version}
        ]
        hashes = self._beginning(prefix, models) if prefix is not None else set()
        if named:
            best = best_of(reference, named)
            if hashes and not best.trusted:
                raise Ambiguous(
                    f"{reference!r} is a model of a publisher that is not trusted, "
                    "and the beginning of a blob's hash",
                    hint="give the model's version as well, or more digits of the hash",
                )
            return Target(best, self.blob_of(best))
        if len(hashes) > 1:
            raise Ambiguous(
                f"{len(hashes)} blobs begin with {prefix}", hint="give more digits of the hash"
            )
        if hashes:
            return self._target(hashes.pop(), models)
        if prefix is not None:
            raise NotFound(
                f"no blob that begins with {prefix} is known here",
                hint="a hash that is not known here must be given whole",
            )
        raise NotFound(
            f"no model {reference!r} is known here", hint="`peatnet models` lists what is"
        )

    def find_model(self, key: Key) -> Model:
        """The model of this name.

        Raises:
            NotFound: it is not known, or does not count any more.
        """
        for model in self.models():
            if model.key == key:
                return model
        raise NotFound(f"no model {key[1]} of {key[0]} is known here")

    def _beginning(self, prefix: str, models: list[Model]) -> set[Hash]:
        """The blobs here, and those that models name, whose hash begins like this."""
        known = {info.hash for info in self.store.blobs()}
        known |= {info.hash for info in self.store.partials()}
        known |= {blob for model in models if (blob := self.blob_of(model)) is not None}
        return {blob for blob in known if blob.hex().startswith(prefix)}

    def _target(self, blob: Hash, models: list[Model]) -> Target:
        """A blob, with the manifest that tells most of it; one that the blob contradicts tells nothing."""
        info = self.store.info(blob)
        for model in models:  # trusted ones first
            if self.blob_of(model) == blob and (
                info is None or check_against(model.manifest, info) is None
            ):
                return Target(model, blob, hearsay=not model.trusted)
        return Target(None, blob)

    def blob_of(self, model: Model) -> Hash | None:
        """The blob of a model: as its manifest names it, or as its download turned out."""
        if model.blob is not None:
            return model.blob
        found = self.state(model).blob
        info = self.store.info(found) if found is not None else None
        if info is None or not model.manifest.sha256:
            return None
        # A newer manifest of the same version may have replaced the one that the download was for.
        return found if check_against(model.manifest, info) is None else None

    def kept_as(self, model: Model) -> Hash | None:
        """What the store has a model under: its blob, or (unfinished, and of no known blob) its SHA-256."""
        sha256 = model.manifest.sha256
        return self.blob_of(model) or (Hash.parse(sha256) if sha256 else None)

    def info_of(self, model: Model) -> BlobInfo | None:
        """The complete blob of a model, if it is here and what the manifest says of it holds."""
        blob = self.blob_of(model)
        info = self.store.info(blob) if blob is not None else None
        if info is None or check_against(model.manifest, info) is not None:
            return None
        # Fetched by its hash alone: not this model's until its SHA-256 was looked at too.
        return None if model.manifest.sha256 and info.sha256 is None else info

    def checked(
        self, target: Target, info: BlobInfo, progress: Callable[[int], None] | None = None
    ) -> BlobInfo:
        """A complete blob, when its target's manifest (if it has one) says the same of it. Blocks.

        A SHA-256 that the manifest gives and nobody has computed yet is computed now, with ``progress`` told of
        the bytes; it may raise to stop.

        Raises:
            IntegrityError: the manifest says something else.
            NotFound, StorageError: the blob is gone, or cannot be read.
        """
        if target.model is None:
            return info
        manifest = target.model.manifest
        if manifest.sha256 and info.sha256 is None:
            info = self.store.learn_sha256(info.hash, progress)
        wrong = check_against(manifest, info)
        if wrong is not None:
            raise IntegrityError(f"{target.model}: {wrong}", hint="the manifest is wrong")
        return info

    def ready_info(self, model: Model) -> BlobInfo | None:
        """The complete blob of a model that :meth:`set_ready` was called for; None for any other."""
        state = self.state(model)
        if state.verified_at is None:
            return None
        info = self.info_of(model)
        # A newer manifest of the same version may name another blob than the one that was put in place.
        return info if info is not None and state.blob == info.hash else None

    # State

    def state(self, model: Model) -> LocalState:
        """What is remembered of a model."""
        return self.states.get(model.key)

    def set_failed(self, model: Model, error: str, *, failed: bool) -> None:
        """Note why a fetch of a model that is not ready failed; ``failed``: trying again will not mend it."""
        with self._turn:
            if self.ready_info(model) is None:
                state = self.state(model)
                state = replace(state, error=error, failed=failed, tried=model.record.id)
                self.states.put(model.key, state)

    def set_ready(self, model: Model, info: BlobInfo) -> Path:
        """Note that a model's blob is here and verified, and put it under ``models/``.

        A model that was withdrawn or replaced meanwhile keeps its blob, and nothing else happens.

        Returns:
            Where the model's file is.
        """
        with self._turn:
            if not self.ledger.counts(model.record):
                return info.path
            path, before = self._place(model, info), self.state(model).path
            state = self._ready_state(info, path)
            self.states.put(model.key, state)
            if before is not None and before != state.path:
                self.places.take(before)
        return path

    def set_ready_all(
        self, ready: Sequence[tuple[Model, BlobInfo]], *, unknown_only: bool = False
    ) -> None:
        """Do what :meth:`set_ready` does for many models, at far less cost than one by one.

        ``unknown_only``: but not for those of which something is remembered already.
        """
        with self._turn:
            if unknown_only:
                ready = [each for each in ready if not self.states.knows(each[0].key)]
            usual = [
                (model.key, model.manifest, info)
                for model, info in ready
                if self.ledger.counts(model.record)
                and self.ledger.is_trusted(model.publisher)
                and self.state(model).path is None
            ]
            paths = self.places.give_new(usual)
            self.states.put_all(
                {key: self._ready_state(info, paths[key]) for key, _, info in usual if key in paths}
            )
            for model, info in (each for each in ready if each[0].key not in paths):
                self.set_ready(model, info)

    def _ready_state(self, info: BlobInfo, path: Path) -> LocalState:
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return LocalState(info.hash, str(path.relative_to(self.config.data_dir)), now)

    def place_all(self, publisher: str) -> None:
        """Put the ready models of a publisher, who is trusted now, in their places."""
        for model in self.models():
            info = self.ready_info(model) if model.publisher == publisher else None
            if info is not None:
                self.set_ready(model, info)

    def _place(self, model: Model, info: BlobInfo) -> Path:
        """A name under ``models/``, see ``Places.give``, or the blob itself.

        An untrusted publisher's model has no name under ``models/``: a runtime that looks there would use it.
        """
        if not self.ledger.is_trusted(model.publisher):
            return info.path
        return self.places.give(model.key, model.manifest, info, self._is_rival)

    def _is_rival(self, key: Key) -> bool:
        return any(
            rival.key == key and rival.trusted and self.ready_info(rival) is not None
            for rival in self.models()
        )

    def path_of(self, model: Model, info: BlobInfo) -> Path:
        """Where a ready model's file is: where it was put, or the blob, if somebody has taken that away."""
        placed = self.state(model).path
        path = self.config.data_dir / placed if placed is not None else info.path
        return path if path.is_file() else info.path

    # Removing

    def remove(self, blob: Hash, *, of: Model | None = None, force: bool) -> int:
        """Remove a blob, complete or not, and its names under ``models/``; returns the bytes freed.

        Args:
            blob: which.
            of: the model that it is removed as, if it was named so.
            force: remove it although it is pinned, or a trusted publisher's other model as well.

        Raises:
            InUse: it is pinned, or another model than ``of`` as well, and ``force`` is not given; or it is being read or fetched.
            NotFound: it is not here.
        """
        with self._turn:
            theirs = [model for model in self.models() if self.kept_as(model) == blob]
            others = sorted({str(each) for each in theirs if each.trusted} - {str(of)})
            if of is not None and others and not force:
                raise InUse(
                    f"{of} is the same file as {', '.join(others)}",
                    hint="--force removes it for all of them",
                )
            try:
                freed = self.store.remove(blob, force=force)
            except NotFound as exc:
                if of is None:
                    raise
                raise NotFound(f"{of} is not here") from exc  # not a hash that nobody has typed
            self._sweeper.take(removed={blob})
            for model in theirs:
                state = replace(self.state(model), error=None, failed=False, removed=True)
                self.states.put(model.key, state)
        return freed

    def collect(
        self,
        wanted: set[Hash],
        *,
        dry_run: bool,
        progress: Callable[[int], None] | None = None,
    ) -> GcReport:
        """Remove blobs that no model in the catalogue needs and nobody pinned, and their names.

        Args:
            wanted: what is being fetched besides.
            dry_run: only tell.
            progress: called while files are read whose blob is gone; may raise to stop.
        """
        restored = [] if dry_run else self.sweep(progress)
        with self._turn:
            before = {info.hash for info in self.store.blobs()}
            keep = wanted | {
                blob for model in self.models() if (blob := self.kept_as(model)) is not None
            }
            trusted = {self.kept_as(model) for model in self.models() if model.trusted}
            for blob, reasons in self.store.pins().items():
                if REBUILT in reasons and blob in trusted and not dry_run:
                    self.store.unpin(blob, REBUILT)  # it is known again what it is for
                # An unfinished download that nobody will go on with. Whoever begins it again pins it again.
                if _DOWNLOADING in reasons and blob not in keep:
                    self.store.unpin(blob, _DOWNLOADING)
            report = self.store.gc(keep, dry_run=dry_run)
            if not dry_run:
                self._sweeper.take(removed=before & {blob for blob, _ in report.removed})
        return replace(report, restored=restored)

    def verify(self, blob: Hash | None, *, rebuild: bool, progress: OfAll) -> VerifyReport:
        """Read blobs again, and take the names away of those that are damaged; first put back what is gone but for its name.

        Args:
            blob: which; None for all.
            rebuild: first enter blob files that the index has lost.
            progress: called with the bytes read so far, and those to read in all; may raise to stop.
        """
        before, rebuilt, size = 0, 0, self._bytes_of(blob)
        restored = self.sweep(lambda _: progress(0, size))
        if rebuild:
            before = self.store.unindexed_bytes()
            # What is entered is read once more, as everything else.
            size = before + before + self._bytes_of(blob)
            rebuilt = self.store.rebuild(lambda done: progress(done, size))
        whole = before + self._bytes_of(blob)
        try:
            report = self.store.verify(blob, lambda done: progress(before + done, whole))
        finally:
            restored += self.sweep()
        self._put_names_back()
        return replace(report, restored=restored, rebuilt=rebuilt)

    def sweep(self, progress: Callable[[int], None] | None = None) -> list[Hash]:
        """Take away the names of blobs that are gone; returns those that could be put back from their names.

        Blocks for as long as reading such names takes, but holds up nobody meanwhile.
        """
        return self._sweeper.run(progress)

    def _put_names_back(self) -> None:
        """Under ``models/``, where somebody has taken them away."""
        for model in self.models():
            placed, info = self.state(model).path, self.ready_info(model)
            if placed is None or info is None or (self.config.data_dir / placed).is_file():
                continue
            try:
                self.set_ready(model, info)
            except (StorageError, DiskFull) as exc:
                log.error("name not put back", model=str(model), error=exc.message)  # noqa: TRY400  # no bug

    def _bytes_of(self, blob: Hash | None) -> int:
        infos = self.store.blobs() if blob is None else [self.store.info(blob)]
        return sum(info.size for info in infos if info is not None)

    def tidy_names(self) -> None:
        """Take away the names that were in service when they should have gone. Blocks."""
        with self._turn:
            self.places.tidy()

    # Showing

    def status(self, model: Model, *, fetching: bool) -> ModelStatus:
        """The state of a model here; costs no disk."""
        return self._status(model, self.ready_info(model), fetching=fetching)

    def _status(self, model: Model, info: BlobInfo | None, *, fetching: bool) -> ModelStatus:
        if info is not None:
            standing = self.standing(model, info)
            return ModelStatus.LOADED if standing and standing.loaded else ModelStatus.READY
        if fetching:
            return ModelStatus.DOWNLOADING
        state = self.state(model)
        failed = state.failed and state.tried == model.record.id
        return ModelStatus.FAILED if failed else ModelStatus.AVAILABLE

    def standing(self, model: Model, info: BlobInfo) -> Standing | None:
        """How a ready model is in service; None where it is not. Costs no disk."""
        standing = self.activator.standings().get(model.manifest.model_id)
        if standing is None:
            return None
        chosen = standing.candidate
        same = (chosen.publisher, str(chosen), chosen.blob) == (*model.key, info.hash.hex())
        return standing if same else None

    def unfinished(self) -> dict[Hash, float]:
        """How much is here of each unfinished blob, 0..1."""
        return {
            partial.hash: partial.verified_bytes / partial.size
            for partial in self.store.partials()
            if partial.size
        }

    def view(self, model: Model, *, progress: float | None, unfinished: float = 0.0) -> ModelView:
        """A model as scripts and people see it.

        Args:
            model: which.
            progress: 0..1 while it is being downloaded, else None.
            unfinished: 0..1 of it that an earlier download left.
        """
        state, info, blob = self.state(model), self.ready_info(model), self.blob_of(model)
        done = unfinished if progress is None else min(1.0, max(0.0, progress))
        tried = state.tried == model.record.id
        return ModelView(
            model_id=model.manifest.model_id,
            version=model.manifest.version,
            publisher=model.publisher,
            trusted=model.trusted,
            status=self._status(model, info, fetching=progress is not None).value.lower(),
            download_progress=done if info is None else 1.0,
            size_bytes=model.manifest.size_bytes,
            blob_hash=blob.hex() if blob else None,
            local_path=str(self.path_of(model, info)) if info else None,
            in_service=info is not None and self.standing(model, info) is not None,
            error=state.error if info is None and tried else None,
        )
