"""What became of update commands on this node: a table in peatnet.db, so that each is done once."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from peatnet.blobs.rows import readable

if TYPE_CHECKING:
    from peatnet.blobs import Database
    from peatnet.deploy.orders import Directive, Order

KEPT: Final = 8
"""Of one publisher's commands on one model, those that ended; the newest, whose order says what is too old."""

_SCHEMA = """
CREATE TABLE orders (
    publisher TEXT NOT NULL,
    model_id TEXT NOT NULL,
    command_id TEXT NOT NULL,
    version TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    record BLOB NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (publisher, model_id, command_id)
) STRICT, WITHOUT ROWID;
"""


_DELETE = "DELETE FROM orders WHERE publisher = ? AND model_id = ? AND command_id = ?"


class OrderState(StrEnum):
    """How far a command is, on disk."""

    BEGUN = "begun"
    ACTIVATING = "activating"
    """Whether it has been put into service, the activator knows."""
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"


ENDED: Final = frozenset({OrderState.DONE, OrderState.FAILED})
"""Those of which no older command is followed any more."""

_OPEN: Final = frozenset({OrderState.BEGUN, OrderState.ACTIVATING})


@dataclass(frozen=True, slots=True)
class OrderEntry:
    """What became of one command.

    Attributes:
        publisher: who signed it.
        model_id: which model it is about.
        command_id: the command's.
        version: which version of the model was to be put into service.
        order: where it stands among all commands.
        state: how far it is.
        reason: why it failed, in words; "" where it did not.
    """

    publisher: str
    model_id: str
    command_id: str
    version: str
    order: Order
    state: OrderState
    reason: str = ""

    @property
    def name(self) -> tuple[str, str, str]:
        """As `Directive.name`."""
        return self.publisher, self.model_id, self.command_id

    @property
    def is_open(self) -> bool:
        """Whether it has come to no end yet."""
        return self.state in _OPEN


def _read(  # a column each
    publisher: str,
    model_id: str,
    command_id: str,
    version: str,
    sequence: int,
    record: bytes,
    state: str,
    reason: str,
) -> OrderEntry:
    order = sequence, record
    return OrderEntry(publisher, model_id, command_id, version, order, OrderState(state), reason)


class OrderTable:
    """The table, and what it says in memory. Whatever changes it blocks on the disk, which comes first.

    Any thread may read and change it: what readers look at is never changed but replaced, by one writer at a time.

    Raises:
        StorageError, DiskFull: from every method that writes; nothing is changed then.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writing = threading.Lock()
        database.script("orders-1", _SCHEMA)
        rows = database.execute(
            "SELECT publisher, model_id, command_id, version, sequence, record, state, reason"
            " FROM orders"
        )
        self._entries = {entry.name: entry for entry in readable("orders", rows, _read)}

    def entries(self) -> list[OrderEntry]:
        """All of them, oldest first."""
        return sorted(self._entries.values(), key=lambda entry: entry.order)

    def get(self, directive: Directive) -> OrderEntry | None:
        """What became of a command; asked for its cancellation, too."""
        return self._entries.get(directive.name)

    def marks(self) -> dict[tuple[str, str], Order]:
        """The newest command that has ended, by model and publisher."""
        found: dict[tuple[str, str], Order] = {}
        for entry in self._entries.values():
            if entry.state in ENDED:
                key = entry.model_id, entry.publisher
                found[key] = max(entry.order, found.get(key, entry.order))
        return found

    def may_have_forgotten(self, directive: Directive) -> bool:
        """Whether a command of which nothing is known here may have ended here all the same, long ago."""
        ended = [
            entry.order
            for entry in self._entries.values()
            if entry.name[:2] == directive.name[:2] and not entry.is_open
        ]
        return len(ended) >= KEPT and directive.order < min(ended)

    def put(self, entry: OrderEntry) -> None:
        """Remember this of a command, and forget what is long past of the others."""
        with self._writing:
            ended = sorted(
                (
                    other
                    for other in self._entries.values()
                    if other.name[:2] == entry.name[:2]
                    and other.name != entry.name
                    and not other.is_open
                ),
                key=lambda other: other.order,
            )
            gone = {other.name for other in ended[: 1 - KEPT]}
            with self._database.transaction() as database:
                database.execute(
                    "INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (*entry.name, entry.version, *entry.order, entry.state.value, entry.reason),
                )
                for name in gone:
                    database.execute(_DELETE, name)
            kept = {name: other for name, other in self._entries.items() if name not in gone}
            self._entries = kept | {entry.name: entry}

    def forget(self, entry: OrderEntry) -> None:
        """Nothing has become of a command, nor will."""
        with self._writing:
            self._database.execute(_DELETE, entry.name)
            self._entries = {
                name: other for name, other in self._entries.items() if name != entry.name
            }

    def end(self, entry: OrderEntry, state: OrderState, reason: str = "") -> OrderEntry:
        """A command has come to this."""
        ended = replace(entry, state=state, reason=reason)
        self.put(ended)
        return ended
