"""Where a model stands on a fleet, why not, and when: from statuses alone."""

from __future__ import annotations

import pytest
from fleet_kit import PUBLISHER, outcome, report, status
from hypothesis import given
from hypothesis import strategies as st

from peatnet.deploy.fleet import Fleet
from peatnet.deploy.rollout import (
    LEFT_OUT,
    UNKNOWN_MODEL,
    NodeStage,
    NodeWord,
    Rollout,
    Stage,
    load_failed,
    rollout,
)
from peatnet.models import ModelStatus
from peatnet.net.node_status import (
    MAX_REASON,
    CommandOutcome,
    CommandReport,
    ModelReport,
    NodeStatus,
)


def of(*words: NodeWord) -> Rollout:
    return rollout(PUBLISHER, "m", "2", 1000, words)


def word(told: NodeStatus | None, age: float = 0.0, name: str = "n") -> NodeWord:
    return NodeWord(f"id of {name}", name, age, told)


def one(told: NodeStatus | None, age: float = 0.0) -> NodeStage:
    (found,) = of(word(told, age)).nodes
    return found


@pytest.mark.parametrize(
    ("told", "stage", "reason", "expected", "eta_s"),
    [
        (status("n", report("Loaded", progress=1.0)), Stage.LOADED, "", True, 0.0),
        (status("n", report("Ready", progress=1.0)), Stage.READY, "", True, 0.0),
        (status("n", report("Downloading", rate=100, left_s=8)), Stage.DOWNLOADING, "", True, 6.0),
        (status("n", report("Downloading", left_s=1)), Stage.DOWNLOADING, "", True, 0.0),
        (status("n", report("Downloading")), Stage.DOWNLOADING, "", True, None),
        (status("n", report("Available", wanted=True, reason="soon")), Stage.PENDING, "soon", True, None),
        (status("n", report("Available", reason="no RAM")), Stage.PENDING, "no RAM", False, None),
        (status("n", report("Failed", reason="no file")), Stage.FAILED, "no file", False, None),
        (status("n", report("Failed")), Stage.FAILED, "failed", False, None),
        (status("n"), Stage.PENDING, UNKNOWN_MODEL, True, None),
        (status("n", truncated=True), Stage.PENDING, LEFT_OUT, False, None),
        (status("n", report("Ready", version="1")), Stage.PENDING, UNKNOWN_MODEL, True, None),
        (status("n", report("Ready", publisher="somebody else")), Stage.PENDING, UNKNOWN_MODEL, True, None),
        (None, Stage.UNKNOWN, "not seen for 2 s", False, None),
    ],
)  # fmt: skip
def test_what_a_node_says_of_a_model(
    told: NodeStatus | None, stage: Stage, reason: str, *, expected: bool, eta_s: float | None
) -> None:
    found = one(told, 2.0)
    assert (found.stage, found.reason, found.expected) == (stage, reason, expected)
    assert found.eta_s == eta_s
    assert found.last_seen_s == 2.0


@pytest.mark.parametrize(
    ("model", "word_of_order", "stage", "reason", "expected"),
    [
        ("Ready", "failed", Stage.FAILED, "why", False),
        ("Available", "failed", Stage.FAILED, "why", False),
        ("Loaded", "failed", Stage.LOADED, "", True),  # and was loaded by a later one
        ("Loaded", "done", Stage.LOADED, "", True),
        ("Ready", "done", Stage.READY, "why", True),
        ("Ready", "running", Stage.READY, "why", True),
        ("Available", "waiting", Stage.PENDING, "why; own", True),
        ("Available", "refused", Stage.PENDING, "why; own", False),
        ("Available", "canceled", Stage.PENDING, "why; own", False),
        ("Failed", "running", Stage.FAILED, "own", False),
        (None, "failed", Stage.FAILED, "why", False),
        (None, "waiting", Stage.PENDING, "why", True),
    ],
)
def test_orders_count_besides_what_is_there(
    model: str | None, word_of_order: str, stage: Stage, reason: str, *, expected: bool
) -> None:
    models = [report(model, reason="" if model == "Ready" else "own")] if model else []
    found = one(status("n", *models, outcomes=(outcome(word_of_order, "why"),)))
    assert (found.stage, found.reason, found.expected) == (stage, reason, expected)


def test_a_model_that_is_being_loaded_takes_a_time_that_nobody_knows() -> None:
    loading = status("n", report("Ready"), outcomes=(outcome("running"),))
    assert one(loading).eta_s is None
    assert of(word(loading), word(status("o", report("Loaded")))).eta_s is None


def test_the_newest_order_for_the_model_counts_and_reasons_come_once() -> None:
    elsewhere = CommandReport("c-0", "m@1", CommandOutcome.FAILED, "other")
    newest = CommandReport("c-2", "m@2", CommandOutcome.WAITING, "too little RAM: 1")
    told = status(
        "n",
        report("Available", reason="too little RAM: 1"),
        outcomes=(elsewhere, newest, outcome("failed")),
    )
    assert one(told).reason == "too little RAM: 1"
    silent = status("n", report("Ready"), outcomes=(outcome("failed"),))
    assert one(silent).reason == "an update command failed"


