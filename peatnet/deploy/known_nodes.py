"""The nodes that were ever heard of, and where our own gossip messages are numbered from: two tables in peatnet.db.

On disk, times are those of the system's clock, the only one that outlives a process. It may jump; a time that lies in
the future means now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peatnet.deploy.fleet import MAX_NODES, KnownNode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peatnet.blobs import Database

_SCHEMA = """
CREATE TABLE known_nodes (
    peer_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    first_seen REAL NOT NULL,
    last_seen REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE gossip_counter (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    next INTEGER NOT NULL
) STRICT;
"""

_ADDRESSES = "ALTER TABLE known_nodes ADD COLUMN addresses TEXT NOT NULL DEFAULT '';"

RESERVED: Final = 2**32
"""Numbers that one run of a node may use: more messages than it will send, and 4 s of its clock, which it counts by."""

_MAX_INTEGER: Final = 2**63 - 1


class KnownNodes:
    """The tables. Every method blocks on the disk.

    Raises:
        StorageError, DiskFull: from every method; nothing is changed then.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        database.script("fleet-1", _SCHEMA)
        database.script("fleet-2", _ADDRESSES)

    def load(self, now: float, wall: float) -> list[KnownNode]:
        """All of them, none of which has said anything in this run.

        Args:
            now: the time on the clock that the result is to be told by.
            wall: the same time on the system's clock.
        """
        rows = self._database.execute(
            "SELECT peer_id, name, sequence, first_seen, last_seen, addresses FROM known_nodes"
            " ORDER BY last_seen DESC LIMIT ?",
            (MAX_NODES,),
        )
        return [
            KnownNode(
                peer_id,
                name,
                sequence,
                first_seen=now - max(0.0, wall - first_seen),
                last_seen=now - max(0.0, wall - last_seen),
                addresses=tuple(addresses.split()),
            )
            for peer_id, name, sequence, first_seen, last_seen, addresses in rows
        ]

    def save(
        self, nodes: Iterable[KnownNode], gone: Iterable[str], now: float, wall: float
    ) -> None:
        """Remember these as they are, and forget those; times as for `load`."""
        with self._database.transaction() as database:
            for peer_id in gone:
                database.execute("DELETE FROM known_nodes WHERE peer_id = ?", (peer_id,))
            for node in nodes:
                database.execute(
                    "INSERT OR REPLACE INTO known_nodes VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        node.peer_id,
                        node.name,
                        min(node.sequence, _MAX_INTEGER),
                        wall - (now - node.first_seen),
                        wall - (now - node.last_seen),
                        " ".join(node.addresses),
                    ),
                )

    def reserve(self, wall_ns: int) -> int:
        """Where the messages of this run are numbered from: above all of earlier runs, whatever the clock says.

        Args:
            wall_ns: the system's clock, in nanoseconds.
        """
        rows = self._database.execute("SELECT next FROM gossip_counter")
        first = max(wall_ns, rows[0][0] if rows else 0)
        self._database.execute(
            "INSERT OR REPLACE INTO gossip_counter VALUES (1, ?)",
            (min(first + RESERVED, _MAX_INTEGER),),
        )
        return int(first)
