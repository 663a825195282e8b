"""The fleet's memory: who is seen, who is newest, who is forgotten. All on a clock of the test's own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fleet_kit import outcome, report, status
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from peatnet.blobs import Database
from peatnet.deploy import known_nodes
from peatnet.deploy.fleet import EXPIRE, LIKELY, LOST_EXPIRE, Fleet, KnownNode, find_node
from peatnet.deploy.known_nodes import RESERVED, KnownNodes
from peatnet.errors import Ambiguous, NotFound

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [f"node-{number}" for number in range(6)]


def test_a_node_is_seen_until_it_has_said_nothing_for_a_minute() -> None:
    fleet = Fleet()
    heard = fleet.hear("a", 1, status("one"), 100.0)
    assert heard is not None
    assert heard.new
    assert heard.node.name == "one"
    assert fleet.next_expiry(100.0) == 100.0 + EXPIRE
    assert fleet.expire(159.9) == []
    assert fleet.count_seen(159.9) == 1
    assert [node.peer_id for node in fleet.expire(160.0)] == ["a"]
    assert fleet.expire(161.0) == []
    assert fleet.count_seen(160.0) == 0
    assert fleet.next_expiry(160.0) is None
    (node,) = fleet.nodes()
    assert node.age(200.0) == 100.0
    again = fleet.hear("a", 2, status("one"), 300.0)
    assert again is not None
    assert again.new
    later = fleet.hear("a", 3, status("two"), 301.0)
    assert later is not None
    assert not later.new
    assert fleet.nodes()[0].name == "two"


def test_of_who_is_gone_only_what_is_shown_is_kept() -> None:
    fleet = Fleet()
    told = status(
        "one", report("Ready"), outcomes=(outcome("canceled"),), addresses=("/ip4/1.2.3.4/tcp/1",)
    )
    short = status("one", addresses=told.addresses)
    fleet.hear("a", 1, told, 0.0)
    fleet.hear("b", 1, told, 0.0)
    assert [node.status for node in fleet.nodes()] == [told, told]
    fleet.hear("b", 2, replace(told, leaving=True), 1.0)
    assert [node.status for node in fleet.nodes()] == [told, replace(short, leaving=True)]
    assert [node.status for node in fleet.expire(EXPIRE)] == [short, replace(short, leaving=True)]
    assert fleet.nodes()[0].status == short
    fleet.hear("a", 2, told, 100.0)
    assert fleet.nodes()[0].status == told


def test_what_is_old_changes_nothing_and_revives_nobody() -> None:
    fleet = Fleet()
    fleet.hear("a", 5, status("new"), 0.0)
    assert fleet.hear("a", 5, status("same"), 1.0) is None
    assert fleet.hear("a", 4, status("old"), 1.0) is None
    assert fleet.nodes()[0].name == "new"
    assert fleet.hear("a", 5, status("replayed"), 1000.0) is None
    assert fleet.count_seen(1000.0) == 0


def test_a_broken_connection_makes_a_node_expire_sooner_unless_it_speaks() -> None:
    fleet = Fleet()
    fleet.hear("a", 1, status(), 0.0)
    fleet.lost("a")
    fleet.lost("unknown")
    assert fleet.count_seen(LOST_EXPIRE - 0.1) == 1
    assert fleet.count_seen(LOST_EXPIRE) == 0
    fleet.hear("a", 2, status(), 20.0)
    assert fleet.count_seen(20.0 + EXPIRE - 0.1) == 1


def test_who_says_that_it_leaves_is_not_seen_at_once() -> None:
    fleet = Fleet()
    assert fleet.hear("stranger", 1, status(leaving=True), 0.0) is None
    fleet.hear("a", 1, status(), 0.0)
    heard = fleet.hear("a", 2, status(leaving=True), 1.0)
    assert heard is not None
    assert not heard.new
    assert [node.left for node in fleet.expire(1.0)] == [True]
    back = fleet.hear("a", 3, status(), 2.0)
    assert back is not None
    assert back.new


def test_newcomers_take_the_place_of_the_unseen_that_were_known_for_the_shortest_time() -> None:
    fleet = Fleet(max_nodes=3)
    fleet.hear("old", 1, status(), 0.0)
    fleet.hear("old", 2, status(), 500.0)
    fleet.hear("brief", 1, status(), 600.0)
    fleet.hear("other", 1, status(), 601.0)
    assert fleet.hear("new", 1, status(), 602.0) is not None  # "old" is not seen any more
    assert fleet.get("old") is None
    assert fleet.hear("more", 1, status(), 603.0) is None  # all are seen
    fleet.hear("other", 2, status(), 630.0)
    heard = fleet.hear("more", 2, status(), 665.0)  # "brief" and "new" are not
    assert heard is not None
    assert heard.dropped == "brief"
    assert len(fleet) == 3
    assert fleet.forget("more")
    assert not fleet.forget("more")
    assert [node.peer_id for node in fleet.expire(1000.0)] == ["new", "other"]


def test_what_became_of_a_command_is_told_by_those_that_are_seen() -> None:
    fleet = Fleet([KnownNode("silent", "s", 1, 0.0, 0.0)])
    done = outcome("done")
    fleet.hear("a", 1, status(outcomes=(done,)), 0.0)
    fleet.hear("b", 1, status(), 0.0)
    assert fleet.outcomes("c-1", 1.0) == {"a": done}
    assert fleet.outcomes("c-2", 1.0) == {}
    assert fleet.outcomes("c-1", 1.0 + EXPIRE) == {}


class Life(RuleBasedStateMachine):
    """Anything may happen, and still each node is what its newest word says."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(max_nodes=4)
        self.now = 0.0
        self.newest: dict[str, tuple[int, float, bool]] = {}
        self.told: set[str] = set()

    @rule(seconds=st.floats(0.0, 100.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=st.sampled_from(NAMES), sequence=st.integers(0, 9), leaving=st.booleans())
    def hear(self, name: str, sequence: int, *, leaving: bool) -> None:
        known = self.fleet.get(name)
        heard = self.fleet.hear(name, sequence, status(name, leaving=leaving), self.now)
        if known is not None:
            assert (heard is not None) == (sequence > known.sequence)
        if heard is None:
            return
        if heard.dropped is not None:
            assert heard.dropped in self.newest
            del self.newest[heard.dropped]
            self.told.discard(heard.dropped)
        self.newest[name] = sequence, self.now, leaving
        if heard.new:
            self.told.add(name)

    @rule(name=st.sampled_from(NAMES))
    def lose(self, name: str) -> None:
        self.fleet.lost(name)

    @rule(name=st.sampled_from(NAMES))
    def forget(self, name: str) -> None:
        assert self.fleet.forget(name) == (name in self.newest)
        self.newest.pop(name, None)
        self.told.discard(name)

    @rule()
    def expire(self) -> None:
        for node in self.fleet.expire(self.now):
            assert not node.is_seen(self.now)
            self.told.discard(node.peer_id)
        assert {node.peer_id for node in self.fleet.nodes() if node.is_seen(self.now)} <= self.told

    @invariant()
    def the_newest_word_counts(self) -> None:
        assert len(self.fleet) <= 4
        found = {
            node.peer_id: (node.sequence, node.last_seen, node.left) for node in self.fleet.nodes()
        }
        assert found == self.newest

    @invariant()
    def nobody_is_seen_for_longer_than_its_word_counts(self) -> None:
        soonest = self.fleet.next_expiry(self.now)
        seen = [node for node in self.fleet.nodes() if node.is_seen(self.now)]
        assert all(node.age(self.now) < EXPIRE and not node.left for node in seen)
        assert (soonest is None) == (not seen)
        assert soonest is None or self.fleet.count_seen(soonest) < len(seen)


TestLife = Life.TestCase


# Names

ALICE, BOB, CAROL = "12D3KooWaaaa11111111", "12D3KooWbbbb22222222", "12D3KooWcccc22222222"
KNOWN = [(ALICE, "alice"), (BOB, "bob"), (CAROL, "bob")]


@pytest.mark.parametrize(
    ("text", "found"),
    [("alice", ALICE), (ALICE, ALICE), (BOB, BOB), ("…11111111", ALICE), ("b22222222", BOB), ("111111", ALICE)],
)  # fmt: skip
def test_a_node_is_found_by_its_name_or_its_id(text: str, found: str) -> None:
    assert find_node(text, KNOWN) == found


@pytest.mark.parametrize("text", ["bob", "22222222", "…2222222"])
def test_what_several_are_called_names_none(text: str) -> None:
    with pytest.raises(Ambiguous, match=f"2 nodes.*{BOB}, {CAROL}"):
        find_node(text, KNOWN)


@pytest.mark.parametrize("text", ["", "carol", "Alice", "11111", "…", "alic", f"{ALICE}x"])
def test_what_nobody_is_called_is_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        find_node(text, KNOWN)


@given(
    st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=6), st.text(max_size=9)
)
def test_finding_finds_one_that_is_known_or_says_why_not(
    nodes: list[tuple[str, str]], text: str
) -> None:
    try:
        found = find_node(text, nodes)
    except (NotFound, Ambiguous):
        return
    assert found in dict(nodes)


