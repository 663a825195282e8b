from __future__ import annotations

import msgpack
import pytest
from blake3 import blake3
from hypothesis import example, given, settings
from hypothesis import strategies as st
from records_support import ALICE, BOB, make, pack, seal

from peatnet.errors import LocalProtocolError, RemoteProtocolError, SignatureError
from peatnet.records import (
    MAX_ENVELOPE,
    MAX_KEY,
    MAX_SEQUENCE,
    PeerId,
    Record,
    RecordType,
    open_record,
    sign_record,
    slot_of,
)

VALID = make(body=b'{"model_id":"yolo"}').envelope

keys = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=75)
sequences = st.integers(0, MAX_SEQUENCE)


def open_or_refuse(data: bytes) -> Record | None:
    """The invariant of the room: whatever the bytes are, a record or one of two errors."""
    try:
        return open_record(data)
    except (SignatureError, RemoteProtocolError):
        return None


@given(st.sampled_from(RecordType), keys, sequences, st.binary(max_size=300))
@settings(deadline=None)
def test_what_is_signed_can_be_opened(
    record_type: RecordType, key: str, sequence: int, body: bytes
) -> None:
    record = sign_record(ALICE, record_type, key, sequence, body)
    opened = open_record(record.envelope)
    assert opened == record
    assert hash(opened) == hash(record)
    for one in (record, opened):
        assert one.type is record_type
        assert one.publisher == ALICE.peer_id
        assert (one.key, one.sequence, one.body) == (key, sequence, body)
        assert one.id == blake3(one.envelope).digest()
        assert one.order == (sequence, one.id)
        assert one.slot == slot_of(ALICE.public, record_type, key)


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_arbitrary_bytes(data: bytes) -> None:
    assert open_or_refuse(data) is None


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_no_alteration_of_an_envelope_opens(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(VALID)))
    end = data.draw(st.integers(start, min(len(VALID), start + 8)))
    altered = VALID[:start] + data.draw(st.binary(max_size=8)) + VALID[end:]
    opened = open_or_refuse(altered)
    assert (opened is not None) == (altered == VALID)


def test_no_single_bit_is_without_meaning() -> None:
    for position in range(len(VALID)):
        for bit in range(8):
            altered = bytearray(VALID)
            altered[position] ^= 1 << bit
            assert open_or_refuse(bytes(altered)) is None


def test_no_beginning_of_an_envelope_opens() -> None:
    for length in range(len(VALID)):
        assert open_or_refuse(VALID[:length]) is None


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=9))
    | st.builds(msgpack.Timestamp, st.integers(0, 2**40), st.integers(0, 999_999_999))
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=2) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=8,
)
likely = st.fixed_dictionaries({"k": values, "s": values, "b": values}) | st.fixed_dictionaries(
    {"k": keys, "s": sequences, "b": st.binary(max_size=20)}
)


