"""What a node remembers of each model besides its manifest, and what it was asked for: two tables in peatnet.db."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from peatnet.blobs import Hash
from peatnet.blobs.rows import readable
from peatnet.views import SourceChoice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from peatnet.blobs import Database

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
_SCHEMA_2 = "ALTER TABLE models ADD COLUMN tried BLOB;"
_SCHEMA_3 = "ALTER TABLE intents ADD COLUMN priority INTEGER NOT NULL DEFAULT 3;"

_PUT: Final = (
    "INSERT OR REPLACE INTO models"
    " (publisher, key, blob, path, verified_at, error, failed, removed, tried)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

_ADD_INTENT: Final = (
    "INSERT INTO intents (target, source, priority) VALUES (?, ?, ?) ON CONFLICT (target) DO UPDATE"
    " SET source = excluded.source, priority = min(priority, excluded.priority)"
)

Key = tuple[str, str]
"""A model's name among all: its publisher, and ``model_id@version``."""


@dataclass(frozen=True, slots=True)
class LocalState:
    """What is remembered of one model.

    Attributes:
        blob: which blob it turned out to be; what ``path`` and ``verified_at`` speak of.
        path: where its file was put, relative to the data directory.
        verified_at: when, in RFC 3339; None: it is not known to be good.
        error: why the last fetch failed.
        failed: that trying again will not mend it.
        removed: the operator does not want it here.
        tried: the id of the record that the failed fetch went by; a newer record has not failed yet.
    """

    blob: Hash | None = None
    path: str | None = None
    verified_at: str | None = None
    error: str | None = None
    failed: bool = False
    removed: bool = False
    tried: bytes | None = None


_NOTHING: Final = LocalState()


class Intent(NamedTuple):
    """What somebody asked for.

    Attributes:
        target: the name of its fetch.
        source: which sources it may use.
        priority: 1, the most urgent, to 5.
    """

    target: str
    source: SourceChoice
    priority: int


class States:
    """The two tables. Reading states costs no disk; whatever changes them blocks on it, disk first, memory second.

    Any thread may read. Changes that depend on what was read are for the caller to put in order.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        database.script("library-1", _SCHEMA)
        database.script("library-2", _SCHEMA_2)
        database.script("library-3", _SCHEMA_3)
        rows = database.execute(
            "SELECT publisher, key, blob, path, verified_at, error, failed, removed, tried FROM models"
        )
        self._states = dict(readable("models", rows, _read))

    def get(self, key: Key) -> LocalState:
        """What is remembered of a model."""
        return self._states.get(key, _NOTHING)

    def knows(self, key: Key) -> bool:
        """Whether anything is remembered of a model."""
        return key in self._states

    def items(self) -> list[tuple[Key, LocalState]]:
        """All that is remembered, also of models that do not count any more."""
        return list(self._states.items())

    def put(self, key: Key, state: LocalState) -> None:
        """Remember this of a model."""
        self._database.execute(_PUT, _values(key, state))
        self._states[key] = state

    def put_all(self, states: Mapping[Key, LocalState]) -> None:
        """Remember this of several models, all or none, in one write to the disk."""
        with self._database.transaction():
            self._database.execute_many(_PUT, (_values(*item) for item in states.items()))
        self._states.update(states)

    def forget(self, key: Key) -> None:
        """Remember nothing of a model."""
        self._database.execute("DELETE FROM models WHERE publisher = ? AND key = ?", key)
        self._states.pop(key, None)

    # Intents: what a person asked for and a crash must not lose

    def add_intent(self, intent: Intent) -> None:
        """Note that a target is to be fetched, until :meth:`drop_intents`; of several priorities the most urgent stays."""
        self._database.execute(_ADD_INTENT, intent)

    def drop_intents(self, targets: Iterable[str]) -> None:
        """The targets were fetched, or are not wanted any more."""
        with self._database.transaction():
            for target in targets:
                self._database.execute("DELETE FROM intents WHERE target = ?", (target,))

    def intents(self) -> list[Intent]:
        """What was being fetched on request when the node stopped."""
        rows = self._database.execute("SELECT target, source, priority FROM intents")
        return readable("intents", rows, _read_intent)


def _read_intent(target: str, source: str, priority: int) -> Intent:
    return Intent(target, SourceChoice(source), priority)


def _read(  # noqa: PLR0917  # a column each
    publisher: str,
    key: str,
    blob: bytes | None,
    path: str | None,
    verified_at: str | None,
    error: str | None,
    failed: int,
    removed: int,
    tried: bytes | None,
) -> tuple[Key, LocalState]:
    found = Hash(blob) if blob else None
    state = LocalState(found, path, verified_at, error, bool(failed), bool(removed), tried)
    return (publisher, key), state


def _values(key: Key, state: LocalState) -> tuple[Any, ...]:
    return (
        *key,
        state.blob,
        state.path,
        state.verified_at,
        state.error,
        int(state.failed),
        int(state.removed),
        state.tried,
    )