# On disk


def test_known_nodes_outlive_the_process(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "peatnet.db")
    try:
        table = KnownNodes(database)
        fleet = Fleet()
        fleet.hear("a", 7, status("one"), 100.0)
        fleet.hear("b", 2**64 - 1, status("two"), 110.0)
        table.save(fleet.nodes(), [], 120.0, 1_000_000.0)
        # Another run, an hour later, with another clock of its own.
        later = KnownNodes(database).load(5.0, 1_003_600.0)
        assert [(node.peer_id, node.name, node.age(5.0)) for node in later] == [
            ("b", "two", 3610.0),
            ("a", "one", 3620.0),
        ]
        again = Fleet(later)
        assert again.count_seen(5.0) == 0
        assert again.hear("a", 7, status("one"), 6.0) is None
        assert again.hear("a", 8, status("one"), 6.0) is not None
        table.save([], ["a", "nobody"], 6.0, 1_003_601.0)
        assert [node.peer_id for node in table.load(6.0, 1_003_601.0)] == ["b"]
        # A clock that was set back: it was seen now, for all we know.
        assert [node.age(6.0) for node in table.load(6.0, 0.0)] == [0.0]
    finally:
        database.close()


def test_where_nodes_were_outlives_the_process(tmp_path: Path) -> None:
    two = ("/ip4/192.0.2.1/tcp/1", "/ip6/2001:db8::1/tcp/1")
    database = Database.open(tmp_path / "peatnet.db")
    try:
        table = KnownNodes(database)
        fleet = Fleet()
        fleet.hear("a", 1, status(addresses=two[:1]), 0.0)
        fleet.hear("a", 2, status(addresses=two), 1.0)
        fleet.hear("b", 1, status(addresses=two[:1]), 1.0)
        fleet.hear("b", 2, status(), 2.0)  # it says nothing of it this time
        fleet.hear("c", 1, status(), 3.0)
        table.save(fleet.nodes(), [], 10.0, 1000.0)
        later = Fleet(table.load(10.0, 1000.0))
        assert {node.peer_id: node.addresses for node in later.nodes()} == {
            "a": two,
            "b": two[:1],
            "c": (),
        }
        assert {node.peer_id for node in later.likely()} == {"a", "b"}
    finally:
        database.close()


