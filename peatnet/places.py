"""Names under ``models/``: which file a model has there, and which names must stay because runtimes use them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from peatnet.blobs import Link
from peatnet.blobs.durable import unlink_durable
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from peatnet.blobs import BlobInfo, Database, Store
    from peatnet.deploy.activator import Activator
    from peatnet.models import ModelManifest
    from peatnet.states import Key, States

_MODELS: Final = "models/"
_HASH_DIGITS: Final = 8

_SCHEMA = "CREATE TABLE leftover_names (path TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;"

log = get_logger(__name__)


def is_name(path: str) -> bool:
    """Whether the path of a model is a name of its own, not its blob's."""
    return path.startswith(_MODELS)


class Places:
    """The names of one data directory. All methods block; the caller sees to it that they take turns.

    A name that the link ``current`` leads to, or soon may, is neither given to another file nor taken away: it is
    noted as left over instead, and goes when it is not in service any more.

    Args:
        data_dir: where ``models/`` is.
        database: peatnet.db.
        store: whose blobs have names.
        states: says which model has which name.
        activator: says which are in service.
    """

    def __init__(
        self,
        data_dir: Path,
        database: Database,
        store: Store,
        states: States,
        activator: Activator,
    ) -> None:
        self._data_dir = data_dir
        self._database = database
        self._store = store
        self._states = states
        self._activator = activator
        database.script("places-1", _SCHEMA)

    def give(
        self, key: Key, manifest: ModelManifest, info: BlobInfo, is_rival: Callable[[Key], bool]
    ) -> Path:
        """Put a blob under ``models/<id>/<file>``; returns where it can be found.

        That is the blob itself where another publisher's model has the name, and a name with some digits of its hash
        where the usual one is in service with other bytes.

        Args:
            key: the model's name among all.
            manifest: the model's.
            info: its blob.
            is_rival: whether another model that has this name is to keep it.
        """
        filename = manifest.filename()
        wanted = f"{_MODELS}{manifest.model_id}/{filename}"
        if self._in_service().get(wanted, info.hash.hex()) != info.hash.hex():
            stem, _, extension = filename.rpartition(".")
            filename = f"{stem}.{info.hash.hex()[:_HASH_DIGITS]}.{extension}"
            wanted = f"{_MODELS}{manifest.model_id}/{filename}"
        rivals = {
            other: state
            for other, state in self._states.items()
            if state.path == wanted and other != key and state.blob != info.hash
        }
        for other in rivals:
            if is_rival(other):
                log.warning("model file name is taken", model=key[1], by=other[0])
                return info.path
        for other, state in rivals.items():
            self._states.put(other, replace(state, path=None))  # the name is no longer its file
        return self._store.link_model(info.hash, manifest.model_id, filename)

    def give_new(self, models: Sequence[tuple[Key, ModelManifest, BlobInfo]]) -> dict[Key, Path]:
        """Do what :meth:`give` does, for many models together: those whose names are new and differ.

        Returns:
            Where those can be found; the others are for :meth:`give`.
        """
        names = {key: f"{_MODELS}{each.model_id}/{each.filename()}" for key, each, _ in models}
        counts = Counter(names.values())
        known = {*self._in_service(), *(state.path for _, state in self._states.items())}
        links = {
            key: Link(info.hash, manifest.model_id, manifest.filename())
            for key, manifest, info in models
            if counts[names[key]] == 1 and names[key] not in known
        }
        return dict(zip(links, self._store.link_models(list(links.values())), strict=True))

    def take(self, path: str) -> None:
        """Remove a name that a model had, unless another one has it too, or it is in service."""
        if not is_name(path) or self._is_used(path):
            return
        if path in self._in_service():
            self._database.execute("INSERT OR IGNORE INTO leftover_names VALUES (?)", (path,))
            return
        unlink_durable(self._data_dir / path)

    def tidy(self) -> None:
        """Remove the names that were left because they were in service, and are not now."""
        rows = self._database.execute("SELECT path FROM leftover_names")
        if not rows:
            return
        needed = self._in_service()
        for (path,) in rows:
            if path not in needed:
                if not self._is_used(path):
                    unlink_durable(self._data_dir / path)
                self._database.execute("DELETE FROM leftover_names WHERE path = ?", (path,))

    def _is_used(self, path: str) -> bool:
        return any(state.path == path for _, state in self._states.items())

    def _in_service(self) -> dict[str, str | None]:
        """The names in service or on their way there, with the blob that each must lead to."""
        return {each.path: each.blob for each in self._activator.involved()}
