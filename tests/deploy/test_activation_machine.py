"""The state machine alone: every way through it, and what holds on all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peatnet.blobs import Database
from peatnet.deploy.activation import (
    MAX_ATTEMPTS,
    Activation,
    Candidate,
    Phase,
    Standing,
)
from peatnet.deploy.service_table import ServiceTable
from peatnet.errors import LocalProtocolError
from peatnet.models import ModelStatus

if TYPE_CHECKING:
    from pathlib import Path


def model(name: str, blob: str | None = "") -> Candidate:
    model_id, _, version = name.partition("@")
    return Candidate(
        "publisher",
        model_id,
        version,
        "llm",
        "gguf",
        f"models/{model_id}/{name}.gguf",
        None,
        name if blob == "" else blob,
    )


OLD, NEW, OTHER, FOREIGN = model("m@1"), model("m@2"), model("m@0"), model("n@1")


def begun(
    rollback: Candidate | None = None, *, was: Standing | None = None, has_loader: bool = True
) -> Activation:
    standings = {} if was is None else {"m": was}
    return Activation.begin(NEW, rollback, standings, has_loader=has_loader, command="c")


def test_the_straight_way() -> None:
    state = begun(was=Standing(OLD, loaded=True))
    assert (state.phase, state.links()) == (Phase.CHECK, {"m": OLD})
    state = state.checked()
    assert (state.phase, state.links()) == (Phase.SWITCH, {"m": NEW})
    state = state.switched().starting("t")
    assert (state.phase, state.links(), state.token) == (Phase.LOAD, {"m": NEW}, "t")
    assert state.previous() == OLD
    state = state.succeeded(loaded=True)
    assert state.settled() == {"m": Standing(NEW, loaded=True)}
    outcome = state.outcome()
    assert (outcome.status, outcome.in_service) == (ModelStatus.LOADED, NEW)
    assert (outcome.reason, outcome.lines, outcome.rolled_back) == (None, (), False)


def test_a_broken_header_disturbs_nothing() -> None:
    state = begun(was=Standing(OLD, loaded=True)).failed("broken")
    assert (state.phase, state.links()) == (Phase.RESTORE, {"m": OLD})
    state = state.restored()
    assert state.settled() == {"m": Standing(OLD, loaded=True)}
    outcome = state.outcome()
    assert (outcome.status, outcome.reason) == (ModelStatus.FAILED, "broken")
    assert (outcome.in_service, outcome.in_service_loaded) == (OLD, True)
    assert outcome.rolled_back


def test_a_failed_load_loads_the_old_one_again_without_a_check() -> None:
    state = begun(was=Standing(OLD, loaded=True)).checked().switched().starting("t")
    state = state.failed("exit", ("line",))
    assert (state.phase, state.candidate, state.links()) == (Phase.SWITCH, OLD, {"m": OLD})
    assert (state.attempts, state.token, state.previous()) == (0, "", NEW)
    outcome = state.switched().starting("u").succeeded(loaded=True).outcome()
    assert (outcome.status, outcome.reason, outcome.lines) == (
        ModelStatus.FAILED,
        "exit",
        ("line",),
    )
    assert (outcome.in_service, outcome.in_service_loaded) == (OLD, True)


def test_the_named_model_is_gone_back_to_first_and_checked() -> None:
    state = begun(OTHER, was=Standing(OLD, loaded=True)).failed("broken")
    assert (state.phase, state.candidate) == (Phase.CHECK, OTHER)
    state = state.checked().switched().starting("t").failed("exit")
    assert (state.phase, state.candidate) == (Phase.SWITCH, OLD)
    state = state.switched().starting("u").failed("exit")
    assert (state.phase, state.candidate, state.links()) == (Phase.RESTORE, None, {"m": OLD})
    state = state.restored()
    assert state.settled() == {"m": Standing(OLD, loaded=False)}
    outcome = state.outcome()
    assert [each.candidate for each in outcome.failures] == [NEW, OTHER, OLD]
    assert (outcome.in_service, outcome.in_service_loaded) == (OLD, False)


def test_the_named_model_may_be_the_current_one() -> None:
    was = Standing(OLD, loaded=True)
    assert begun(OLD, was=was).candidates == (NEW, OLD)
    # Even when it comes with another manifest file.
    newer = replace(OLD, manifest_path="x")
    state = begun(newer, was=was).failed("broken")
    assert state.phase is Phase.RESTORE
    assert state.restored().settled() == {"m": Standing(newer, loaded=True)}


def test_a_model_of_another_slot() -> None:
    state = begun(FOREIGN, was=Standing(OLD, loaded=True)).checked().switched().starting("t")
    state = state.failed("exit")
    assert (state.phase, state.candidate) == (Phase.CHECK, FOREIGN)
    state = state.checked()
    assert state.links() == {"m": OLD, "n": FOREIGN}
    done = state.switched().starting("u").succeeded(loaded=True)
    # The loader of the wanted model ran: nobody knows whether the old one is still loaded.
    assert done.settled() == {"m": Standing(OLD, loaded=False), "n": Standing(FOREIGN, loaded=True)}
    assert done.outcome().in_service == FOREIGN
    state = state.switched().starting("u").failed("exit")
    assert (state.candidate, state.links()) == (OLD, {"m": OLD, "n": None})
    assert state.switched().starting("v").succeeded(loaded=True).settled() == {
        "m": Standing(OLD, loaded=True),
        "n": None,
    }


def test_a_model_of_another_slot_that_is_in_service() -> None:
    standings = {"n": Standing(FOREIGN, loaded=True)}
    state = Activation.begin(NEW, FOREIGN, standings, has_loader=True).failed("broken")
    assert (state.phase, state.links()) == (Phase.RESTORE, {"m": None, "n": FOREIGN})
    done = state.restored()
    assert done.settled() == {"m": None, **standings}
    assert (done.outcome().in_service, done.outcome().in_service_loaded) == (FOREIGN, True)


def test_the_first_model_fails() -> None:
    done = begun().checked().switched().starting("t").failed("exit").restored()
    assert done.settled() == {"m": None}
    assert (done.outcome().in_service, done.outcome().rolled_back) == (None, False)


@pytest.mark.parametrize(("loaded", "has_loader"), [(True, True), (True, False), (False, False)])
def test_what_is_in_service_already_is_left_alone(*, loaded: bool, has_loader: bool) -> None:
    state = begun(was=Standing(NEW, loaded=loaded), has_loader=has_loader)
    assert state.phase is Phase.RESTORE
    done = state.restored()
    assert done.settled() == {"m": Standing(NEW, loaded=loaded)}
    assert done.outcome().status is (ModelStatus.LOADED if loaded else ModelStatus.READY)


def test_what_is_in_place_and_not_loaded_is_loaded() -> None:
    assert begun(was=Standing(NEW, loaded=False)).phase is Phase.CHECK
    unknown = model("m@2", None)
    state = Activation.begin(unknown, None, {"m": Standing(unknown, loaded=True)}, has_loader=True)
    assert state.phase is Phase.CHECK  # the bytes may be others


def test_attempts_are_counted() -> None:
    state = begun().checked().switched()
    for number in range(MAX_ATTEMPTS):
        assert not state.exhausted
        state = state.starting(str(number))
    assert state.exhausted
    assert not state.suspended().exhausted
    assert state.suspended().token == state.token


def test_attempts_to_read_a_header_are_counted_apart() -> None:
    state = begun(OTHER)
    for _ in range(MAX_ATTEMPTS):
        assert not state.exhausted
        state = state.checking()
    assert (state.phase, state.exhausted) == (Phase.CHECK, True)
    assert state.checked().attempts == 0
    # The next candidate has as many of its own.
    state = state.failed("the node ended")
    assert (state.phase, state.candidate, state.attempts) == (Phase.CHECK, OTHER, 0)


def test_what_is_called_off_before_a_loader_ran_leaves_all_as_it_was() -> None:
    was = Standing(OLD, loaded=True)
    for rollback in (None, OTHER, FOREIGN, replace(OLD, manifest_path="x")):
        for state in (begun(rollback, was=was), begun(rollback, was=was).checked()):
            done = state.called_off("canceled")
            assert (done.phase, done.links()["m"]) == (Phase.RESTORE, OLD)
            done = done.restored()
            assert done.settled()["m"] == was
            outcome = done.outcome()
            assert (outcome.status, outcome.reason) == (ModelStatus.FAILED, "canceled")
            assert (outcome.in_service, outcome.in_service_loaded) == (OLD, True)
    # Also where that was nothing, or the wanted model, which was not loaded.
    assert begun(OTHER).called_off("canceled").restored().settled() == {"m": None}
    in_place = Standing(NEW, loaded=False)
    done = begun(OTHER, was=in_place).called_off("canceled").restored()
    assert (done.settled(), done.outcome().status) == ({"m": in_place}, ModelStatus.FAILED)


def test_what_is_called_off_while_its_loader_runs_goes_back_to_what_was_there() -> None:
    for rollback in (None, OTHER, FOREIGN, OLD):
        state = begun(rollback, was=Standing(OLD, loaded=True)).checked().switched().starting("t")
        state = state.called_off("canceled")
        assert (state.phase, state.candidate, state.links()["m"]) == (Phase.SWITCH, OLD, OLD)
        assert (state.attempts, state.token) == (0, "")
        with pytest.raises(LocalProtocolError, match="going back"):
            state.called_off("canceled")
        done = state.switched().starting("u").succeeded(loaded=True)
        assert done.settled()["m"] == Standing(OLD, loaded=True)
        assert done.outcome().reason == "canceled"
    # Nothing was there: what the command names is for a model that is no good.
    state = begun(OTHER).checked().switched().starting("t").called_off("canceled")
    assert state.restored().settled() == {"m": None}


@pytest.mark.parametrize(
    "event", ["checked", "checking", "switched", "restored", "settled", "suspended"]
)
def test_events_out_of_turn(event: str) -> None:
    phases = {"checked": Phase.SWITCH, "checking": Phase.LOAD, "suspended": Phase.CHECK}
    state = replace(begun(), phase=phases.get(event, Phase.CHECK))
    with pytest.raises(LocalProtocolError):
        getattr(state, event)()
    with pytest.raises(LocalProtocolError):
        replace(state, phase=Phase.DONE).failed("x")


names = st.sampled_from([OLD, NEW, OTHER, FOREIGN, model("n@2"), model("m@9", None)])
standings = st.dictionaries(
    st.sampled_from(["m", "n"]), st.tuples(names, st.booleans()), max_size=2
)


@given(
    wanted=names,
    rollback=st.none() | names,
    was=standings,
    has_loader=st.booleans(),
    verdicts=st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_it_always_ends_in_the_old_or_the_new(
    wanted: Candidate,
    rollback: Candidate | None,
    was: dict[str, tuple[Candidate, bool]],
    verdicts: list[bool],
    *,
    has_loader: bool,
) -> None:
    before = {
        slot: Standing(replace(candidate, model_id=slot), loaded=loaded)
        for slot, (candidate, loaded) in was.items()
    }
    state = Activation.begin(wanted, rollback, before, has_loader=has_loader)
    answers = iter(verdicts)
    running = {slot: standing.candidate for slot, standing in before.items() if standing.loaded}
    steps = 0
    while state.phase is not Phase.DONE:
        steps += 1
        # Whatever there was is still there, or something that was asked for.
        for slot, candidate in state.links().items():
            assert candidate is None or candidate.model_id == slot
            assert (candidate is None) <= (slot not in before)
        if state.phase is Phase.RESTORE:
            state = state.restored()
            continue
        if state.phase is Phase.LOAD:
            candidate = state.candidate
            assert candidate is not None
            if not has_loader:
                state = state.succeeded(loaded=False)
                continue
            state = state.starting("t")
            good = next(answers)
            # A loader may replace what the runtime had of both slots, whether or not it succeeds.
            running = {
                slot: each
                for slot, each in running.items()
                if slot not in {state.slot, candidate.model_id}
            }
            running |= {candidate.model_id: candidate} if good else {}
            state = state.succeeded(loaded=True) if good else state.failed("no")
            continue
        good = next(answers)
        follow = state.checked if state.phase is Phase.CHECK else state.switched
        state = follow() if good else state.failed("no")
    assert steps <= 10
    settled, outcome = state.settled(), state.outcome()
    for slot, standing in settled.items():
        assert (standing is None) <= (slot not in before)
        if standing is not None and standing.loaded:
            # What is said to be loaded is what its loader said so of, and none has run for its slot since.
            assert running.get(slot, wanted).is_known_as(standing.candidate)
            assert slot in running
    assert (outcome.status is ModelStatus.FAILED) == bool(outcome.failures)
    if not outcome.failures:
        assert outcome.in_service is not None
        assert outcome.in_service.model_id == wanted.model_id
    elif outcome.in_service is not None:
        named = [rollback, *(standing.candidate for standing in before.values())]
        assert outcome.in_service in named


@given(
    wanted=names,
    rollback=st.none() | names,
    was=standings,
    at=st.sampled_from([Phase.CHECK, Phase.SWITCH, Phase.LOAD]),
    started=st.booleans(),
)
def test_what_is_called_off_ends_in_what_was_there(
    wanted: Candidate,
    rollback: Candidate | None,
    was: dict[str, tuple[Candidate, bool]],
    at: Phase,
    *,
    started: bool,
) -> None:
    before = {
        slot: Standing(replace(candidate, model_id=slot), loaded=loaded)
        for slot, (candidate, loaded) in was.items()
    }
    begun = Activation.begin(wanted, rollback, before, has_loader=True)
    state = replace(begun, phase=at)
    if at is Phase.LOAD and started:
        state = state.starting("t")
    state = state.called_off("canceled")
    if state.phase is Phase.SWITCH:
        state = state.switched().starting("u").succeeded(loaded=True)
    else:
        state = state.restored()
    settled, outcome = state.settled(), state.outcome()
    for slot, standing in settled.items():
        there = before.get(slot)
        assert (standing is None) == (there is None)
        if standing is not None and there is not None:
            assert standing.candidate.is_known_as(there.candidate)
            assert standing == there or state.disturbed
    assert (outcome.status, outcome.reason) == (ModelStatus.FAILED, "canceled")
    assert not outcome.in_service or outcome.in_service.model_id == wanted.model_id


def test_the_table_gives_back_what_it_was_given(tmp_path: Path) -> None:
    states = [begun(FOREIGN, was=Standing(OLD, loaded=True))]
    states.append(states[-1].checked().switched().starting("t"))
    states.append(states[-1].failed("a reason", ("line 1", "line ü")))
    with Database.open(tmp_path / "db") as database:
        table = ServiceTable(database)
        for state in states:
            table.put(state)
            assert table.pending() == [state]
        assert not table.is_canceled("m")
        assert not table.cancel("m", "another")
        assert table.cancel("m", "c")
        table.put(states[0])
        assert table.is_canceled("m")
        assert not table.cancel("n", None)
        done = states[-1].checked().switched().starting("u").succeeded(loaded=True)
        outcome = table.settle(done)
        assert outcome == done.outcome()
        assert not table.is_canceled("m")
    with Database.open(tmp_path / "db") as database:
        table = ServiceTable(database)
        assert table.pending() == []
        assert table.outcome("m") == ("c", outcome)
        assert table.outcome("n") is None
        assert table.standings() == done.settled()
        assert table.previous("m") is None
        table.settle(
            begun(was=Standing(OLD, loaded=True)).checked().switched().succeeded(loaded=False)
        )
        assert (table.standings()["m"].candidate, table.previous("m")) == (NEW, OLD)
        table.clear("m")
    with Database.open(tmp_path / "db") as database:
        table = ServiceTable(database)
        assert "m" not in table.standings()
        assert table.previous("m") is None
