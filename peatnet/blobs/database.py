"""peatnet.db: one SQLite file, durable, used by several rooms and threads."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from peatnet.errors import DiskFull, LocalProtocolError, PeatnetError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_SCRIPTS = """
CREATE TABLE IF NOT EXISTS scripts (name TEXT PRIMARY KEY, sql TEXT NOT NULL) STRICT
"""


class Database:
    """A SQLite database in WAL mode with ``synchronous=FULL``: what is committed stays.

    All methods may be called from any thread; one statement or transaction runs at a time.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._lock = threading.RLock()
        self._in_transaction = False
        self._closed = False

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open or create the database file.

        Raises:
            DiskFull: there is no room for what it needs beside it.
            StorageError: it cannot be opened, or is damaged.
        """
        try:
            connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        except sqlite3.Error as exc:
            raise _translated(exc, path) from exc
        database = cls(connection, path)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA foreign_keys = ON")
            database.execute("PRAGMA busy_timeout = 5000")
            database.execute(_SCRIPTS)
        except PeatnetError:
            connection.close()
            raise
        return database

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; outside a transaction it is durable when this returns.

        Returns:
            All rows, already fetched.

        Raises:
            DiskFull: no room for what it would write; nothing is changed.
            StorageError: SQLite refused it.
        """
        with self._lock:
            self._check_open()
            try:
                return self._connection.execute(sql, parameters).fetchall()
            except sqlite3.Error as exc:
                raise _translated(exc, self._path) from exc

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement with each of these rows, in the transaction that this thread is in.

        Raises:
            LocalProtocolError: it is in none, so that each row would be a write to the disk of its own.
            DiskFull: no room for what it would write.
            StorageError: SQLite refused it.
        """
        with self._lock:
            self._check_open()
            if not self._in_transaction:
                raise LocalProtocolError("many statements without a transaction")
            try:
                self._connection.executemany(sql, rows)
            except sqlite3.Error as exc:
                raise _translated(exc, self._path) from exc

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        """All or nothing: commits at the end of the block, rolls back when it raises.

        Other threads wait meanwhile, so keep it short.

        Raises:
            LocalProtocolError: this thread is in a transaction already.
            DiskFull: no room; nothing is changed.
            StorageError: SQLite refused it.
        """
        with self._lock:
            if self._in_transaction:
                raise LocalProtocolError("a transaction within a transaction")
            self.execute("BEGIN IMMEDIATE")
            self._in_transaction = True
            try:
                yield self
                self.execute("COMMIT")
            except BaseException:
                # SQLite may have rolled back by itself, as it does when the disk is full.
                if self._connection.in_transaction:
                    self.execute("ROLLBACK")
                raise
            finally:
                self._in_transaction = False

    def script(self, name: str, sql: str) -> bool:
        """Run a room's set-up or migration once in the life of the file.

        Args:
            name: of this step, as in "records-1"; never reused for another text.
            sql: the statements, each ending in a semicolon.

        Returns:
            Whether it ran now; False when an earlier call had run it.

        Raises:
            LocalProtocolError: the name was used with a different text.
            StorageError: SQLite refused a statement; none of them has had an effect then.
        """
        with self.transaction():
            known = self.execute("SELECT sql FROM scripts WHERE name = ?", (name,))
            if known:
                if known[0][0] != sql:
                    raise LocalProtocolError(f"database script {name!r} has changed")
                return False
            for statement in _statements(sql):
                self.execute(statement)
            self.execute("INSERT INTO scripts VALUES (?, ?)", (name, sql))
            return True

    def close(self) -> None:
        """Close the file; closing again does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise LocalProtocolError("the database is closed")


def _statements(sql: str) -> Iterator[str]:
    # A semicolon may stand inside a string or a trigger; SQLite itself says where one ends.
    current = ""
    for piece in sql.split(";")[:-1]:
        current += piece + ";"
        if sqlite3.complete_statement(current):
            yield current
            current = ""
    rest = current + sql.rpartition(";")[2]
    if rest.strip():
        raise LocalProtocolError(f"a statement without an end: {rest.strip()[:80]!r}")


def _translated(exc: sqlite3.Error, path: Path) -> PeatnetError:
    code = getattr(exc, "sqlite_errorcode", None)
    # The first: no room for the file by which processes share a database, which is made when it is opened.
    if code == sqlite3.SQLITE_IOERR_SHMSIZE or (code or 0) & 0xFF == sqlite3.SQLITE_FULL:
        return DiskFull(f"no room for the database {path}", hint="free some space")
    if code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StorageError(
            f"the database {path} is damaged: {exc}",
            hint="move it elsewhere, then run `peatnet verify --rebuild`",
        )
    # What SQLite finds wrong with a statement of ours: the tables are not those that were made.
    broken = code == sqlite3.SQLITE_ERROR
    hint = (
        "it was changed by something else; put a copy of it back, or move it elsewhere and run `peatnet verify --rebuild`"
        if broken
        else "check who owns the directory"
    )
    return StorageError(f"the database {path}: {exc}", hint=hint)
