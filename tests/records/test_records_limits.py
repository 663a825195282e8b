from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from records_support import ALICE, BOB, CAROL, PEOPLE, make

from peatnet.records import (
    Bound,
    Catalogue,
    CatalogueLimits,
    KeyPair,
    Outcome,
    PeerId,
    Record,
    RecordType,
)
from peatnet.records.summary import SetDigest

SIZE = len(make().envelope)  # of one with a body of two bytes


def limits(
    *, trusted: int = 100, untrusted: int = 100, publisher: int = 100, refused: int = 100
) -> CatalogueLimits:
    room = 100 * SIZE
    return CatalogueLimits(
        Bound(trusted, room), Bound(untrusted, room), Bound(publisher, room), refused
    )


def key(number: int) -> str:
    return f"yolo@{number}"


def fill(catalogue: Catalogue, who: int, count: int, *, body: bytes = b"{}") -> list[Outcome]:
    return [
        catalogue.offer(make(who, key=key(number), sequence=number, body=body))
        for number in range(count)
    ]


YES, NO = Outcome.ACCEPTED, Outcome.REFUSED


def test_the_limits_of_one_untrusted_publisher() -> None:
    catalogue = Catalogue(limits=limits(publisher=2))
    assert fill(catalogue, 0, 4) == [YES, YES, NO, NO]
    assert fill(catalogue, 1, 3) == [YES, YES, NO]


def test_the_limits_of_all_untrusted_publishers() -> None:
    catalogue = Catalogue(limits=limits(untrusted=3, publisher=2))
    assert fill(catalogue, 0, 2) == [YES, YES]
    assert fill(catalogue, 1, 2) == [YES, NO]
    assert fill(catalogue, 2, 1) == [NO]


def test_a_trusted_publisher_has_its_own_room() -> None:
    catalogue = Catalogue(
        [ALICE.peer_id, BOB.peer_id], limits=limits(trusted=4, untrusted=0, publisher=2)
    )
    assert fill(catalogue, 2, 1) == [NO]
    assert fill(catalogue, 0, 6) == [YES, YES, YES, YES, NO, NO]
    # One that has filled the common room leaves the others their share.
    assert fill(catalogue, 1, 3) == [YES, YES, NO]


@pytest.mark.parametrize("trusted", [False, True])
def test_bytes_are_bounded_too(trusted: bool) -> None:  # noqa: FBT001  # pytest passes it by name
    bound = Bound(100, 3 * SIZE)
    catalogue = Catalogue(
        [ALICE.peer_id] if trusted else [], limits=CatalogueLimits(bound, bound, bound)
    )
    assert fill(catalogue, 0, 4)[2:] == [YES, NO]
    longer = make(key=key(0), sequence=9, body=b"{ }")
    assert catalogue.offer(longer) is NO
    assert catalogue.get(ALICE.peer_id, key(0)) == make(key=key(0), sequence=0)


def test_a_newer_record_that_is_not_larger_is_always_taken() -> None:
    catalogue = Catalogue([ALICE.peer_id, BOB.peer_id], limits=limits(trusted=2, publisher=1))
    assert fill(catalogue, 0, 2) == [YES, YES]
    assert fill(catalogue, 1, 1) == [YES]  # Bob's own share; now the common room is overdrawn
    assert fill(catalogue, 0, 3)[2] is NO
    assert catalogue.offer(make(0, key=key(0), sequence=9)) is YES
    assert catalogue.offer(make(0, key=key(0), sequence=10, body=b"{ }")) is NO  # larger


def test_a_withdrawal_is_taken_at_the_limit() -> None:
    catalogue = Catalogue(limits=limits(publisher=1))
    assert catalogue.offer(make(key=key(0), body=b"x" * 20)) is YES
    gone = make(record_type=RecordType.WITHDRAWAL, key=key(0), sequence=2)
    assert catalogue.offer(gone) is YES
    assert catalogue.manifests() == []


def test_what_was_refused_is_wanted_again_only_when_trust_changes() -> None:
    source = Catalogue([ALICE.peer_id])
    fill(source, 0, 3)
    catalogue = Catalogue(limits=limits(publisher=1))
    refused = [record for record in source.records() if catalogue.offer(record) is NO]
    assert len(refused) == 2
    assert catalogue.wants(source.summary()) == []
    newer = make(key=refused[0].key, sequence=99)
    source.offer(newer)
    assert catalogue.wants(source.summary()) == [newer.slot]
    assert catalogue.offer(newer) is NO
    assert catalogue.offer(refused[0]) is NO  # an older one does not lower the mark
    assert catalogue.wants(source.summary()) == []
    catalogue.trust(ALICE.peer_id)
    assert set(catalogue.wants(source.summary())) == {newer.slot, refused[1].slot}


def test_the_memory_for_refusals_is_bounded() -> None:
    source = Catalogue()
    fill(source, 0, 4)
    catalogue = Catalogue(limits=limits(publisher=0, refused=2))
    for record in source.records():
        assert catalogue.offer(record) is NO
    kept = {make(key=key(number), sequence=number).slot for number in (2, 3)}
    everything = {item.slot for item in source.summary()}
    assert set(catalogue.wants(source.summary())) == everything - kept


