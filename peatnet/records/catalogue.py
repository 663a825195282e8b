"""The catalogue: every record a node holds, and the one rule that merges them.

Theory. A record belongs to a slot, (publisher, kind, key), and the records of a slot are totally ordered by
(sequence, id). A catalogue maps each slot to the greatest record it was offered, so the state is a join
semilattice and `offer` is the join with a single record: whatever arrives, in whatever order, however often and
by whatever path, two nodes that were offered the same records hold the same catalogue. A withdrawal shares
the slot of its manifest, so the newer of the two counts, and an old manifest that is replayed changes nothing.

    the slot holds      the record offered is    outcome       the slot then holds
    nothing             -                        ACCEPTED      the record
    an older one        -                        ACCEPTED      the record
    the same one        -                        DUPLICATE     as before
    a newer one         -                        STALE         as before
    nothing             of too old a command     STALE         as before
    nothing, older      over the limits          REFUSED       as before

Commands would pile up for good, as each has a slot of its own. So of one publisher and model only the newest
``CatalogueLimits.commands`` slots of that kind are held. The order of a slot's record only grows, and what falls out
has that many above it for good, so this is a join still: the newest so many of all that was offered, in whatever
order.

The last line is where the theory ends: memory is finite and anybody can make keys and sign. Limits bind publishers
that are not trusted; a trusted one is bound only by a large total, from which it may always have as much as an
untrusted one, so no publisher can use up the room of another. Once a limit is reached, two nodes may differ in what
they hold of that publisher.

No I/O, no clock. Not thread-safe. Signatures are not checked here: a `Record` has a good one by construction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from peatnet.errors import StaleRecord
from peatnet.records.record import MAX_SEQUENCE, Record, RecordType, id_of, slot_of
from peatnet.records.summary import TIE_BYTES, SetDigest, SlotSummary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peatnet.records.keys import PeerId


MAX_COMMANDS = 64

_NONE = (-1, b"")  # older than any (sequence, tie)


class Outcome(StrEnum):
    """What became of a record that was offered; the module's table says when."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    STALE = "stale"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Bound:
    """So many records, and so many bytes of envelopes (a record takes about twice that in memory)."""

    records: int
    size: int


@dataclass(frozen=True, slots=True)
class CatalogueLimits:
    """How much a catalogue takes in.

    Args:
        trusted: of all trusted publishers together, beyond what `publisher` gives to each of them.
        untrusted: of all other publishers together.
        publisher: of one publisher that is not trusted; what one that is trusted may have in any case.
        refused: how many refused slots are remembered, so that they are not asked for again and again; and as many that
            were put off.
        commands: of one publisher on one model, canceled ones included.
    """

    trusted: Bound = Bound(65_536, 256 * 2**20)
    untrusted: Bound = Bound(4_096, 16 * 2**20)
    publisher: Bound = Bound(256, 2**20)
    refused: int = 8_192
    commands: int = MAX_COMMANDS


@dataclass(slots=True)
class _Tally:
    records: int = 0
    size: int = 0

    def fits(self, bound: Bound, *, records: int = 0, size: int = 0) -> bool:
        return self.records + records <= bound.records and self.size + size <= bound.size

    def add(self, records: int, size: int) -> None:
        self.records += records
        self.size += size


@dataclass(slots=True)
class _Publisher:
    held: _Tally = field(default_factory=_Tally)
    highest: int = -1  # sequence number


