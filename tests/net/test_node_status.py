"""The status message: what is sent is bounded and comes back; what is read is parsed or refused, never anything else."""

from __future__ import annotations

import string
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.errors import RemoteProtocolError
from peatnet.models import ModelStatus
from peatnet.net.node_status import (
    MAX_COUNT,
    MAX_MODELS,
    MAX_NAME,
    MAX_OUTCOMES,
    MAX_REASON,
    MAX_STATUS,
    CommandOutcome,
    CommandReport,
    HardwareReport,
    ModelReport,
    NodeStatus,
)
from peatnet.records import KeyPair

PUBLISHERS = [str(KeyPair.from_seed(bytes([number]) * 32).peer_id) for number in range(3)]
IDS = st.text(string.ascii_letters + string.digits + "-._", min_size=1, max_size=128)
COUNTS = st.integers(-5, MAX_COUNT + 5)

MODELS = st.builds(
    ModelReport,
    publisher=st.sampled_from(PUBLISHERS),
    model_id=IDS,
    version=IDS,
    status=st.sampled_from(ModelStatus),
    progress=st.floats(-0.5, 1.5),
    wanted=st.booleans(),
    rate=COUNTS,
    left_s=st.none() | COUNTS,
    reason=st.text(max_size=MAX_REASON + 50),
)
OUTCOMES = st.builds(
    CommandReport,
    command_id=IDS,
    model=st.builds("{}@{}".format, IDS, IDS),
    outcome=st.sampled_from(CommandOutcome),
    reason=st.text(max_size=MAX_REASON + 50),
)
HARDWARE = st.builds(
    HardwareReport,
    os=st.text(max_size=200),
    arch=st.text(max_size=20),
    cpu=st.text(max_size=20),
    cores=COUNTS,
    ram_mb=COUNTS,
    free_disk_mb=COUNTS,
    vram_mb=COUNTS,
    gpus=st.lists(st.tuples(st.text(max_size=150), COUNTS), max_size=20).map(tuple),
    execution_providers=st.lists(st.text(max_size=20), max_size=40).map(tuple),
)
STATUSES = st.builds(
    NodeStatus,
    name=st.text(max_size=MAX_NAME + 20),
    addresses=st.lists(
        st.sampled_from(["/ip4/192.0.2.7/tcp/7411", "/dns4/a/tcp/1"]), max_size=20
    ).map(tuple),
    hardware=HARDWARE,
    models=st.lists(MODELS, max_size=6).map(tuple),
    outcomes=st.lists(OUTCOMES, max_size=6).map(tuple),
    truncated=st.booleans(),
    leaving=st.booleans(),
)

SMALL = NodeStatus(
    "jetson-3",
    ("/ip4/192.0.2.7/tcp/7411",),
    HardwareReport(
        arch="aarch64", ram_mb=8192, gpus=(("Orin", 8192),), execution_providers=("cuda",)
    ),
    (ModelReport(PUBLISHERS[0], "yolov8n", "8.0.0", ModelStatus.READY, 1.0, wanted=True),),
    (CommandReport("c-1", "yolov8n@8.0.0", CommandOutcome.DONE),),
)


def rounded(status: NodeStatus) -> NodeStatus:
    """As it comes back: progress in parts of 10,000."""
    models = tuple(
        replace(each, progress=int(each.progress * 10_000) / 10_000) for each in status.models
    )
    return replace(status, models=models)


@given(STATUSES)
def test_whatever_a_node_would_say_is_sent_within_bounds_and_comes_back(status: NodeStatus) -> None:
    bounded = status.bounded()
    data = bounded.encode()
    assert len(data) <= MAX_STATUS
    assert NodeStatus.decode(data) == rounded(bounded)
    assert bounded.bounded() == bounded


def test_what_is_small_is_sent_as_it_is() -> None:
    assert SMALL.bounded() == SMALL
    assert NodeStatus.decode(SMALL.encode()) == SMALL


