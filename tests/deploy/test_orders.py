"""Which commands a node follows: the rule of deploy/orders.py, and what has to hold whatever publishers sign."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peatnet.deploy.orders import Decision, Directive, Judgment, judge
from peatnet.models import ModelManifest, ModelType, ModelUpdateCommand, Timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable

NODE, OTHER = "node", "other"
ALICE, BOB, MALLORY = "alice", "bob", "mallory"
TIME = Timestamp("2026-01-02T03:04:05Z")
MANIFESTS = {
    model_id: ModelManifest.new(
        model_id, model_id, ModelType.CUSTOM, source="", created_at=str(TIME)
    )
    for model_id in ("yolo", "llama", "huge")
}


def order(
    sequence: int,
    *targets: str,
    model_id: str = "yolo",
    publisher: str = ALICE,
    command_id: str | None = None,
    canceled: bool = False,
) -> Directive:
    name = command_id or f"c{sequence}"
    command = ModelUpdateCommand(
        command_id=name,
        manifest=MANIFESTS[model_id],
        target_nodes=targets,
        timestamp=TIME,
    )
    record = f"{publisher}{sequence}{model_id}".encode()
    return Directive(publisher, (sequence, record), model_id, name, None if canceled else command)


def lacking(manifest: ModelManifest) -> list[str]:
    return ["too little RAM", "too little VRAM"] if manifest.model_id == "huge" else []


def judged(
    directives: Iterable[Directive], finished: Iterable[Directive] = ()
) -> dict[Directive, Judgment]:
    marks = {(each.model_id, each.publisher): each.order for each in finished}
    return judge(
        directives,
        node_id=NODE,
        marks=marks,
        is_trusted={ALICE, BOB}.__contains__,
        shortfalls=lacking,
    )


def decisions(directives: list[Directive], *finished: Directive) -> list[str]:
    found = judged(directives, finished)
    return [found[each].decision.value for each in directives]


def test_the_newest_command_for_this_node_is_followed() -> None:
    assert decisions([order(1), order(2, NODE), order(3, OTHER)]) == [
        "superseded",
        "follow",
        "elsewhere",
    ]


def test_each_model_has_its_own_order() -> None:
    assert decisions([order(1), order(2, model_id="llama")]) == ["follow", "follow"]


def test_publishers_share_one_order_for_a_model() -> None:
    assert decisions([order(5), order(6, publisher=BOB)]) == ["superseded", "follow"]
    assert decisions([order(5), order(6, publisher=BOB)], order(6, publisher=BOB)) == [
        "older",
        "finished",
    ]


def test_untrusted_publishers_order_nothing_and_stand_in_nobodys_way() -> None:
    theirs = order(9, publisher=MALLORY)
    assert decisions([order(1), theirs, order(8, OTHER, publisher=MALLORY)]) == [
        "follow",
        "untrusted",
        "elsewhere",
    ]
    # Nor does the mark of one that was trusted once.
    assert decisions([order(1)], theirs) == ["follow"]


def test_what_was_finished_is_not_done_again() -> None:
    one, two, three = order(1), order(2), order(3)
    assert decisions([one, two], two) == ["older", "finished"]
    assert decisions([one, two, three], two) == ["older", "finished", "follow"]


def test_a_canceled_command_gives_way_to_the_one_before() -> None:
    assert decisions([order(1), order(3, command_id="c2", canceled=True)]) == ["follow", "canceled"]


def test_what_does_not_fit_gives_way_unless_it_is_for_this_node_by_name() -> None:
    assert decisions([order(1, model_id="huge")]) == ["unfit"]
    assert decisions([order(1, NODE, model_id="huge")]) == ["follow"]
    assert decisions([order(1, NODE, model_id="huge"), order(2, model_id="huge")]) == [
        "follow",
        "unfit",
    ]
    found = judged([order(1, model_id="huge")])
    assert [each.reason for each in found.values()] == ["too little RAM; too little VRAM"]


directives = st.builds(
    order,
    st.integers(0, 6),
    st.sampled_from([NODE, OTHER]),
    model_id=st.sampled_from(["yolo", "huge"]),
    publisher=st.sampled_from([ALICE, BOB, MALLORY]),
    canceled=st.booleans(),
) | st.builds(
    order,
    st.integers(0, 6),
    model_id=st.sampled_from(["yolo", "huge"]),
    publisher=st.sampled_from([ALICE, BOB, MALLORY]),
)
many = st.lists(directives, max_size=8, unique_by=lambda item: item.order)


def follows(items: Iterable[Directive], finished: Iterable[Directive] = ()) -> set[Directive]:
    found = judged(items, finished)
    return {each for each, judgment in found.items() if judgment.decision is Decision.FOLLOW}


@given(many, st.randoms(use_true_random=False))
def test_the_order_of_hearing_does_not_matter(items: list[Directive], random: object) -> None:
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis' Random
    assert judged(items) == judged(shuffled)
    assert judged([*items, *items]) == judged(items)


@given(many)
def test_one_command_of_a_model_at_most_and_a_permitted_one(items: list[Directive]) -> None:
    chosen = follows(items)
    assert len({each.model_id for each in chosen}) == len(chosen)
    for each in chosen:
        assert each.publisher != MALLORY
        assert each.command is not None
        assert each.command.targets_node(NODE)
        assert each.command.target_nodes or each.model_id != "huge"


@given(many, many)
def test_after_one_is_finished_only_newer_ones_are_followed(
    first: list[Directive], later: list[Directive]
) -> None:
    done = follows(first)
    marks = {each.model_id: each.order for each in done}
    for each in follows([*first, *later], done):
        assert each.order > marks.get(each.model_id, (-1, b""))
    # Nothing is done twice, and what came before does not come back.
    assert follows(first, done) == set()


@given(many)
def test_who_was_away_ends_where_the_others_do(items: list[Directive]) -> None:
    """Doing what is to be done at each step, in the publishers' order, ends with what is followed at once."""
    last: dict[str, Directive] = {}
    heard: list[Directive] = []
    for each in sorted(items, key=lambda item: item.order):
        heard.append(each)
        for chosen in follows(heard, last.values()):
            last[chosen.model_id] = chosen
    assert set(last.values()) == follows(items)


@pytest.mark.parametrize("heard", list(permutations([1, 2, 3])))
def test_orders_heard_late_are_too_old(heard: tuple[int, ...]) -> None:
    last: list[Directive] = []
    known: list[Directive] = []
    for number in heard:
        known.append(order(number))
        last = list(follows(known, last)) or last
    assert last == [order(3)]
