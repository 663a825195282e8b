from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.errors import InvalidManifest, LocalProtocolError
from peatnet.models import (
    LocalModelState,
    ModelManifest,
    ModelStatus,
    ModelType,
    ModelUpdateCommand,
    Quantization,
    Timestamp,
    limits,
    ministral_3b,
)

NOW = Timestamp("2025-12-02T10:11:12.5Z")
UUID = "0b8e6b4e-6d1c-4c39-9a5c-0f3f6f2f9a11"


def command(**others: Any) -> ModelUpdateCommand:
    manifest = ministral_3b(Quantization.Q4_K_M, created_at=NOW)
    given: dict[str, Any] = {"command_id": UUID, "manifest": manifest, "timestamp": NOW}
    return ModelUpdateCommand(**given | others)


def test_defaults_of_a_command() -> None:
    order = command()
    assert (order.target_nodes, order.priority, order.auto_load) == ((), 3, True)
    assert order.rollback_model_id is None
    assert order.payload()["rollback_model_id"] is None
    assert ModelUpdateCommand.from_json(order.to_json()) == order


@pytest.mark.parametrize(("given", "kept"), [(0, 1), (1, 1), (3, 3), (5, 5), (6, 5), (255, 5)])
def test_priority_is_clamped(given: int, kept: int) -> None:
    assert command(priority=given).priority == kept
    text = command().to_json().replace('"priority":3', f'"priority":{given}')
    assert ModelUpdateCommand.from_json(text).priority == kept


@pytest.mark.parametrize("rollback", ["m", "m@1.0.0"])
def test_what_to_go_back_to_may_have_a_version(rollback: str) -> None:
    order = command(rollback_model_id=rollback)
    assert order.rollback_model_id == rollback
    assert ModelUpdateCommand.from_json(order.to_json()) == order


def test_targets() -> None:
    assert command().targets_node("anyone")
    order = command(target_nodes=["a", "b"])
    assert order.targets_node("b")
    assert not order.targets_node("c")


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("command_id", "", "must not be empty"),
        ("command_id", "a\n", "control characters"),
        ("command_id", 5, "must be text"),
        ("target_nodes", ["a", ""], "target_nodes.1"),
        ("target_nodes", ["a"] * 1025, "at most 1024"),
        ("target_nodes", None, "must be a list"),
        ("priority", 256, "integer from 0 to 255"),
        ("priority", -1, "integer from 0 to 255"),
        ("priority", True, "integer from 0 to 255"),
        ("priority", 3.0, "integer from 0 to 255"),
        ("auto_load", 1, "must be true or false"),
        ("rollback_model_id", "../x", "must not hold"),
        ("rollback_model_id", "m@../x", "must not hold"),
        ("rollback_model_id", "m@", "must not be empty"),
        ("timestamp", "now", "RFC 3339"),
        ("nonsense", 1, "no such field"),
    ],
)
def test_bad_commands_are_refused(field: str, value: Any, why: str) -> None:
    with pytest.raises(InvalidManifest, match=r"^update command field ") as caught:
        command(**{field: value})
    assert field in caught.value.message
    assert why in caught.value.message


@pytest.mark.parametrize("manifest", [None, [], "{}"])
def test_a_command_needs_a_manifest(manifest: Any) -> None:
    with pytest.raises(InvalidManifest, match=r"^manifest: must be a table of keys and values"):
        command(manifest=manifest)


def test_a_bad_manifest_in_a_command_names_its_own_field() -> None:
    with pytest.raises(InvalidManifest, match=r"^manifest field model_id: must not hold /$"):
        ModelUpdateCommand.from_json(command().to_json().replace("ministral-3b", "a/b"))


def test_the_largest_manifest_fits_in_a_command() -> None:
    empty = command().manifest.replace(metadata={"x": ""})
    room = limits.MAX_MANIFEST_BYTES - len(empty.to_json())
    largest = empty.replace(metadata={"x": "x" * room})
    assert len(largest.to_json()) == limits.MAX_MANIFEST_BYTES
    order = command(manifest=largest, target_nodes=["n" * 52] * 100)
    assert ModelUpdateCommand.from_json(order.to_json()) == order
    with pytest.raises(InvalidManifest, match=r"^update command: takes \d+ bytes"):
        command(manifest=largest, target_nodes=["n" * 52] * 200)


