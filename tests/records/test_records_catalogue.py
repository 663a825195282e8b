from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records_support import ALICE, BOB, make, record_lists, records

from peatnet.errors import StaleRecord
from peatnet.records import MAX_SEQUENCE, Catalogue, Outcome, Record, RecordType, SlotSummary


def holding(items: list[Record]) -> Catalogue:
    catalogue = Catalogue()
    for item in items:
        catalogue.offer(item)
    return catalogue


def join(*parts: Catalogue) -> Catalogue:
    result = Catalogue()
    for part in parts:
        result.merge(part)
    return result


def contents(catalogue: Catalogue) -> set[Record]:
    return set(catalogue.records())


# The merge is a join: the three laws, and what they are for.


@given(record_lists, record_lists)
@settings(deadline=None)
def test_merging_is_commutative(left: list[Record], right: list[Record]) -> None:
    a, b = holding(left), holding(right)
    a.merge(holding(right))
    b.merge(holding(left))
    assert a == b
    assert a.digest() == b.digest()
    assert a.summary() == b.summary()


@given(record_lists, record_lists, record_lists)
@settings(deadline=None)
def test_merging_is_associative(one: list[Record], two: list[Record], three: list[Record]) -> None:
    a, b, c = holding(one), holding(two), holding(three)
    left, right = join(join(a, b), c), join(a, join(b, c))
    assert left == right
    assert left.digest() == right.digest()


@given(record_lists)
@settings(deadline=None)
def test_merging_is_idempotent(items: list[Record]) -> None:
    catalogue = holding(items)
    before, digest = contents(catalogue), catalogue.digest()
    assert catalogue.merge(holding(items)) == []
    assert catalogue.merge(catalogue) == []
    assert contents(catalogue) == before
    assert catalogue.digest() == digest


@given(record_lists, st.data())
@settings(deadline=None)
def test_order_and_repetition_do_not_matter(items: list[Record], data: st.DataObject) -> None:
    repeated = items + data.draw(st.lists(st.sampled_from(items), max_size=10)) if items else items
    assert holding(data.draw(st.permutations(repeated))) == holding(items)


@given(record_lists)
@settings(deadline=None)
def test_a_catalogue_holds_the_newest_of_each_slot(items: list[Record]) -> None:
    by_slot = sorted(items, key=lambda item: (item.slot, item.order))
    expected = {list(group)[-1] for _, group in groupby(by_slot, key=lambda item: item.slot)}
    catalogue = holding(items)
    assert contents(catalogue) == expected
    assert len(catalogue) == len(expected)


@given(record_lists, record_lists)
@settings(deadline=None)
def test_what_is_held_is_found_by_its_envelope(left: list[Record], right: list[Record]) -> None:
    catalogue = holding(left)
    held = contents(catalogue)
    for item in left + right:
        assert catalogue.holding(item.envelope) == (item if item in held else None)


@given(record_lists, record_lists)
@settings(deadline=None)
def test_digests_are_equal_for_equal_catalogues_only(
    left: list[Record], right: list[Record]
) -> None:
    a, b = holding(left), holding(right)
    assert (a.digest() == b.digest()) == (a == b) == (contents(a) == contents(b))


@given(record_lists, records)
@settings(deadline=None)
def test_outcomes(items: list[Record], record: Record) -> None:
    catalogue = holding(items)
    held = {item.slot: item for item in catalogue.records()}.get(record.slot)
    before = contents(catalogue)
    outcome = catalogue.offer(record)
    if held is None or record.order > held.order:
        assert outcome is Outcome.ACCEPTED
        assert contents(catalogue) == before - {held} | {record}
    else:
        assert outcome is (Outcome.DUPLICATE if record == held else Outcome.STALE)
        assert contents(catalogue) == before


@given(record_lists, record_lists)
@settings(deadline=None)
def test_one_exchange_brings_both_sides_to_the_join(
    left: list[Record], right: list[Record]
) -> None:
    a, b = holding(left), holding(right)
    expected = join(a, b)
    wanted_by_a, wanted_by_b = a.wants(b.summary()), b.wants(a.summary())
    assert not set(wanted_by_a) & set(wanted_by_b)
    to_a, to_b = b.by_slots(wanted_by_a), a.by_slots(wanted_by_b)
    assert len(to_a) == len(wanted_by_a)
    for record in to_a:
        assert a.offer(record) is Outcome.ACCEPTED
    for record in to_b:
        assert b.offer(record) is Outcome.ACCEPTED
    assert a == b == expected
    assert a.wants(b.summary()) == b.wants(a.summary()) == []


