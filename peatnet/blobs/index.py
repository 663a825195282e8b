"""The store's own tables in peatnet.db: which blobs are complete, and who pins what."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final

from peatnet.blobs.hashes import HASH_BYTES, Hash, is_sha256
from peatnet.blobs.table import is_chunk_size
from peatnet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from peatnet.blobs.database import Database

_SCHEMA = """
CREATE TABLE blobs (
    hash BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    chunk_size INTEGER NOT NULL,
    table_hash BLOB NOT NULL,
    sha256 TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE pins (
    hash BLOB NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (hash, reason)
) STRICT, WITHOUT ROWID;
"""

_PUT: Final = (
    "INSERT OR REPLACE INTO blobs (hash, size, chunk_size, table_hash, sha256)"
    " VALUES (?, ?, ?, ?, ?)"
)

DOWNLOAD = "download"
"""The reason that a blob is pinned for while it is being fetched."""

USER = "user"
"""The reason for which somebody asked to keep a blob."""
REBUILT = "rebuilt"
"""The reason that a blob is pinned for which was found on disk by an index that knew nothing of it, nor why it was kept."""

MAX_REASON: Final = 64
"""The most characters that the reason of a pin may have."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the index says of one blob. The blob is complete when its file is there as well."""

    hash: Hash
    size: int
    chunk_size: int
    table_hash: Hash
    sha256: str | None


class Index:
    """Typed access to the two tables; thread-safe, as the database is."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: Counter[tuple[Hash, str]] = Counter()
        self._holding = Lock()
        database.script("blobs-1", _SCHEMA)

    def rows(self) -> list[Row]:
        """All rows that make sense."""
        return self._select("")

    def get(self, blob: Hash) -> Row | None:
        """The row of one blob, if there is one that makes sense."""
        found = self._select(" WHERE hash = ?", blob)
        return found[0] if found else None

    def _select(self, where: str, *parameters: bytes) -> list[Row]:
        sql = f"SELECT hash, size, chunk_size, table_hash, sha256 FROM blobs{where}"  # noqa: S608  # texts of ours
        found = self._database.execute(sql, parameters)
        return [
            Row(Hash(name), size, chunk_size, Hash(table_hash), sha256 or None)
            for name, size, chunk_size, table_hash, sha256 in found
            if len(name) == len(table_hash) == HASH_BYTES
            and size > 0
            and is_chunk_size(chunk_size)
            and (not sha256 or is_sha256(sha256))
        ]

    def put(self, row: Row, reason: str | None = None) -> None:
        """Enter a blob, replacing what was known of it, and pin it where there is a reason."""
        if reason is None:
            self._database.execute(_PUT, _values(row))
            return
        with self._database.transaction():
            self._database.execute(_PUT, _values(row))
            self.pin(row.hash, reason)

    def put_all(self, rows: Iterable[Row]) -> None:
        """Enter blobs, all or none, in one write to the disk."""
        with self._database.transaction():
            self._database.execute_many(_PUT, map(_values, rows))

    def drop(self, blob: Hash) -> bool:
        """Forget a blob; its pins stay. Whether it was known."""
        sql = "DELETE FROM blobs WHERE hash = ? RETURNING hash"
        return bool(self._database.execute(sql, (blob,)))

    def pin(self, blob: Hash, reason: str) -> None:
        """Keep a blob, for a reason."""
        self._database.execute("INSERT OR IGNORE INTO pins VALUES (?, ?)", (blob, reason))

    def unpin(self, blob: Hash, reason: str | None) -> None:
        """Take back one reason, or all of them."""
        if reason is None:
            self._database.execute("DELETE FROM pins WHERE hash = ?", (blob,))
        else:
            self._database.execute("DELETE FROM pins WHERE hash = ? AND reason = ?", (blob, reason))

    @contextmanager
    def held(self, blobs: Iterable[Hash], reason: str) -> Iterator[None]:
        """Keep blobs, for a reason, until the context ends or the process does: in memory only."""
        holds = [(blob, reason) for blob in blobs]
        with self._holding:
            self._held.update(holds)
        try:
            yield
        finally:
            with self._holding:
                self._held.subtract(holds)
                self._held += Counter()  # drops those at zero

    def pins(self) -> dict[Hash, set[str]]:
        """All pins and holds: the reasons by blob."""
        found: dict[Hash, set[str]] = {}
        with self._holding:
            held = list(self._held)
        for blob, reason in held:
            found.setdefault(blob, set()).add(reason)
        for name, reason in self._database.execute("SELECT hash, reason FROM pins"):
            if len(name) == HASH_BYTES:
                found.setdefault(Hash(name), set()).add(reason)
        return found


def check_reason(text: str) -> str:
    """A reason for a pin as it was given.

    Raises:
        UsageError: it is empty or too long.
    """
    if not text or len(text) > MAX_REASON:
        raise UsageError(f"not a reason for a pin: {text[:MAX_REASON]!r}")
    return text


def _values(row: Row) -> tuple[Hash, int, int, Hash, str]:
    return row.hash, row.size, row.chunk_size, row.table_hash, row.sha256 or ""