@given(
    st.binary(min_size=1, max_size=60)
    | (values | likely).map(lambda value: msgpack.packb(value, use_bin_type=True))
)
@example(b"\x81" * 50_000)
@example(b"\x91" * 50_000)
@example(b"\xc9\xff\xff\xff\xff\xff")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xd6\xff\0\0\0\0")
@example(b"\xc7\x0c\xff" + b"\xff" * 12)
@example(b"\xc1")
@settings(deadline=None, max_examples=300)
def test_payloads_of_a_hostile_publisher(payload: bytes) -> None:
    record = open_or_refuse(seal(payload))
    if record is not None:
        assert pack(k=record.key, s=record.sequence, b=record.body) == payload
        assert PeerId(str(record.publisher)) == ALICE.peer_id


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\xc1", "not valid msgpack"),
        (pack(k="a", s=1, b=b"") + b"\0", "not valid msgpack"),
        (pack(k="a", s=1, b=b"")[:-1], "not valid msgpack"),
        (b"\x83\xa1k\xa1\xff\xa1s\x01\xa1b\xc4\x00", "not valid msgpack"),  # not UTF-8
        (pack(k="a", s=1, b=b"", x=1), "not valid msgpack"),
        (pack(k=["a"], s=1, b=b""), "not valid msgpack"),
        (pack(k="x" * (MAX_KEY + 1), s=1, b=b""), "not valid msgpack"),
        (msgpack.packb(5), "not a map"),
        (pack(k="a", s=1), "not a map"),
        (pack(k="a", s=1, x=b""), "not a map"),
        (pack(k=b"a", s=1, b=b""), "key is bytes"),
        (pack(k="a", s="1", b=b""), "sequence is str"),
        (pack(k="a", s=True, b=b""), "sequence is bool"),
        (pack(k="a", s=1.0, b=b""), "sequence is float"),
        (pack(k="a", s=1, b="{}"), "body is str"),
        (pack(k="a", s=1, b=None), "body is NoneType"),
        (pack(k="", s=1, b=b""), "key has 0 bytes"),
        (pack(k="é" * 150 + "x", s=1, b=b""), "not valid msgpack"),
        (pack(k="a\x1b[2J", s=1, b=b""), "control character"),
        (pack(k="a\x9b", s=1, b=b""), "control character"),
        (pack(k="a", s=-1, b=b""), "sequence -1"),
        (pack(k="a", s=2**63, b=b""), "sequence 9223372036854775808"),
        (pack(s=1, k="a", b=b""), "canonical"),
        (b"\x83\xa1k\xd9\x01a\xa1s\x01\xa1b\xc4\x00", "canonical"),  # str8 for a short text
        (b"\x83\xa1k\xa1a\xa1s\xcc\x01\xa1b\xc4\x00", "canonical"),  # uint8 for a small number
        (b"\x83\xa1k\xa1a\xa1s\xd0\x01\xa1b\xc4\x00", "canonical"),  # int8
        (b"\x83\xa1k\xa1a\xa1s\x01\xa1b\xc5\x00\x00", "canonical"),  # bin16 for a short body
        (b"\xde\x00\x03\xa1k\xa1a\xa1s\x01\xa1b\xc4\x00", "canonical"),  # map16
    ],
)
def test_well_signed_payloads_that_break_a_rule(payload: bytes, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        open_record(seal(payload))


def test_an_unknown_payload_type_is_refused() -> None:
    data = seal(pack(k="a", s=1, b=b""), payload_type=b"/peatnet/manifest/2")
    with pytest.raises(RemoteProtocolError, match="unknown record type b'/peatnet/manifest/2'"):
        open_record(data)


def test_another_publishers_key_cannot_be_put_in() -> None:
    data = seal(pack(k="a", s=1, b=b""), keys=BOB, public=ALICE.public)
    with pytest.raises(SignatureError, match=ALICE.peer_id):
        open_record(data)


def test_a_record_cannot_change_its_type() -> None:
    record = make()
    data = record.envelope.replace(b"/peatnet/manifest/1", b"/peatnet/command/1")
    data = data.replace(b"\x12\x13/", b"\x12\x12/")
    with pytest.raises(SignatureError):
        open_record(data)


@pytest.mark.parametrize(
    ("key", "sequence", "message"),
    [
        ("", 1, "0 bytes"),
        ("x" * (MAX_KEY + 1), 1, "301 bytes"),
        ("a\n", 1, "control character"),
        ("a\ud800", 1, "lone surrogate"),
        ("a", -1, "sequence -1"),
        ("a", MAX_SEQUENCE + 1, "not within"),
    ],
)
def test_what_could_not_be_opened_is_not_signed(key: str, sequence: int, message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        sign_record(ALICE, RecordType.MANIFEST, key, sequence, b"{}")


def test_the_largest_envelope_is_signed_and_opened_and_no_larger_one() -> None:
    overhead = len(make(body=bytes(50_000)).envelope) - 50_000
    record = sign_record(ALICE, RecordType.MANIFEST, "yolo@1", 1, bytes(MAX_ENVELOPE - overhead))
    assert len(record.envelope) == MAX_ENVELOPE
    assert open_record(record.envelope) == record
    with pytest.raises(LocalProtocolError, match="61441 bytes") as caught:
        sign_record(ALICE, RecordType.MANIFEST, "yolo@1", 1, bytes(MAX_ENVELOPE - overhead + 1))
    assert caught.value.hint


@pytest.mark.parametrize("char", ["\0", "\x1f", "\x7f", "\x80", "\x9f"])
def test_control_characters_are_refused_up_to_the_last(char: str) -> None:
    with pytest.raises(RemoteProtocolError, match="control character"):
        open_record(seal(pack(k=f"a{char}", s=1, b=b"")))


@pytest.mark.parametrize("char", [" ", "~", "\xa0", "é", "模"])
def test_other_characters_are_taken(char: str) -> None:
    assert open_record(seal(pack(k=char, s=1, b=b""))).key == char


def test_slots() -> None:
    slots = {kind: slot_of(ALICE.public, kind, "a") for kind in RecordType}
    assert slots[RecordType.MANIFEST] == slots[RecordType.WITHDRAWAL]
    assert len(set(slots.values())) == 3
    assert slot_of(BOB.public, RecordType.MANIFEST, "a") != slots[RecordType.MANIFEST]
    assert slot_of(ALICE.public, RecordType.MANIFEST, "b") != slots[RecordType.MANIFEST]
    assert slots[RecordType.MANIFEST] == (
        blake3(
            ALICE.public.raw + b"manifest\0a", derive_key_context="peatnet record slot v1"
        ).digest(length=16)
    )


def test_records_compare_by_id_and_do_not_print_their_bytes() -> None:
    record = make()
    assert record != make(body=b"[]")
    assert record != "record"
    assert "envelope" not in repr(record)