def test_the_deepest_manifest_fits_in_a_command() -> None:
    inner: Any = 1
    for _ in range(limits.MAX_METADATA_DEPTH - 1):
        inner = [inner]
    order = command(manifest=command().manifest.replace(metadata={"a": inner}))
    assert ModelUpdateCommand.from_json(order.to_json()) == order


def test_from_available_to_loaded() -> None:
    state = LocalModelState.available("m")
    assert state.status is ModelStatus.AVAILABLE
    assert (state.download_progress, state.local_path, state.verified_at) == (0.0, None, None)
    state = state.downloading(0.5)
    assert (state.status, state.download_progress) == (ModelStatus.DOWNLOADING, 0.5)
    state = state.ready(PurePosixPath("/models/m.gguf"), verified_at=NOW)
    assert (state.status, state.download_progress) == (ModelStatus.READY, 1.0)
    assert (state.local_path, state.verified_at) == ("/models/m.gguf", NOW)
    state = state.loaded()
    assert state.status is ModelStatus.LOADED
    assert state.loaded() == state
    assert LocalModelState.from_json(state.to_json()) == state


def test_failing_keeps_what_is_known_and_going_on_clears_the_error() -> None:
    failed = LocalModelState.available("m").downloading(0.25).failed("disk full")
    assert (failed.status, failed.error) == (ModelStatus.FAILED, "disk full")
    assert failed.download_progress == 0.25
    assert failed.downloading(0.25).error is None
    assert failed.ready("/m", verified_at=NOW).error is None
    assert LocalModelState.from_json(failed.to_json()) == failed


@pytest.mark.parametrize(
    "state",
    [
        LocalModelState.available("m"),
        LocalModelState.available("m").downloading(1.0),
        LocalModelState.available("m").failed("x"),
    ],
)
def test_only_verified_bytes_are_loaded(state: LocalModelState) -> None:
    with pytest.raises(LocalProtocolError, match="only a ready model is loaded"):
        state.loaded()


@pytest.mark.parametrize(
    ("given", "kept"),
    [(-1, 0.0), (0.5, 0.5), (2, 1.0), (float("inf"), 1.0), (float("-inf"), 0.0)],
)
def test_progress_is_clamped(given: float, kept: float) -> None:
    assert LocalModelState.available("m").downloading(given).download_progress == kept


@given(st.floats(allow_nan=False))
@settings(deadline=None)
def test_any_progress_round_trips(progress: float) -> None:
    state = LocalModelState.available("m").downloading(progress)
    assert 0 <= state.download_progress <= 1
    assert LocalModelState.from_json(state.to_json()) == state


@pytest.mark.parametrize("progress", [float("nan"), "half", None])
def test_progress_must_be_a_number(progress: Any) -> None:
    with pytest.raises(
        InvalidManifest, match=r"^model state field download_progress: must be a num"
    ):
        LocalModelState.available("m").downloading(progress)


@pytest.mark.parametrize("error", ["x" * 3000, "é" * 2000, "\ud800bad", "\0" * 3000])
def test_errors_are_made_fit(error: str) -> None:
    state = LocalModelState.available("m").failed(error)
    assert state.error
    assert len(state.error.encode()) <= limits.MAX_ERROR_BYTES
    assert LocalModelState.from_json(state.to_json()) == state


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_id", ".."),
        ("status", "ready"),
        ("local_path", "/" + "x" * 4096),
        ("local_path", "/a\nb"),
        ("verified_at", "now"),
        ("error", "é" * 1500),
        ("error", "\ud800"),
    ],
)
def test_bad_states_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidManifest, match=f"^model state field {field}: "):
        LocalModelState.available("m").replace(**{field: value})


def test_the_manifest_of_a_command_may_be_given_as_json_objects_are() -> None:
    manifest = ModelManifest.new("m", "M", ModelType.CUSTOM, created_at=NOW)
    assert command(manifest=manifest.payload()).manifest == manifest
