"""The local half of a node: identity, store, catalogue and what became of each model here. No network.

A model is a manifest in the catalogue, named by (publisher, key). What is kept of it besides is small: which
blob it turned out to be, the last error, whether the operator removed it. Its status is worked out from
these and from what the store holds, so there is nothing that could contradict the files.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from peatnet.blobs import Database, Hash, Store
from peatnet.blobs.durable import unlink_durable
from peatnet.datadir import locked_data_dir
from peatnet.errors import Ambiguous, NotFound
from peatnet.identity import load_or_create
from peatnet.ledger import Ledger
from peatnet.log import get_logger
from peatnet.models import ModelStatus, parse_reference
from peatnet.views import ModelView

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peatnet.blobs import BlobInfo
    from peatnet.config import Config
    from peatnet.identity import Identity
    from peatnet.models import ModelManifest
    from peatnet.records import Record

_SCHEMA = """
CREATE TABLE models (
    publisher TEXT NOT NULL,
    key TEXT NOT NULL,
    blob BLOB,
    path TEXT,
    verified_at TEXT,
    error TEXT,
    failed INTEGER NOT NULL DEFAULT 0,
    removed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (publisher, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE intents (target TEXT PRIMARY KEY, source TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Model:
    """A manifest that counts: in the catalogue, and not withdrawn."""

    record: Record
    manifest: ModelManifest
    trusted: bool

    @property
    def publisher(self) -> str:
        """Who signed it."""
        return str(self.record.publisher)

    @property
    def blob(self) -> Hash | None:
        """The blob that the manifest names; foreign manifests may name none."""
        return Hash.parse(self.manifest.blob_hash) if self.manifest.blob_hash else None

    def __str__(self) -> str:
        return self.record.key


@dataclass(frozen=True, slots=True)
class Target:
    """What a reference means: a model, a bare blob, or a model found by its blob."""

    model: Model | None
    blob: Hash | None


@dataclass(frozen=True, slots=True)
class LocalState:
    """What this node remembers of a model besides its manifest.

    ``path`` is where its file was put, relative to the data directory; ``failed`` tells an error that trying
    again will not mend from one that it may.
    """

    blob: Hash | None = None
    path: str | None = None
    verified_at: str | None = None
    error: str | None = None
    failed: bool = False
    removed: bool = False


class Library:
    """One data directory, opened. Made by :func:`open_library`. Methods that touch the disk block."""

    def __init__(
        self, config: Config, identity: Identity, database: Database, store: Store, ledger: Ledger
    ) -> None:
        self.config = config
        self.identity = identity
        self.store = store
        self.ledger = ledger
        self._database = database
        database.script("library-1", _SCHEMA)
        self._states: dict[tuple[str, str], LocalState] = {
            (publisher, key): LocalState(
                Hash(blob) if blob else None, path, verified_at, error, bool(failed), bool(removed)
            )
            for publisher, key, blob, path, verified_at, error, failed, removed in database.execute(
                "SELECT publisher, key, blob, path, verified_at, error, failed, removed FROM models"
            )
        }

    # Models

    def models(self) -> list[Model]:
        """All models that count, trusted ones first, then by name and publisher."""
        found = [
            Model(record, manifest, self.ledger.is_trusted(str(record.publisher)))
            for record, manifest in self.ledger.manifests()
        ]
        return sorted(found, key=lambda item: (not item.trusted, str(item), item.publisher))

    def find(self, reference: str) -> Target:
        """What a person means by MODEL, MODEL@VERSION, a hash, or the beginning of one.

        A trusted publisher's model goes before an untrusted one's; without a version, the one published last.

        Raises:
            UsageError: it could not be a reference.
            NotFound: nothing here is called that.
            Ambiguous: several things are.
        """
        parsed = parse_reference(reference)
        named = [
            model
            for model in self.models()
            if model.manifest.model_id == parsed.model_id
            and parsed.version in {None, model.manifest.version}
        ]
        if named:
            return self._target(self._best(reference, named))
        if parsed.hash_prefix is not None:
            return self._find_hash(parsed.hash_prefix)
        raise NotFound(
            f"no model {reference!r} is known here", hint="`peatnet models` lists what is"
        )

    def _best(self, reference: str, named: list[Model]) -> Model:
        trusted = [model for model in named if model.trusted]
        candidates = trusted or named
        publishers = sorted({model.publisher for model in candidates})
        if len(publishers) > 1:
            raise Ambiguous(
                f"{reference!r} is published by {len(publishers)} publishers: {', '.join(publishers)}",
                hint="name the blob by its hash; `peatnet models` shows it",
            )
        return max(candidates, key=lambda model: model.record.order)

    def _find_hash(self, prefix: str) -> Target:
        by_hash: dict[Hash, Model] = {}
        for model in reversed(self.models()):  # trusted ones last, so that they stay
            blob = self.blob_of(model)
            if blob is not None and blob.hex().startswith(prefix):
                by_hash[blob] = model
        stored = [info.hash for info in self.store.blobs()]
        partial = [info.hash for info in self.store.partials()]
        hashes = {blob for blob in [*stored, *partial] if blob.hex().startswith(prefix)}
        hashes |= set(by_hash)
        if len(hashes) > 1:
            raise Ambiguous(
                f"{len(hashes)} blobs begin with {prefix}", hint="give more digits of the hash"
            )
        if hashes:
            blob = hashes.pop()
            return Target(by_hash.get(blob), blob)
        if len(prefix) == 2 * len(Hash(bytes(32))):
            return Target(None, Hash.parse(prefix))  # unknown here, but peers may have it
        raise NotFound(
            f"no blob that begins with {prefix} is known here",
            hint="a hash that is not known here must be given whole",
        )

    def _target(self, model: Model) -> Target:
        return Target(model, self.blob_of(model))

    def blob_of(self, model: Model) -> Hash | None:
        """The blob of a model: as its manifest names it, or as its download turned out."""
        if model.blob is not None:
            return model.blob
        found = self.state(model).blob
        info = self.store.info(found) if found is not None else None
        # A newer manifest of the same version may have replaced the one that the download was for.
        return found if info is not None and check_against(model.manifest, info) is None else None

    def info_of(self, model: Model) -> BlobInfo | None:
        """The complete blob of a model, if it is here and what the manifest says of it holds."""
        blob = self.blob_of(model)
        info = self.store.info(blob) if blob is not None else None
        if info is None or check_against(model.manifest, info) is not None:
            return None
        return info

    def ready_info(self, model: Model) -> BlobInfo | None:
        """The complete blob of a model that :meth:`set_ready` was called for; None for any other."""
        return self.info_of(model) if self.state(model).verified_at is not None else None

    # State

    def state(self, model: Model) -> LocalState:
        """What is remembered of a model."""
        return self._states.get((model.publisher, model.record.key), LocalState())

    def remember(self, model: Model, state: LocalState) -> None:
        """Remember this of a model, durably."""
        self._states[model.publisher, model.record.key] = state
        self._database.execute(
            "INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                model.publisher,
                model.record.key,
                state.blob,
                state.path,
                state.verified_at,
                state.error,
                int(state.failed),
                int(state.removed),
            ),
        )

    def set_ready(self, model: Model, info: BlobInfo) -> Path:
        """Note that a model's blob is here and verified, and put it under ``models/``.

        Returns:
            Where the model's file is.
        """
        path = self._place(model, info)
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        relative = str(path.relative_to(self.config.data_dir))
        self.remember(model, LocalState(blob=info.hash, path=relative, verified_at=now))
        return path

    def place_all(self, publisher: str) -> None:
        """Put the ready models of a publisher, who is trusted now, in their places."""
        for model in self.models():
            info = self.ready_info(model) if model.publisher == publisher else None
            if info is not None:
                self.set_ready(model, info)

    def _place(self, model: Model, info: BlobInfo) -> Path:
        """``models/<id>/<file>``, or the blob itself where another publisher's model has that name.

        An untrusted publisher's model has no name under ``models/``: a runtime that looks there would use it.
        """
        if not model.trusted:
            return info.path
        wanted = f"models/{model.manifest.model_id}/{model.manifest.filename()}"
        for other in self.models():
            same = (other.publisher, other.record.key) == (model.publisher, model.record.key)
            if not same and other.trusted and self.state(other).path == wanted:
                if self.blob_of(other) == info.hash or self.ready_info(other) is None:
                    continue
                log.warning("model file name is taken", model=str(model), by=other.publisher)
                return info.path
        return self.store.link_model(info.hash, model.manifest.model_id, model.manifest.filename())

    def path_of(self, model: Model, info: BlobInfo) -> Path:
        """Where a ready model's file is: where it was put, or the blob, if somebody has taken that away."""
        placed = self.state(model).path
        path = self.config.data_dir / placed if placed is not None else info.path
        return path if path.is_file() else info.path

    def remove(self, target: Target, *, force: bool) -> int:
        """Remove a target's blob, complete or not, and the name under ``models/``; returns the bytes freed.

        Raises:
            InUse: it is pinned and ``force`` is not given, or it is being read.
            NotFound: it is not here.
        """
        if target.blob is None:
            raise NotFound("nothing of it is here")
        freed = self.store.remove(target.blob, force=force)
        for model in self.models():
            if self.blob_of(model) != target.blob:
                continue
            placed = self.state(model).path
            if placed is not None and placed.startswith("models/"):
                unlink_durable(self.config.data_dir / placed)
            self.remember(model, LocalState(blob=self.state(model).blob, removed=True))
        return freed

    def view(self, model: Model, *, progress: float | None) -> ModelView:
        """A model as scripts and people see it.

        Args:
            model: which.
            progress: 0..1 while it is being downloaded, else None.
        """
        state = self.state(model)
        info = self.ready_info(model)
        if info is not None:
            status, done = ModelStatus.READY, 1.0
        elif progress is not None:
            status, done = ModelStatus.DOWNLOADING, min(1.0, max(0.0, progress))
        else:
            status = ModelStatus.FAILED if state.failed else ModelStatus.AVAILABLE
            done = self._partial_progress(model)
        blob = self.blob_of(model)
        return ModelView(
            model_id=model.manifest.model_id,
            version=model.manifest.version,
            publisher=model.publisher,
            trusted=model.trusted,
            status=status.value.lower(),
            download_progress=done,
            size_bytes=model.manifest.size_bytes,
            blob_hash=blob.hex() if blob else None,
            local_path=str(self.path_of(model, info)) if info else None,
            error=None if info else state.error,
        )

    def _partial_progress(self, model: Model) -> float:
        blob = self.blob_of(model)
        for partial in self.store.partials() if blob else []:
            if partial.hash == blob and partial.size:
                return partial.verified_bytes / partial.size
        return 0.0

    # Intents: what a person asked for and a crash must not lose

    def add_intent(self, target: str, source: str) -> None:
        """Note that this target is to be fetched, until :meth:`drop_intent`."""
        self._database.execute("INSERT OR REPLACE INTO intents VALUES (?, ?)", (target, source))

    def drop_intent(self, target: str) -> None:
        """The target was fetched, or is not wanted any more."""
        self._database.execute("DELETE FROM intents WHERE target = ?", (target,))

    def intents(self) -> list[tuple[str, str]]:
        """What was being fetched on request when the node stopped: (target, source choice)."""
        return [
            (str(row[0]), str(row[1])) for row in self._database.execute("SELECT * FROM intents")
        ]


def check_against(manifest: ModelManifest, info: BlobInfo) -> str | None:
    """What of a manifest a blob contradicts, in words; None where they agree."""
    if manifest.size_bytes and manifest.size_bytes != info.size:
        return f"the file has {info.size} bytes, the manifest says {manifest.size_bytes}"
    if manifest.sha256 and manifest.sha256 != info.sha256:
        return f"the file's SHA-256 is {info.sha256}, the manifest says {manifest.sha256}"
    return None


@contextmanager
def open_library(config: Config) -> Iterator[Library]:
    """Open a data directory for this process alone, and make what is missing in it.

    Raises:
        DataDirLocked: another process works in it.
        StorageError: it cannot be read or written, or is damaged.
        UsageError: a trusted publisher in the configuration is no peer id.
    """
    with locked_data_dir(config.data_dir):
        identity = load_or_create(config.data_dir / "identity.key")
        database = Database.open(config.data_dir / "peatnet.db")
        try:
            store = Store.open(
                config.data_dir,
                database,
                quota=config.quota_bytes,
                free_floor=config.free_floor_bytes,
            )
            ledger = Ledger(database, identity.keys, config.trusted_publishers)
            yield Library(config, identity, database, store, ledger)
        finally:
            database.close()
