from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from records_support import ALICE, make

from peatnet.errors import InvalidManifest, LocalProtocolError
from peatnet.models import ModelManifest, ModelType, ModelUpdateCommand, Timestamp
from peatnet.records import (
    Cancellation,
    Record,
    RecordType,
    Withdrawal,
    check_body,
    command_key,
    decode_cancellation,
    decode_command,
    decode_manifest,
    decode_withdrawal,
    open_record,
    sign_record,
)

MANIFEST = ModelManifest.new(
    "yolo",
    "YOLO",
    ModelType.DETECTOR,
    source="test",
    created_at="2025-12-02T10:11:12.123456789Z",
    metadata={"peatnet": {"chunk_size": 65536, "table_hash": "0" * 64}},
)
COMMAND = ModelUpdateCommand(
    command_id="0f5c1c0e-6c5b-4a8e-9a2f-0123456789ab",
    manifest=MANIFEST,
    timestamp=Timestamp("2025-12-02T10:11:12Z"),
)
WITHDRAWAL = Withdrawal(model_id="yolo", version="1.0.0", reason="finds cats in everything")

CANCELLATION = Cancellation(model_id="yolo", command_id=COMMAND.command_id, reason="too early")

BODIES: list[tuple[RecordType, str, str]] = [
    (RecordType.MANIFEST, MANIFEST.key, MANIFEST.to_json()),
    (RecordType.WITHDRAWAL, WITHDRAWAL.key, WITHDRAWAL.to_json()),
    (RecordType.COMMAND, command_key("yolo", COMMAND.command_id), COMMAND.to_json()),
    (RecordType.CANCELLATION, CANCELLATION.key, CANCELLATION.to_json()),
]
DECODERS: dict[RecordType, Any] = {
    RecordType.MANIFEST: decode_manifest,
    RecordType.WITHDRAWAL: decode_withdrawal,
    RecordType.COMMAND: decode_command,
    RecordType.CANCELLATION: decode_cancellation,
}


def record(record_type: RecordType, key: str, body: str | bytes) -> Record:
    data = body.encode() if isinstance(body, str) else body
    return open_record(sign_record(ALICE, record_type, key, 1, data).envelope)


def test_what_was_put_in_comes_out() -> None:
    manifest, withdrawal, command, cancellation = (record(*body) for body in BODIES)
    assert decode_manifest(manifest) == MANIFEST
    assert decode_withdrawal(withdrawal) == WITHDRAWAL
    assert decode_command(command) == COMMAND
    assert decode_cancellation(cancellation) == CANCELLATION
    for one in (manifest, withdrawal, command, cancellation):
        check_body(one)


def test_what_takes_a_record_back_shares_its_slot() -> None:
    manifest, withdrawal, command, cancellation = (record(*body) for body in BODIES)
    assert manifest.slot == withdrawal.slot != command.slot == cancellation.slot
    assert command.model_id == cancellation.model_id == "yolo"


@pytest.mark.parametrize(("record_type", "key", "body"), BODIES)
@pytest.mark.parametrize(
    "other", ["yolo@2", "yolo", "yolo@1.0.0 ", "YOLO@1.0.0", "../yolo@1.0.0", "yolo/x"]
)
def test_a_body_must_be_about_the_records_key(
    record_type: RecordType, key: str, body: str, other: str
) -> None:
    with pytest.raises(InvalidManifest, match="filed under"):
        check_body(record(record_type, other, body))


@pytest.mark.parametrize(("record_type", "key", "body"), BODIES)
def test_each_decoder_reads_its_own_type_only(record_type: RecordType, key: str, body: str) -> None:
    for other, decode in DECODERS.items():
        if other is not record_type:
            with pytest.raises(LocalProtocolError, match=f"a {record_type} record"):
                decode(record(record_type, key, body))


@pytest.mark.parametrize(("record_type", "key", "body"), BODIES)
@given(
    hostile=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["model_id", "version", "reason", "manifest", "x"]), inner
            )
        ),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode())
)
@example(hostile=b"[" * 50_000)
@example(hostile=b'{"model_id":' * 4_000)
@example(hostile=b'{"model_id":"\\ud800","version":"1","command_id":"\\ud800"}')
@example(hostile=b"1" * 50_000)
@example(hostile=b"")
@settings(deadline=None)
def test_hostile_bodies(record_type: RecordType, key: str, body: str, hostile: bytes) -> None:
    with pytest.raises(InvalidManifest):
        check_body(record(record_type, key, hostile))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"version": "1"}, "model_id"),
        ({"model_id": "yolo"}, "version"),
        ({"model_id": 5, "version": "1"}, "model_id"),
        ({"model_id": "yolo@1", "version": "1"}, "model_id"),
        ({"model_id": "..", "version": "1"}, "model_id"),
        ({"model_id": "yolo", "version": "a/b"}, "version"),
        ({"model_id": "yolo", "version": "1", "reason": None}, "reason"),
        ({"model_id": "yolo", "version": "1", "reason": "\x1b[2J"}, "reason"),
        ({"model_id": "yolo", "version": "1", "reason": "x" * 513}, "reason"),
        ({"model_id": "yolo", "version": "1", "x": "x" * 9_000}, "bytes"),
    ],
)
def test_withdrawals_that_break_a_rule(body: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidManifest, match=message):
        Withdrawal.from_json(json.dumps(body))


def test_a_withdrawal_needs_no_reason_and_ignores_what_it_does_not_know() -> None:
    found = Withdrawal.from_json(b'{"model_id":"yolo","version":"1.0.0","more":[]}')
    assert found == Withdrawal(model_id="yolo", version="1.0.0")
    assert found.to_json() == '{"model_id":"yolo","version":"1.0.0","reason":""}'


def test_the_body_of_a_status_is_not_looked_at() -> None:
    check_body(make(record_type=RecordType.STATUS, body=b"\xff"))