@pytest.mark.parametrize("reason", ["", "r", "é" * 2 * MAX_REASON])
def test_the_first_models_and_orders_are_sent_where_not_all_fit(reason: str) -> None:
    models = tuple(
        ModelReport(PUBLISHERS[0], f"m-{number}", "1", ModelStatus.AVAILABLE, reason=reason)
        for number in range(1000)
    )
    outcomes = tuple(
        CommandReport(f"c-{number}", "m@1", CommandOutcome.FAILED, reason) for number in range(100)
    )
    status = NodeStatus.decode(replace(SMALL, models=models, outcomes=outcomes).bounded().encode())
    names = [each.model_id for each in status.models]
    assert names == [f"m-{number}" for number in range(len(names))]
    assert 10 < len(names) <= MAX_MODELS
    assert [each.command_id for each in status.outcomes] == [
        f"c-{number}" for number in range(len(status.outcomes))
    ]
    assert 10 < len(status.outcomes) <= MAX_OUTCOMES
    assert status.truncated
    assert not SMALL.bounded().truncated


def test_what_is_no_text_is_made_fit() -> None:
    sent = replace(SMALL, name="a\ud800\n\x1b[31m").bounded()
    assert sent.name == "a?  [31m"
    assert replace(SMALL, name="").bounded().name == "?"
    reason = "load failed: 3\n  no memory\x1b[2J"
    (model,) = replace(SMALL, models=(replace(SMALL.models[0], reason=reason),)).bounded().models
    assert model.reason == "load failed: 3\n  no memory [2J"


def packed(path: str, value: Any) -> bytes:
    """The small status, with one field changed; a path such as ``m.0.s``."""
    fields = msgpack.unpackb(SMALL.encode())
    *way, last = path.split(".")
    here = fields
    for step in way:
        here = here[int(step) if step.isdigit() else step]
    if value is None:
        del here[last]
    else:
        here[last] = value
    data: bytes = msgpack.packb(fields)
    return data


BAD_FIELDS: list[tuple[str, Any]] = [
    ("n", ""), ("n", "x" * 65), ("n", "a\nb"), ("n", b"x"), ("n", None),
    ("a", [b""]), ("a", [b"x"] * 17), ("a", None),
    ("h", []), ("h", None), ("h.a", "x" * 129), ("h.u", "\x9b"), ("h.r", -1), ("h.r", 1.5), ("h.c", True),
    ("h.g", [1]), ("h.g", [{"n": "x", "v": -1}]), ("h.g", [{"n": "x", "v": 1}] * 17), ("h.x", ["x"] * 33),
    ("h.x", ["\n"]), ("h.x", [1]), ("h.x", ["x" * 129]),
    ("m", {}), ("m", [1]), ("m", [{}]), ("m", [{}] * 257), ("m.0.p", bytes(31)), ("m.0.p", bytes(32)),
    ("m.0.s", "Lost"), ("m.0.s", "ready"), ("m.0.g", 10_001), ("m.0.g", -1), ("m.0.w", 1), ("m.0.r", -1),
    ("m.0.l", MAX_COUNT + 1), ("m.0.e", "x" * 601), ("m.0.e", "\x1b"), ("m.0.i", "\0"), ("m.0.v", "x" * 129),
    ("c", [{}]), ("c", [{}] * 33), ("c.0.o", "lost"), ("c.0.i", 1), ("c.0.k", "x" * 301), ("c.0.e", 1),
    ("x", 0), ("x", None), ("b", 1),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), BAD_FIELDS)
def test_a_bad_field_is_refused(path: str, value: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        NodeStatus.decode(packed(path, value))


def test_unknown_fields_are_ignored() -> None:
    for path in ("new", "h.new", "m.0.new", "c.0.new"):
        assert NodeStatus.decode(packed(path, [1, {}])) == SMALL
    assert NodeStatus.decode(packed("b", value=True)) == replace(SMALL, leaving=True)


def test_what_is_too_large_is_not_looked_at() -> None:
    with pytest.raises(RemoteProtocolError, match="32769 bytes"):
        NodeStatus.decode(bytes(MAX_STATUS + 1))


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=6)
    ),
    max_leaves=20,
)


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from("nahmcxb"), JUNK).map(msgpack.packb)
    | st.binary(max_size=200)
    | st.tuples(st.integers(0, 199), st.binary(min_size=1, max_size=3)).map(
        lambda cut: SMALL.encode()[: cut[0]] + cut[1] + SMALL.encode()[cut[0] + len(cut[1]) :]
    )
)
def test_any_bytes_are_a_status_or_a_protocol_error(data: bytes) -> None:
    try:
        status = NodeStatus.decode(data)
    except RemoteProtocolError:
        return
    assert len(status.encode()) <= MAX_STATUS