@pytest.mark.parametrize(
    ("followed", "stage", "reason"),
    [("failed", Stage.FAILED, "no memory"), ("running", Stage.READY, "no memory")],
)
def test_what_is_refused_does_not_hide_what_is_done(
    followed: str, stage: Stage, reason: str
) -> None:
    refused = CommandReport("c-2", "m@2", CommandOutcome.REFUSED, "untrusted publisher")
    told = status("n", report("Ready"), outcomes=(refused, outcome(followed, "no memory")))
    assert (one(told).stage, one(told).reason) == (stage, reason)
    assert (one(told).eta_s is None) == (stage is not Stage.LOADED)
    alone = status("n", report("Available"), outcomes=(refused,))
    assert (one(alone).stage, one(alone).reason) == (Stage.PENDING, "untrusted publisher")


def test_a_node_that_stopped_says_so_and_one_that_expired_is_unknown() -> None:
    fleet = Fleet()
    fleet.hear("a", 1, status("a", report("Loaded")), 0.0)
    fleet.hear("b", 1, status("b", report("Loaded")), 0.0)
    fleet.hear("b", 2, status("b", leaving=True), 1.0)
    found = of(*(NodeWord.of(node, 70.0) for node in fleet.nodes()))
    assert [each.reason for each in found.nodes] == [
        "not seen for 70 s",
        "not seen for 69 s (it was stopped)",
    ]
    assert found.counts[Stage.UNKNOWN] == 2
    assert found.eta_s == 0.0  # of those that are expected, none is missing


def test_the_whole_takes_as_long_as_the_slowest_that_is_expected() -> None:
    found = of(
        word(status("a", report("Loaded", progress=1.0)), name="a"),
        word(status("b", report("Downloading", progress=0.5, rate=100, left_s=5)), name="b"),
        word(status("c", report("Downloading", progress=0.1, rate=300, left_s=3)), name="c"),
        word(status("d", report("Available", wanted=True, progress=0.2)), name="d"),
        word(status("e"), name="e"),
        word(status("f", report("Available", reason="no RAM")), name="f"),
        word(None, 99.0, name="g"),
    )
    assert found.eta_s == 5.0  # 1,000 bytes at the median of 200 a second
    assert {each.name: each.eta_s for each in found.nodes} == {
        "a": 0.0, "b": 5.0, "c": 3.0, "d": 4.0, "e": 5.0, "f": None, "g": None,
    }  # fmt: skip
    assert found.counts == {
        Stage.LOADED: 1, Stage.READY: 0, Stage.DOWNLOADING: 2, Stage.PENDING: 3, Stage.FAILED: 0, Stage.UNKNOWN: 1,
    }  # fmt: skip
    assert [each.name for each in found.nodes] == list("abcdefg")
    without_size = rollout(
        PUBLISHER, "m", "2", 0, [word(status("a", report("Downloading", rate=9)))]
    )
    assert without_size.eta_s is None


def test_another_version_in_service_is_told() -> None:
    told = status("n", report("Downloading"), report("Loaded", version="1"))
    assert one(told).serving == "1"
    assert one(status("n", report("Loaded"))).serving == "2"
    assert one(status("n", report("Loaded", model_id="other"))).serving == ""


def test_a_failed_load_is_told_with_the_last_lines_of_the_loader() -> None:
    assert load_failed("exit code 3") == "load failed: exit code 3"
    said = [f"line {number}" for number in range(99)] + ["x" * 999]
    text = load_failed("exit code 3" + "!" * 999, said)
    first, *lines = text.splitlines()
    assert first.startswith("load failed: exit code 3!")
    assert first.endswith("!…")  # that something is missing is seen
    assert lines[-2:] == ["  line 98", f"  {'x' * 159}…"]
    assert len(lines) > 5
    assert len(text) <= MAX_REASON


WORDS = st.builds(
    NodeWord,
    peer_id=st.sampled_from("abcdef"),
    name=st.sampled_from("xyz"),
    age=st.floats(0, 1e6),
    status=st.none()
    | st.builds(
        NodeStatus,
        name=st.just("x"),
        models=st.lists(
            st.builds(
                ModelReport,
                publisher=st.just(PUBLISHER),
                model_id=st.just("m"),
                version=st.sampled_from("12"),
                status=st.sampled_from(ModelStatus),
                progress=st.floats(0, 1),
                wanted=st.booleans(),
                rate=st.integers(0, 2**53),
                left_s=st.none() | st.integers(0, 2**53),
                reason=st.sampled_from(["", "why"]),
            ),
            max_size=3,
        ).map(tuple),
        outcomes=st.lists(
            st.builds(
                CommandReport,
                command_id=st.just("c"),
                model=st.sampled_from(["m@1", "m@2"]),
                outcome=st.sampled_from(CommandOutcome),
                reason=st.sampled_from(["", "why", "not"]),
            ),
            max_size=3,
        ).map(tuple),
        truncated=st.booleans(),
    ),
    left=st.booleans(),
)


@given(st.lists(WORDS, max_size=8), st.integers(0, 2**40))
def test_every_node_has_one_stage_and_who_is_not_there_has_a_reason(
    words: list[NodeWord], size: int
) -> None:
    found = rollout(PUBLISHER, "m", "2", size, words)
    assert sum(found.counts.values()) == len(found.nodes) == len(words)
    there = {Stage.LOADED, Stage.READY}
    for each in found.nodes:
        assert each.eta_s is None or each.eta_s >= 0
        if each.stage in {Stage.FAILED, Stage.UNKNOWN}:
            assert each.reason
            assert not each.expected
        if each.stage in there:
            assert each.expected
    waited_for = [each.eta_s for each in found.nodes if each.expected]
    if found.eta_s is None:
        assert None in waited_for
    else:
        assert found.eta_s == max([eta for eta in waited_for if eta is not None], default=0.0)