def test_what_was_put_off_is_wanted_again_when_it_is_reconsidered() -> None:
    source = Catalogue()
    fill(source, 0, 3)
    catalogue = Catalogue(limits=limits(refused=2))
    for number in range(2):
        catalogue.put_off(make(key=key(number), sequence=number))
    left = make(key=key(2), sequence=2).slot
    assert catalogue.wants(source.summary()) == [left]
    newer = make(key=key(0), sequence=9)
    source.offer(newer)
    assert set(catalogue.wants(source.summary())) == {newer.slot, left}
    catalogue.reconsider()
    assert len(catalogue.wants(source.summary())) == 3
    for number in range(3):
        catalogue.put_off(make(key=key(number), sequence=9))
    assert len(catalogue._put_off) == 2
    catalogue.trust(BOB.peer_id)
    assert len(catalogue.wants(source.summary())) == 3


def test_what_is_news() -> None:
    catalogue = Catalogue()
    older, same, newer = (make(key=key(0), sequence=number) for number in (1, 2, 3))
    assert catalogue.is_news(same)
    catalogue.offer(same)
    assert [catalogue.is_news(each) for each in (older, same, newer)] == [False, False, True]
    catalogue.put_off(newer)
    assert catalogue.is_news(newer)


def test_trust_is_a_set() -> None:
    catalogue = Catalogue([ALICE.peer_id])
    assert catalogue.is_trusted(ALICE.peer_id)
    assert not catalogue.is_trusted(BOB.peer_id)
    catalogue.trust(BOB.peer_id)
    catalogue.trust(BOB.peer_id)
    assert catalogue.trusted == {ALICE.peer_id, BOB.peer_id}
    assert catalogue.distrust(ALICE.peer_id) == []
    assert catalogue.distrust(ALICE.peer_id) == []
    assert catalogue.trusted == {BOB.peer_id}


def test_distrust_keeps_the_newest_that_fit() -> None:
    catalogue = Catalogue([ALICE.peer_id], limits=limits(publisher=2))
    fill(catalogue, 0, 5)
    dropped = catalogue.distrust(ALICE.peer_id)
    assert [record.sequence for record in dropped] == [0, 1, 2]
    assert sorted(record.sequence for record in catalogue.records()) == [3, 4]
    assert fill(catalogue, 0, 1) == [NO]


def test_distrust_makes_room_among_all_untrusted_ones() -> None:
    catalogue = Catalogue([ALICE.peer_id], limits=limits(untrusted=2, publisher=2))
    fill(catalogue, 1, 2)
    fill(catalogue, 0, 2)
    assert len(catalogue.distrust(ALICE.peer_id)) == 2
    assert {record.publisher for record in catalogue.records()} == {BOB.peer_id}
    assert catalogue.next_sequence(ALICE.peer_id, 0) == 0


SMALL = CatalogueLimits(
    trusted=Bound(6, 6 * SIZE),
    untrusted=Bound(4, 4 * SIZE),
    publisher=Bound(3, 3 * SIZE),
    refused=3,
)


class Bookkeeping(RuleBasedStateMachine):
    """Whatever happens, the running totals are those of the records, and the limits hold."""

    def __init__(self) -> None:
        super().__init__()
        self.catalogue = Catalogue(limits=SMALL)

    @rule(
        who=st.integers(0, 2),
        number=st.integers(0, 4),
        sequence=st.integers(0, 3),
        body=st.sampled_from([b"", b"{}", b"x" * 90]),
    )
    def offer(self, who: int, number: int, sequence: int, body: bytes) -> None:
        record = make(who, key=key(number), sequence=sequence, body=body)
        held = self.catalogue.get(record.publisher, record.key)
        trusted = self.catalogue.is_trusted(record.publisher)
        mine = self.of(record.publisher)
        outcome = self.catalogue.offer(record)
        now = self.catalogue.get(record.publisher, record.key)
        if outcome is YES:
            assert now == record
        else:
            assert now == held
        if outcome is NO and trusted:
            size = sum(len(item.envelope) for item in {*mine, record} - {held})
            assert len({*mine, record} - {held}) > 3 or size > 3 * SIZE

    @rule(keys=st.sampled_from(PEOPLE))
    def trust(self, keys: KeyPair) -> None:
        before = set(self.catalogue.records())
        self.catalogue.trust(keys.peer_id)
        assert set(self.catalogue.records()) == before

    @rule(keys=st.sampled_from(PEOPLE))
    def distrust(self, keys: KeyPair) -> None:
        before = set(self.catalogue.records())
        dropped = self.catalogue.distrust(keys.peer_id)
        assert set(self.catalogue.records()) == before - set(dropped)

    def of(self, publisher: PeerId) -> list[Record]:
        return [item for item in self.catalogue.records() if item.publisher == publisher]

    @invariant()
    def totals_are_right(self) -> None:
        catalogue = self.catalogue
        digest = SetDigest()
        for record in catalogue.records():
            digest.add(record.id)
        assert catalogue.digest() == digest.digest()
        for trusted in (False, True):
            part = [r for r in catalogue.records() if catalogue.is_trusted(r.publisher) is trusted]
            tally = catalogue._totals[trusted]
            assert (tally.records, tally.size) == (len(part), sum(len(r.envelope) for r in part))
        assert catalogue._ids == {record.id: record for record in catalogue.records()}
        assert set(catalogue._publishers) == {r.publisher for r in catalogue.records()}

    @invariant()
    def limits_hold(self) -> None:
        strangers = 0
        for keys in (ALICE, BOB, CAROL):
            mine = self.of(keys.peer_id)
            if not self.catalogue.is_trusted(keys.peer_id):
                strangers += len(mine)
                assert len(mine) <= 3
                assert sum(len(item.envelope) for item in mine) <= 3 * SIZE
            for item in mine:
                assert self.catalogue.next_sequence(keys.peer_id, 0) > item.sequence
        assert strangers <= 4
        assert len(self.catalogue._refused) <= 3


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