# Withdrawals, replays, lookups


def test_a_withdrawal_hides_the_manifest_until_it_is_published_again() -> None:
    first = make(sequence=1)
    gone = make(record_type=RecordType.WITHDRAWAL, sequence=2)
    again = make(sequence=3)
    catalogue = holding([first])
    assert catalogue.manifests() == [first]
    assert catalogue.offer(gone) is Outcome.ACCEPTED
    assert catalogue.manifests() == []
    assert catalogue.get(ALICE.peer_id, "yolo@1") == gone
    assert catalogue.offer(first) is Outcome.STALE
    assert catalogue.manifests() == []
    assert catalogue.offer(again) is Outcome.ACCEPTED
    assert catalogue.manifests() == [again]
    assert catalogue.offer(gone) is Outcome.STALE


def test_nobody_withdraws_for_somebody_else() -> None:
    mine = make(0)
    catalogue = holding([mine, make(1, RecordType.WITHDRAWAL, sequence=9)])
    assert catalogue.manifests() == [mine]


def test_lookups() -> None:
    manifest, command = make(), make(record_type=RecordType.COMMAND)
    catalogue = holding([manifest, command])
    assert catalogue.get(ALICE.peer_id, "yolo@1") == manifest
    assert catalogue.get(ALICE.peer_id, "yolo@1", RecordType.COMMAND) == command
    assert catalogue.get(ALICE.peer_id, "yolo@1", RecordType.STATUS) is None
    assert catalogue.get(BOB.peer_id, "yolo@1") is None
    assert catalogue.get(ALICE.peer_id, "yolo@2") is None


def test_by_slots_gives_each_record_once_and_skips_unknown_slots() -> None:
    one, two = make(key="yolo@1"), make(key="yolo@2")
    catalogue = holding([one, two])
    assert catalogue.by_slots([two.slot, bytes(16), one.slot, two.slot, b""]) == [two, one]


def test_wants_looks_at_the_sequence_first_and_then_at_the_id() -> None:
    record = make(sequence=5)
    catalogue = holding([record])
    tie = record.id[:8]
    higher, lower = b"\xff" * 8, bytes(8)
    assert lower < tie < higher
    assert catalogue.wants([SlotSummary(record.slot, 5, tie)]) == []
    assert catalogue.wants([SlotSummary(record.slot, 5, higher)]) == [record.slot]
    assert catalogue.wants([SlotSummary(record.slot, 5, lower)]) == []
    assert catalogue.wants([SlotSummary(record.slot, 4, higher)]) == []
    assert catalogue.wants([SlotSummary(record.slot, 6, lower)]) == [record.slot]
    assert catalogue.wants([SlotSummary(bytes(16), 0, lower)]) == [bytes(16)]


def test_comparison_with_other_things() -> None:
    assert Catalogue() != "catalogue"
    assert Catalogue() == Catalogue([ALICE.peer_id])
    with pytest.raises(TypeError):
        hash(Catalogue())


# Sequence numbers


@given(record_lists, st.integers(0, 10))
@settings(deadline=None)
def test_the_next_sequence_is_above_all_and_not_below_the_clock(
    items: list[Record], now_us: int
) -> None:
    catalogue = holding(items)
    number = catalogue.next_sequence(ALICE.peer_id, now_us)
    assert number >= now_us
    mine = [item.sequence for item in catalogue.records() if item.publisher == ALICE.peer_id]
    assert all(number > sequence for sequence in mine)
    assert number == max([now_us, *(sequence + 1 for sequence in mine)])
    assert catalogue.offer(make(sequence=number)) is Outcome.ACCEPTED


def test_the_highest_sequence_number_is_the_last() -> None:
    catalogue = holding([make(sequence=MAX_SEQUENCE - 1)])
    assert catalogue.next_sequence(ALICE.peer_id, 5) == MAX_SEQUENCE
    catalogue.offer(make(sequence=MAX_SEQUENCE))
    with pytest.raises(StaleRecord) as caught:
        catalogue.next_sequence(ALICE.peer_id, 5)
    assert caught.value.hint
    assert catalogue.next_sequence(BOB.peer_id, 5) == 5
