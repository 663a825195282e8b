"""The catalogue and its place on disk: what a node has heard, and whom it trusts.

The catalogue decides in memory; what it accepts is written to peatnet.db in one transaction a batch. A crash
between the two loses only what peers hold and will send again. Our own records, and whom we trust, are written
first: nobody hears of a record that a crash, or a full disk, could take back.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import trio

from peatnet.blobs.rows import readable
from peatnet.errors import PeatnetError, StaleRecord, StorageError, UsageError
from peatnet.log import get_logger
from peatnet.net.ports import Taken
from peatnet.net.remembered import Allowances
from peatnet.net.standing import Allowance
from peatnet.records import (
    Catalogue,
    KeyPair,
    Outcome,
    PeerId,
    Record,
    RecordType,
    open_record,
    sign_record,
)
from peatnet.records.bodies import check_body, decode_manifest
from peatnet.targets import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from peatnet.blobs import Database
    from peatnet.models import ModelManifest

_SCHEMA = """
CREATE TABLE records (slot BLOB PRIMARY KEY, envelope BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE trusted (peer_id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
"""

# A signature check takes some 80 us: after so many, others get their turn.
_BREATH = 32
# Records a second of publishers that are not trusted, of all of them together, that are news and are kept; and the burst, for a node that
# is new in its network: all that it keeps of them in any case, see `CatalogueLimits.untrusted`. Each that comes by gossip is a write to the
# disk, and what makes them costs nothing: any number of keys, each with a record that it replaces again and again.
STRANGERS_RATE = 10.0
STRANGERS_BURST = 4096.0
# What one peer may use up of that: whoever floods leaves some for what others bring.
BRINGER_RATE = STRANGERS_RATE / 4
BRINGER_BURST = STRANGERS_BURST / 2

log = get_logger(__name__)


class Draft(NamedTuple):
    """A record of our own that is to be signed: what it says, what it is about, and its JSON."""

    type: RecordType
    key: str
    body: str


class Ledger:
    """All records that this node holds, kept in its database.

    Args:
        database: peatnet.db.
        keys: our own; a node trusts itself.
        trusted: publishers that the configuration names.

    Attributes:
        catalogue: the records; change it through this object only.
        on_change: called with each record that was news, once it is on disk or the disk has refused it.
    """

    def __init__(self, database: Database, keys: KeyPair, trusted: Iterable[PeerId]) -> None:
        self._database = database
        self._keys = keys
        self._configured = set(trusted)
        database.script("ledger-1", _SCHEMA)
        added = readable("trusted", database.execute("SELECT peer_id FROM trusted"), PeerId.parse)
        self.catalogue = Catalogue({keys.peer_id, *self._configured, *added})
        self.on_change: list[Callable[[Record], None]] = []
        self._models: dict[bytes, Model] = {}
        # All of them in order, and how often they had changed when they were put in order: a node looks at all of its
        # models again and again.
        self._changes = 0
        self._in_order: tuple[int, list[Model]] = (0, [])
        self._strangers = Allowance(STRANGERS_RATE, STRANGERS_BURST)
        self._bringers = Allowances(BRINGER_RATE, BRINGER_BURST)
        self._behind: set[bytes] = (
            set()
        )  # slots that the disk may have otherwise than the catalogue
        # Held while records are written or signed: of two records for a slot, the newer must be on disk last.
        self._writing = trio.Lock()
        self._load()

    def _load(self) -> None:
        for (envelope,) in self._database.execute("SELECT envelope FROM records"):
            try:
                record = open_record(envelope)
                manifest = _check_body(record)
            except PeatnetError as exc:
                # Written by a newer version, or damaged: peers have it if it is worth having.
                log.warning("record in peatnet.db left out", reason=exc.message)
                continue
            if self.catalogue.offer(record) is Outcome.ACCEPTED:
                self._note(record, manifest)

    def models(self) -> list[Model]:
        """Every manifest that is not withdrawn, trusted ones first, then by name and publisher. Any thread may ask."""
        changes, models = self._in_order
        if changes != self._changes:
            # First this: what changes while they are put in order is seen the next time.
            changes = self._changes
            models = sorted(
                self._models.values(),
                key=lambda item: (not item.trusted, str(item), item.publisher),
            )
            self._in_order = changes, models
        return list(models)

    async def take(self, envelopes: Sequence[bytes], by: str = "") -> list[Taken]:
        """Take in records from anywhere: each is verified, its body checked, and kept where it is news.

        Of publishers that are not trusted only so many a second are kept; the others are refused, and put off.

        Args:
            envelopes: the records.
            by: the peer that has brought them; empty for nobody, who may bring any number.

        Returns:
            One entry for each envelope, in order; a bad one does not stop the others.

        Raises:
            DiskFull, StorageError: the database refused the write.

        Cancellation: what was accepted before is kept and told of all the same.
        """
        results: list[Taken] = []
        try:
            for number, envelope in enumerate(envelopes):
                if number % _BREATH == _BREATH - 1:
                    await trio.lowlevel.checkpoint()
                results.append(self._take_one(envelope, by))
        finally:
            news = [
                entry.record
                for entry in results
                if entry.outcome is Outcome.ACCEPTED and entry.record is not None
            ]
            # The catalogue holds them now, whatever becomes of this call.
            try:
                with trio.CancelScope(shield=True):
                    await self._persist(news)
            finally:
                self._tell(news)
        return results

    def _take_one(self, envelope: bytes, by: str) -> Taken:
        if (held := self.catalogue.holding(envelope)) is not None:
            return Taken(held, Outcome.DUPLICATE)
        try:
            record = open_record(envelope)
            manifest = _check_body(record)
        except PeatnetError as exc:
            return Taken(None, None, exc)
        bounded = bool(by) and not self.is_trusted(record.publisher)
        if bounded and self.catalogue.is_news(record) and not self._may_bring(by):
            self.catalogue.put_off(record)
            return Taken(record, Outcome.REFUSED)
        outcome = self.catalogue.offer(record)
        if outcome is Outcome.ACCEPTED:
            self._note(record, manifest)
            if bounded:
                now = trio.current_time()
                self._strangers.take(now)
                self._bringers.of(by).take(now)
        return Taken(record, outcome)

    def _may_bring(self, by: str) -> bool:
        now = trio.current_time()
        return not (self._strangers.wait(now) or self._bringers.of(by).wait(now))

    async def sign(
        self, record_type: RecordType, key: str, body: str, *, above: int = -1
    ) -> Record:
        """Sign a record of our own, put it into the catalogue and on disk.

        Args:
            record_type: what it says.
            key: what it is about.
            body: as JSON.
            above: another publisher's sequence number that this one's must exceed.

        Raises:
            InvalidManifest: the body is not what the type wants.
            StaleRecord: a newer record of ours has come from elsewhere.
            StorageError: the catalogue is full.
            DiskFull, StorageError: the database refused the write; nothing is published.
        """
        (signed,) = await self.sign_all([Draft(record_type, key, body)], above=above)
        if isinstance(signed, PeatnetError):
            raise signed
        return signed

    async def sign_all(
        self, drafts: Sequence[Draft], *, above: int = -1
    ) -> list[Record | PeatnetError]:
        """Do what :meth:`sign` does for several records, at the price of one write to the disk.

        Returns:
            For each draft, in order, its record, or why it was not signed.

        Raises:
            DiskFull, StorageError: the database refused the write; none of them is published.
        """
        results: list[Record | PeatnetError] = []
        news: list[Record] = []
        refused: list[Record] = []
        async with self._writing:
            floor = max(time.time_ns() // 1000, above + 1)
            first = self.catalogue.next_sequence(self._keys.peer_id, floor)
            for made in await trio.to_thread.run_sync(self._sign, drafts, first):
                if isinstance(made, PeatnetError):
                    results.append(made)
                    continue
                record, manifest = made
                outcome = self.catalogue.offer(record)
                if outcome is Outcome.ACCEPTED:
                    self._note(record, manifest)
                    news.append(record)
                    results.append(record)
                else:
                    refused.append(record)
                    results.append(_not_signed(record, outcome))
            self._behind.update(record.slot for record in refused)
            await self._catch_up()
        self._tell(news)
        return results

    def _sign(
        self, drafts: Sequence[Draft], first: int
    ) -> list[tuple[Record, ModelManifest | None] | PeatnetError]:
        """Sign what can be signed, with the sequence numbers from ``first`` on, and put it on disk. Blocks."""
        made: list[tuple[Record, ModelManifest | None] | PeatnetError] = []
        for sequence, draft in enumerate(drafts, first):
            body = draft.body.encode()
            try:
                record = sign_record(self._keys, draft.type, draft.key, sequence, body)
                made.append((record, _check_body(record)))
            except PeatnetError as exc:
                made.append(exc)
        self._write_records([entry[0] for entry in made if not isinstance(entry, PeatnetError)])
        return made

    async def trust(self, peer_id: str) -> None:
        """Let a publisher's records count, from now on and after restarts.

        Raises:
            UsageError: it is no peer id.
            DiskFull, StorageError: the database refused the write; nothing has changed.
        """
        parsed = parse_peer_id(peer_id)
        await trio.to_thread.run_sync(
            self._database.execute, "INSERT OR IGNORE INTO trusted VALUES (?)", (str(parsed),)
        )
        self.catalogue.trust(parsed)
        self._trust_changed(parsed)

    async def distrust(self, peer_id: str) -> None:
        """Stop trusting a publisher.

        Raises:
            UsageError: it is no peer id, it is our own, or it is trusted by config.toml.
            DiskFull, StorageError: the database refused the write; nothing has changed, or (where records have
                to go as well) they come back with the next start.
        """
        parsed = parse_peer_id(peer_id)
        if parsed == self._keys.peer_id:
            raise UsageError("a node always trusts itself")
        if parsed in self._configured:
            raise UsageError(
                f"{peer_id} is trusted by the configuration",
                hint="take it out of trusted_publishers (or --trust) and restart",
            )
        await trio.to_thread.run_sync(
            self._database.execute, "DELETE FROM trusted WHERE peer_id = ?", (str(parsed),)
        )
        dropped = self.catalogue.distrust(parsed)
        for record in dropped:
            self._models.pop(record.slot, None)
        self._trust_changed(parsed)
        await self._persist(dropped)

    def counts(self, record: Record) -> bool:
        """Whether this manifest is the newest of its slot and not withdrawn. Any thread may ask."""
        held = self._models.get(record.slot)
        return held is not None and held.record == record

    def is_trusted(self, publisher: str) -> bool:
        """Whether this publisher's records count. What is no peer id is not trusted."""
        # Asked of every model in each look at the catalogue, and checking that an id is one takes 200 us. Ids are
        # text, so one that is trusted equals its plain text.
        return self.catalogue.is_trusted(publisher)

    def trusted(self) -> list[str]:
        """The trusted publishers, ourselves included, sorted."""
        return sorted(str(peer) for peer in self.catalogue.trusted)

    def _note(self, record: Record, manifest: ModelManifest | None) -> None:
        if manifest is not None:
            self._models[record.slot] = Model(record, manifest, self.is_trusted(record.publisher))
        elif record.type is RecordType.WITHDRAWAL:
            self._models.pop(record.slot, None)
        self._changes += 1

    def _trust_changed(self, publisher: PeerId) -> None:
        trusted = self.is_trusted(publisher)
        for slot, model in self._models.items():
            if model.record.publisher == publisher:
                self._models[slot] = Model(model.record, model.manifest, trusted)
        self._changes += 1

    def _tell(self, records: Sequence[Record]) -> None:
        for record in records:
            for callback in self.on_change:
                callback(record)

    async def _persist(self, records: Sequence[Record]) -> None:
        """Write records; those that wait for the same moment go in one write."""
        if records:
            self._behind.update(record.slot for record in records)
            async with self._writing:
                await self._catch_up()

    async def _catch_up(self) -> None:
        """Bring the disk to what the catalogue holds. What it refuses is tried again with the next write.

        So who waits behind a write that failed makes another one, and hears of the error as well.
        """
        slots, self._behind = self._behind | self.catalogue.take_pruned(), set()
        if not slots:
            return
        current = self.catalogue.by_slots(slots)
        gone = slots - {record.slot for record in current}
        try:
            await trio.to_thread.run_sync(self._write_records, current, gone)
        except BaseException:
            self._behind |= slots
            raise

    def _write_records(self, records: Sequence[Record], gone: Iterable[bytes] = ()) -> None:
        with self._database.transaction():
            self._database.execute_many(
                "INSERT OR REPLACE INTO records VALUES (?, ?)",
                [(record.slot, record.envelope) for record in records],
            )
            self._database.execute_many(
                "DELETE FROM records WHERE slot = ?", [(slot,) for slot in gone]
            )


def parse_peer_id(text: str) -> PeerId:
    """A peer id as a person types it.

    Raises:
        UsageError: it is none.
    """
    try:
        return PeerId.parse(text)
    except PeatnetError as exc:
        raise UsageError(
            f"{text!r} is not a peer id: {exc.message}", hint="`peatnet id` prints a node's own"
        ) from exc


def _not_signed(record: Record, outcome: Outcome) -> PeatnetError:
    if outcome is Outcome.REFUSED:
        return StorageError(
            f"{record.key}: the catalogue is full", hint="`peatnet trust remove` makes room"
        )
    return StaleRecord(f"{record.key}: a newer record of this node is known", hint="try again")


def _check_body(record: Record) -> ModelManifest | None:
    """Read the body as its type wants it; the manifest, where it is one.

    Raises:
        InvalidManifest: it is not.
    """
    if record.type is RecordType.MANIFEST:
        return decode_manifest(record)
    check_body(record)
    return None
