"""The ledger: what is on disk is what the catalogue holds, in whatever order things were written."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest
import trio
import trio.testing
from support.records import manifest_of, record_of

from peatnet import ledger as ledger_module
from peatnet.blobs import Database
from peatnet.errors import DiskFull, InvalidManifest, LocalProtocolError
from peatnet.ledger import Draft, Ledger
from peatnet.records import (
    Catalogue,
    KeyPair,
    Outcome,
    Record,
    RecordType,
    open_record,
    sign_record,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

US = KeyPair.from_seed(bytes(32))
THEM = KeyPair.from_seed(bytes([1]) * 32)


class SlowOrFullDatabase(Database):
    """A real database whose next writes wait for a word, or find no room."""

    gate: threading.Event | None = None
    full = False
    count = 0
    """Transactions so far."""

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        self.count += 1
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.wait(2)
        with super().transaction():
            yield self

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if self.full and sql.startswith(("INSERT", "DELETE")):
            raise DiskFull("no room")
        return super().execute(sql, parameters)

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        if self.full:
            raise DiskFull("no room")
        super().execute_many(sql, rows)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SlowOrFullDatabase]:
    opened = SlowOrFullDatabase.open(tmp_path / "peatnet.db")
    assert isinstance(opened, SlowOrFullDatabase)
    yield opened
    opened.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"model" * 1000)
    return path


def withdrawal(keys: KeyPair, key: str, sequence: int) -> bytes:
    model_id, _, version = key.partition("@")
    body = json.dumps({"model_id": model_id, "version": version}).encode()
    return sign_record(keys, RecordType.WITHDRAWAL, key, sequence, body).envelope


async def test_two_writes_at_once_leave_the_newer_record_on_disk(
    database: SlowOrFullDatabase, model: Path
) -> None:
    ledger = Ledger(database, US, [THEM.peer_id])
    gate = database.gate = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.take, [record_of(THEM, manifest_of(model, "m"), 1)])
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ledger.take, [withdrawal(THEM, "m@1.0.0", 2)])
        # The second may not wait for the first; then it is on disk before.
        await trio.testing.wait_all_tasks_blocked(0.1)
        gate.set()
    assert ledger.models() == []
    assert Ledger(database, US, [THEM.peer_id]).models() == []


async def test_a_record_of_ours_that_the_disk_refused_is_heard_of_by_nobody(
    database: SlowOrFullDatabase, model: Path
) -> None:
    ledger = Ledger(database, US, [])
    told: list[str] = []
    ledger.on_change.append(lambda record: told.append(record.key))
    before = ledger.catalogue.digest()
    body = json.dumps(manifest_of(model, "m"))
    database.full = True
    with pytest.raises(DiskFull):
        await ledger.sign(RecordType.MANIFEST, "m@1.0.0", body)
    assert (ledger.catalogue.digest(), ledger.models(), told) == (before, [], [])
    database.full = False
    record = await ledger.sign(RecordType.MANIFEST, "m@1.0.0", body)
    assert told == ["m@1.0.0"]
    assert ledger.counts(record)
    assert Ledger(database, US, []).catalogue.digest() == ledger.catalogue.digest()


async def test_of_several_records_each_is_signed_or_not(
    database: SlowOrFullDatabase, model: Path
) -> None:
    ledger = Ledger(database, US, [])
    told: list[str] = []
    ledger.on_change.append(lambda record: told.append(record.key))
    bodies = {f"{name}@1.0.0": json.dumps(manifest_of(model, name)) for name in "abc"}
    bodies["b@1.0.0"] = "{}"
    drafts = [Draft(RecordType.MANIFEST, key, body) for key, body in bodies.items()]
    drafts.append(Draft(RecordType.MANIFEST, "x" * 301, bodies["a@1.0.0"]))
    first, wrong, second, long = await ledger.sign_all(drafts)
    assert isinstance(wrong, InvalidManifest)
    assert isinstance(long, LocalProtocolError)
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert first.sequence < second.sequence
    assert told == ["a@1.0.0", "c@1.0.0"]
    again = Ledger(database, US, [])
    assert [str(each) for each in again.models()] == ["a@1.0.0", "c@1.0.0"]
    database.full = True
    with pytest.raises(DiskFull):
        await ledger.sign_all(drafts)
    assert ledger.catalogue.digest() == again.catalogue.digest()


async def test_records_from_others_count_though_the_disk_is_full(
    database: SlowOrFullDatabase, model: Path
) -> None:
    ledger = Ledger(database, US, [THEM.peer_id])
    told: list[str] = []
    ledger.on_change.append(lambda record: told.append(record.key))
    database.full = True
    with pytest.raises(DiskFull):
        await ledger.take([record_of(THEM, manifest_of(model, "m"))])
    assert told == ["m@1.0.0"]
    assert [model.record.key for model in ledger.models()] == ["m@1.0.0"]


async def test_each_hears_that_the_disk_is_full_and_nothing_is_lost_when_it_has_room_again(
    database: SlowOrFullDatabase, model: Path
) -> None:
    ledger = Ledger(database, US, [THEM.peer_id])
    errors: list[DiskFull] = []

    async def take(model_id: str) -> None:
        try:
            await ledger.take([record_of(THEM, manifest_of(model, model_id))])
        except DiskFull as exc:
            errors.append(exc)

    gate = database.gate = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, "a")
        await trio.testing.wait_all_tasks_blocked()
        for model_id in "bcd":  # which wait together
            nursery.start_soon(take, model_id)
        await trio.testing.wait_all_tasks_blocked()
        database.full = True
        gate.set()
    assert len(errors) == 4
    database.full = False
    await take("e")
    again = Ledger(database, US, [THEM.peer_id])
    assert again.catalogue == ledger.catalogue
    assert [each.manifest.model_id for each in again.models()] == list("abcde")


async def test_what_was_taken_before_a_cancellation_is_kept_and_told(
    database: SlowOrFullDatabase, model: Path
) -> None:
    ledger = Ledger(database, US, [THEM.peer_id])
    told: list[str] = []
    ledger.on_change.append(lambda record: told.append(record.key))
    envelopes = [
        record_of(THEM, manifest_of(model, f"m{number}", blob_hash=None), number)
        for number in range(40)
    ]
    with trio.CancelScope() as scope:
        scope.cancel()
        await ledger.take(envelopes)
    assert scope.cancelled_caught
    assert 0 < len(told) < len(envelopes)
    again = Ledger(database, US, [THEM.peer_id])
    assert sorted(model.record.key for model in again.models()) == sorted(told)


async def test_models_are_in_order_and_follow_every_change(
    database: SlowOrFullDatabase, model: Path
) -> None:
    ledger = Ledger(database, US, [])

    def told() -> list[tuple[str, bool]]:
        return [(str(each), each.trusted) for each in ledger.models()]

    await ledger.take(
        [record_of(THEM, manifest_of(model, name), number) for number, name in enumerate("ca")]
    )
    assert told() == [("a@1.0.0", False), ("c@1.0.0", False)]
    await ledger.sign(RecordType.MANIFEST, "b@1.0.0", json.dumps(manifest_of(model, "b")))
    assert told() == [("b@1.0.0", True), ("a@1.0.0", False), ("c@1.0.0", False)]
    await ledger.trust(str(THEM.peer_id))
    assert told() == [("a@1.0.0", True), ("b@1.0.0", True), ("c@1.0.0", True)]
    await ledger.take([withdrawal(THEM, "a@1.0.0", 3)])
    await ledger.distrust(str(THEM.peer_id))
    assert told() == [("b@1.0.0", True), ("c@1.0.0", False)]
    ledger.models().clear()
    assert len(told()) == 2


def strangers(count: int, sequence: int = 1) -> list[bytes]:
    """A record each of so many keys that cost nothing."""
    keys = (KeyPair.from_seed(bytes([9, *number.to_bytes(31)])) for number in range(count))
    return [withdrawal(each, "a@1.0.0", sequence) for each in keys]


async def outcomes(ledger: Ledger, envelopes: list[bytes], by: str) -> list[Outcome | None]:
    return [taken.outcome for taken in await ledger.take(envelopes, by)]


YES, NO, TWICE = Outcome.ACCEPTED, Outcome.REFUSED, Outcome.DUPLICATE


@pytest.fixture
def few_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "STRANGERS_RATE", 1e-9)
    monkeypatch.setattr(ledger_module, "STRANGERS_BURST", 6.0)
    monkeypatch.setattr(ledger_module, "BRINGER_RATE", 1e-9)
    monkeypatch.setattr(ledger_module, "BRINGER_BURST", 4.0)


@pytest.mark.usefixtures("few_strangers")
async def test_of_strangers_so_many_records_are_kept(
    database: SlowOrFullDatabase, model: Path
) -> None:
    ledger = Ledger(database, US, [THEM.peer_id])
    all_of_them = strangers(10)
    # Of one that floods, and what another brings.
    assert await outcomes(ledger, all_of_them[:6], "one") == [YES] * 4 + [NO] * 2
    assert await outcomes(ledger, all_of_them[6:], "two") == [YES] * 2 + [NO] * 2
    # Also a record that is replaced again and again, for which there is always room.
    assert await outcomes(ledger, strangers(1, sequence=2), "three") == [NO]
    # What is known costs nothing, and whoever is trusted waits for nobody.
    assert await outcomes(ledger, all_of_them[:2], "two") == [TWICE] * 2
    trusted = [record_of(THEM, manifest_of(model, f"m{number}"), number) for number in range(20)]
    assert await outcomes(ledger, trusted, "one") == [YES] * 20
    assert await outcomes(ledger, strangers(11)[10:], "") == [YES]
    again = Ledger(database, US, [THEM.peer_id])
    assert again.catalogue == ledger.catalogue


@pytest.mark.usefixtures("few_strangers")
async def test_what_came_too_fast_is_not_asked_for_until_it_is_reconsidered(
    database: SlowOrFullDatabase,
) -> None:
    ledger, source = Ledger(database, US, []), Catalogue()
    for envelope in strangers(6):
        source.offer(open_record(envelope))
    await ledger.take(strangers(6), "one")
    assert ledger.catalogue.wants(source.summary()) == []
    ledger.catalogue.reconsider()
    assert len(ledger.catalogue.wants(source.summary())) == 2
    ledger.catalogue.put_off(open_record(strangers(6)[5]))
    assert await outcomes(ledger, strangers(6)[5:], "two") == [YES]


async def test_records_that_come_while_the_disk_is_slow_are_written_together(
    database: SlowOrFullDatabase,
) -> None:
    ledger = Ledger(database, US, [])
    gate = database.gate = threading.Event()
    before = database.count
    async with trio.open_nursery() as nursery:
        for envelope in strangers(20):
            nursery.start_soon(ledger.take, [envelope], "one")
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert database.count - before <= 2
    assert Ledger(database, US, []).catalogue == ledger.catalogue


async def test_trust_that_the_disk_refused_is_not_given_or_taken(
    database: SlowOrFullDatabase,
) -> None:
    ledger = Ledger(database, US, [])
    them = str(THEM.peer_id)
    database.full = True
    with pytest.raises(DiskFull):
        await ledger.trust(them)
    assert not ledger.is_trusted(them)
    database.full = False
    await ledger.trust(them)
    database.full = True
    with pytest.raises(DiskFull):
        await ledger.distrust(them)
    assert ledger.is_trusted(them)
    database.full = False
    await ledger.distrust(them)
    assert not Ledger(database, US, []).is_trusted(them)
