"""Of one publisher's commands on one model only the newest are held, whatever came in which order."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
from records_support import ALICE, BOB, make

from peatnet.records import (
    Bound,
    Catalogue,
    CatalogueLimits,
    Outcome,
    PeerId,
    Record,
    RecordType,
)

FEW = 2
LIMITS = CatalogueLimits(commands=FEW)
WIDE = Bound(1000, 2**20)

command = partial(make, record_type=RecordType.COMMAND)
cancellation = partial(make, record_type=RecordType.CANCELLATION)

# A small world: two publishers, two models, commands and cancellations that meet in their slots.
words = st.builds(
    make,
    st.integers(0, 1),
    st.sampled_from([RecordType.COMMAND, RecordType.CANCELLATION, RecordType.MANIFEST]),
    st.sampled_from([f"{model}/{number}" for model in ("yolo", "llama") for number in range(4)]),
    st.integers(0, 5),
)
word_lists = st.lists(words, max_size=20)


def holding(items: list[Record]) -> Catalogue:
    catalogue = Catalogue(limits=LIMITS)
    for item in items:
        catalogue.offer(item)
    return catalogue


def expected(items: list[Record]) -> set[Record]:
    """The newest of each slot, and of each group of commands the newest slots."""
    slots: dict[bytes, Record] = {}
    for item in items:
        held = slots.get(item.slot)
        if held is None or item.order > held.order:
            slots[item.slot] = item
    groups: dict[tuple[PeerId, str], list[Record]] = defaultdict(list)
    for item in slots.values():
        if item.type.kind == "command":
            groups[item.publisher, item.model_id].append(item)
    kept = {item for item in slots.values() if item.type.kind != "command"}
    for group in groups.values():
        kept.update(sorted(group, key=lambda item: item.order)[-FEW:])
    return kept


@given(word_lists)
@settings(deadline=None)
def test_what_is_held_is_a_function_of_what_was_offered(items: list[Record]) -> None:
    catalogue = holding(items)
    assert set(catalogue.records()) == expected(items)
    assert set(catalogue.commands()) == {
        item for item in catalogue.records() if item.type.kind == "command"
    }


@given(word_lists, word_lists, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_catalogues_agree_however_they_merge(
    left: list[Record], right: list[Record], random: object
) -> None:
    a, b, shuffled = holding(left), holding(right), [*left, *right]
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis' Random
    a.merge(holding(right))
    b.merge(holding(left))
    assert a == b == holding(shuffled)
    assert a.digest() == b.digest()
    assert a.wants(b.summary()) == []


@given(word_lists)
@settings(deadline=None)
def test_what_was_pushed_out_is_told_once_and_not_asked_for_again(items: list[Record]) -> None:
    catalogue, wide = holding(items), Catalogue()
    for item in items:
        wide.offer(item)
    pruned = catalogue.take_pruned()
    held = {item.slot for item in catalogue.records()}
    assert pruned.isdisjoint(held)
    assert pruned <= {item.slot for item in items}
    assert catalogue.take_pruned() == set()
    assert catalogue.wants(wide.summary()) == []
    assert catalogue.merge(wide) == []


def test_the_oldest_goes_and_comes_back_when_it_is_canceled() -> None:
    catalogue = holding([])
    one, two, three = (command(key=f"yolo/{number}", sequence=number) for number in (1, 2, 3))
    assert [catalogue.offer(item) for item in (two, three, one)] == [
        Outcome.ACCEPTED,
        Outcome.ACCEPTED,
        Outcome.STALE,
    ]
    taken_back = cancellation(key="yolo/1", sequence=4)
    assert catalogue.offer(taken_back) is Outcome.ACCEPTED
    assert set(catalogue.records()) == {three, taken_back}
    assert catalogue.take_pruned() == {two.slot}
    assert catalogue.offer(command(key="yolo/2", sequence=5)) is Outcome.ACCEPTED
    assert catalogue.take_pruned() == {three.slot}


def test_other_models_and_publishers_have_their_own_room() -> None:
    items = [command(key=f"yolo/{number}", sequence=number) for number in range(FEW)]
    items += [command(key=f"yolo2/{number}", sequence=number) for number in range(FEW)]
    items += [command(1, key=f"yolo/{number}", sequence=number) for number in range(FEW)]
    assert set(holding(items).records()) == set(items)


def test_a_full_publisher_replaces_its_own_commands() -> None:
    limits = CatalogueLimits(WIDE, WIDE, publisher=Bound(FEW, 2**20), commands=FEW)
    catalogue = Catalogue([BOB.peer_id], limits=limits)
    for number in range(5):
        assert catalogue.offer(command(key=f"yolo/{number}", sequence=number)) is Outcome.ACCEPTED
    assert catalogue.offer(command(key="llama/0", sequence=9)) is Outcome.REFUSED
    assert len(catalogue) == FEW
    catalogue.trust(ALICE.peer_id)
    assert catalogue.offer(command(key="llama/0", sequence=9)) is Outcome.ACCEPTED
    assert len(catalogue.distrust(ALICE.peer_id)) == 1
    assert len(catalogue.commands()) == FEW