class Catalogue:
    """All records a node holds, the newest of each slot.

    Two catalogues are equal when they hold the same records; trust and limits are each node's own affair.

    Args:
        trusted: the publishers that are trusted at the start.
        limits: how much is taken in.
    """

    def __init__(
        self, trusted: Iterable[PeerId] = (), *, limits: CatalogueLimits | None = None
    ) -> None:
        self._limits = limits or CatalogueLimits()
        self._trusted = set(trusted)
        self._records: dict[bytes, Record] = {}  # by slot
        # Invariants: `_ids` has exactly the records of `_records`; both tallies sum them up; `_publishers` has exactly the
        # publishers in it.
        self._ids: dict[bytes, Record] = {}
        self._totals = {True: _Tally(), False: _Tally()}  # by trust
        self._publishers: dict[PeerId, _Publisher] = {}
        self._commands: dict[tuple[PeerId, str], set[bytes]] = {}  # slots, by publisher and model
        self._pruned: set[bytes] = set()  # slots
        self._digest = SetDigest()
        # By slot, the newest (sequence, tie). The second are not for want of room, and do not stay for long.
        self._refused: dict[bytes, tuple[int, bytes]] = {}
        self._put_off: dict[bytes, tuple[int, bytes]] = {}

    def __eq__(self, other: object) -> bool:
        return self._records == other._records if isinstance(other, Catalogue) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # mutable; the way the data model asks for it

    def __len__(self) -> int:
        return len(self._records)

    # Merging

    def offer(self, record: Record) -> Outcome:
        """Take in one record, if it is news and within the limits."""
        held = self._records.get(record.slot)
        if held is not None:
            if record == held:
                return Outcome.DUPLICATE
            if record.order < held.order:
                return Outcome.STALE
        else:
            held = self._oldest_command(record)
            if held is not None and record.order < held.order:
                self._remember(record, self._refused)
                return Outcome.STALE
        if not self._admits(record, held):
            self._remember(record, self._refused)
            return Outcome.REFUSED
        if held is not None:
            self._drop(held)
            if held.slot != record.slot:
                self._pruned.add(held.slot)
                self._remember(held, self._refused)
        self._put(record)
        return Outcome.ACCEPTED

    def is_news(self, record: Record) -> bool:
        """Whether nothing as new is held in the record's slot."""
        held = self._records.get(record.slot)
        return held is None or record.order > held.order

    def put_off(self, record: Record) -> None:
        """Not take in a record now, nor want it, until :meth:`reconsider` is called."""
        self._remember(record, self._put_off)

    def reconsider(self) -> None:
        """Want again what was put off."""
        self._put_off.clear()

    def merge(self, other: Catalogue) -> list[Record]:
        """Offer everything that `other` holds; returns the records that were accepted."""
        return [record for record in other.records() if self.offer(record) is Outcome.ACCEPTED]

    # Looking

    def holding(self, envelope: bytes) -> Record | None:
        """The record with this envelope, if it is held: then it was verified before, and need not be again."""
        return self._ids.get(id_of(envelope))

    def records(self) -> list[Record]:
        """Everything held, in no particular order."""
        return list(self._records.values())

    def get(
        self, publisher: PeerId, key: str, kind: RecordType = RecordType.MANIFEST
    ) -> Record | None:
        """The record in a slot; for ``kind=MANIFEST`` it may be a withdrawal."""
        return self._records.get(slot_of(publisher.public_key, kind, key))

    def manifests(self) -> list[Record]:
        """The manifests that are not withdrawn, of trusted and untrusted publishers, in no order."""
        return [item for item in self._records.values() if item.type is RecordType.MANIFEST]

    def commands(self) -> list[Record]:
        """The update commands and cancellations, of trusted and untrusted publishers, in no order."""
        return [self._records[slot] for slots in self._commands.values() for slot in slots]

    def take_pruned(self) -> set[bytes]:
        """The slots of commands that newer ones have pushed out since this was asked last."""
        pruned, self._pruned = self._pruned, set()
        return pruned - self._records.keys()

    def next_sequence(self, publisher: PeerId, now_us: int) -> int:
        """The sequence number for the publisher's next record.

        It is greater than that of all its records held here; the time is only a floor for it, so that a node that
        has lost its data goes on above what it published before. Offer the record before asking again.

        Args:
            publisher: who is going to sign.
            now_us: microseconds since 1970, below 2**63.

        Raises:
            StaleRecord: the publisher has used the highest number there is.
        """
        known = self._publishers.get(publisher)
        number = now_us if known is None else max(now_us, known.highest + 1)
        if number > MAX_SEQUENCE:
            raise StaleRecord(
                f"publisher {publisher} has used up its sequence numbers",
                hint="start with a new identity, in a new data directory",
            )
        return number

    # Anti-entropy

    def digest(self) -> bytes:
        """32 bytes that are equal for equal catalogues, and differ otherwise; takes constant time."""
        return self._digest.digest()

    def summary(self) -> list[SlotSummary]:
        """One entry for each record held, ascending by slot."""
        return [
            SlotSummary(slot, item.sequence, item.id[:TIE_BYTES])
            for slot, item in sorted(self._records.items())
        ]

    def wants(self, summary: Iterable[SlotSummary]) -> list[bytes]:
        """The slots for which `summary` has something newer than is held here, in its order.

        What was refused before is left out until trust changes, and what was put off until it is reconsidered.
        """
        found: list[bytes] = []
        for item in summary:
            offered = item.sequence, item.tie
            held = self._records.get(item.slot)
            if held is not None and offered <= (held.sequence, held.id[:TIE_BYTES]):
                continue
            refused = self._refused.get(item.slot, _NONE)
            if offered > refused and offered > self._put_off.get(item.slot, _NONE):
                found.append(item.slot)
        return found

    def by_slots(self, slots: Iterable[bytes]) -> list[Record]:
        """The records held in these slots, each once, in the order asked for; unknown slots are left out."""
        unique = dict.fromkeys(slots)
        return [self._records[slot] for slot in unique if slot in self._records]

    # Trust

    @property
    def trusted(self) -> frozenset[PeerId]:
        """The publishers that are trusted now."""
        return frozenset(self._trusted)

    def is_trusted(self, publisher: str) -> bool:
        """True when the publisher's records count."""
        return publisher in self._trusted

    def trust(self, publisher: PeerId) -> None:
        """Let the publisher's records count. What was refused before will be wanted again."""
        if publisher not in self._trusted:
            self._trusted.add(publisher)
            self._move_tally(publisher, trusted=True)
            self._refused.clear()
            self._put_off.clear()

    def distrust(self, publisher: PeerId) -> list[Record]:
        """Stop trusting a publisher; returns what had to go because the limits bind it now, oldest first."""
        if publisher not in self._trusted:
            return []
        self._trusted.discard(publisher)
        self._move_tally(publisher, trusted=False)
        self._refused.clear()
        return self._trim(publisher)

    # Limits

    def _admits(self, record: Record, held: Record | None) -> bool:
        limits = self._limits
        records = 1 if held is None else 0
        size = len(record.envelope) - (0 if held is None else len(held.envelope))
        if records == 0 and size <= 0:
            return True
        trusted = record.publisher in self._trusted
        own = self._publishers.get(record.publisher, _Publisher()).held
        within_own = own.fits(limits.publisher, records=records, size=size)
        if within_own == trusted:
            # A trusted publisher within its own share needs no more; an untrusted one outside has lost.
            return trusted
        total = limits.trusted if trusted else limits.untrusted
        return self._totals[trusted].fits(total, records=records, size=size)

    def _oldest_command(self, record: Record) -> Record | None:
        """The command that has to go for this one, which is in no slot yet; None where there is room."""
        slots = self._commands.get(_group(record), ())
        if record.type.kind != RecordType.COMMAND or len(slots) < self._limits.commands:
            return None
        return min((self._records[slot] for slot in slots), key=lambda item: item.order)

    def _remember(self, record: Record, among: dict[bytes, tuple[int, bytes]]) -> None:
        mark = record.sequence, record.id[:TIE_BYTES]
        known = among.pop(record.slot, mark)
        among[record.slot] = max(known, mark)
        if len(among) > self._limits.refused:
            del among[next(iter(among))]  # the one that came longest ago

    def _trim(self, publisher: PeerId) -> list[Record]:
        own = self._publishers.get(publisher, _Publisher()).held
        total, limits = self._totals[False], self._limits
        oldest_last = sorted(
            (item for item in self._records.values() if item.publisher == publisher),
            key=lambda item: item.order,
            reverse=True,
        )
        dropped: list[Record] = []
        while oldest_last and not (own.fits(limits.publisher) and total.fits(limits.untrusted)):
            dropped.append(oldest_last.pop())
            self._drop(dropped[-1])
        return dropped

    # Bookkeeping: the only places where the state changes

    def _put(self, record: Record) -> None:
        self._records[record.slot] = self._ids[record.id] = record
        if record.type.kind == RecordType.COMMAND:
            self._commands.setdefault(_group(record), set()).add(record.slot)
        self._digest.add(record.id)
        publisher = self._publishers.setdefault(record.publisher, _Publisher())
        publisher.highest = max(publisher.highest, record.sequence)
        publisher.held.add(1, len(record.envelope))
        self._totals[record.publisher in self._trusted].add(1, len(record.envelope))

    def _drop(self, record: Record) -> None:
        del self._records[record.slot], self._ids[record.id]
        if record.type.kind == RecordType.COMMAND:
            group = self._commands[_group(record)]
            group.remove(record.slot)
            if not group:
                del self._commands[_group(record)]
        self._digest.remove(record.id)
        publisher = self._publishers[record.publisher]
        publisher.held.add(-1, -len(record.envelope))
        self._totals[record.publisher in self._trusted].add(-1, -len(record.envelope))
        if publisher.held.records == 0:
            del self._publishers[record.publisher]

    def _move_tally(self, publisher: PeerId, *, trusted: bool) -> None:
        held = self._publishers.get(publisher, _Publisher()).held
        self._totals[not trusted].add(-held.records, -held.size)
        self._totals[trusted].add(held.records, held.size)


def _group(record: Record) -> tuple[PeerId, str]:
    return record.publisher, record.model_id