def test_a_table_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "peatnet.db")
    try:
        database.script("fleet-1", known_nodes._SCHEMA)  # as it was then
        database.execute("INSERT INTO known_nodes VALUES ('a', 'one', 7, 0.0, 1.0)")
        (node,) = KnownNodes(database).load(5.0, 5.0)
        assert (node.peer_id, node.addresses) == ("a", ())
    finally:
        database.close()


def test_nodes_that_somebody_invents_are_not_all_that_are_looked_for() -> None:
    where = ("/ip4/192.0.2.1/tcp/1",)
    real = [KnownNode(f"r{n}", "r", 1, 0.0, 9e5, addresses=where) for n in range(LIKELY)]
    invented = [KnownNode(f"i{n}", "i", 1, 1e6, 1e6, addresses=where) for n in range(900)]
    likely = [node.name for node in Fleet([*real, *invented]).likely()]
    assert likely.count("r") == likely.count("i") == LIKELY


def test_only_those_heard_of_last_are_loaded_when_there_are_too_many() -> None:
    known = [KnownNode(str(number), "n", 1, 0.0, float(number)) for number in range(10)]
    assert sorted(node.peer_id for node in Fleet(known, max_nodes=3).nodes()) == ["7", "8", "9"]


def test_messages_are_numbered_upwards_whatever_the_clock_says(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "peatnet.db")
    try:
        table = KnownNodes(database)
        first = table.reserve(1000)
        assert first == 1000
        assert table.reserve(5) == 1000 + RESERVED
        assert KnownNodes(database).reserve(10**18) == 10**18
        assert table.reserve(2**63 - 10) == 2**63 - 10
        assert table.reserve(0) == 2**63 - 1
    finally:
        database.close()
