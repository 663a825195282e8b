from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records_support import ALICE

from peatnet.errors import RemoteProtocolError, SignatureError
from peatnet.records.envelope import (
    MAX_ENVELOPE,
    MAX_PAYLOAD_TYPE,
    Envelope,
    decode_envelope,
    encode_envelope,
    encode_varint,
    signing_input,
)

SIGNATURE = bytes(range(64))
KEY = b"\x0a\x24" + ALICE.public.encode()
TYPE = b"\x12\x04type"
PAYLOAD = b"\x1a\x04load"
SIGNED = b"\x2a\x40" + SIGNATURE


@given(
    st.binary(min_size=1, max_size=MAX_PAYLOAD_TYPE),
    st.binary(min_size=1, max_size=40) | st.integers(1, 50_000).map(bytes),
    st.binary(min_size=64, max_size=64),
)
@settings(deadline=None)
def test_round_trip(payload_type: bytes, payload: bytes, signature: bytes) -> None:
    envelope = Envelope(ALICE.public, payload_type, payload, signature)
    assert decode_envelope(encode_envelope(envelope)) == envelope


@given(st.binary(max_size=150))
@settings(deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        envelope = decode_envelope(data)
    except RemoteProtocolError:
        return
    assert encode_envelope(envelope) == data


def test_the_bytes_are_those_of_the_specification() -> None:
    envelope = Envelope(ALICE.public, b"type", b"load", SIGNATURE)
    assert encode_envelope(envelope) == KEY + TYPE + PAYLOAD + SIGNED
    assert signing_input(b"type", b"load") == b"\x0epeatnet-record\x04type\x04load"


@pytest.mark.parametrize(
    ("number", "encoded"),
    [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02"), (16384, b"\x80\x80\x01")],
)
def test_varints(number: int, encoded: bytes) -> None:
    assert encode_varint(number) == encoded


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends before or within public_key"),
        (KEY[:10], "ends within public_key"),
        (KEY, "ends before or within payload_type"),
        (KEY + TYPE + PAYLOAD + SIGNED[:-1], "ends within signature"),
        (KEY + b"\x12", "ends before or within payload_type"),
        (TYPE + KEY + PAYLOAD + SIGNED, "lacks public_key at byte 0"),
        (KEY + PAYLOAD + TYPE + SIGNED, "lacks payload_type"),
        (KEY + TYPE + SIGNED, "lacks payload "),
        (KEY + TYPE + TYPE + PAYLOAD + SIGNED, "lacks payload "),
        (KEY + TYPE + PAYLOAD + b"\x22\x01x" + SIGNED, "lacks signature"),
        (KEY + TYPE + PAYLOAD + SIGNED + b"\0", "1 bytes after its end"),
        (KEY + TYPE + PAYLOAD + SIGNED + SIGNED, "66 bytes after its end"),
        (KEY + b"\x12\x84\x00type" + PAYLOAD + SIGNED, "length of payload_type .* padded"),
        (KEY + b"\x12\x84\x80\x00type" + PAYLOAD + SIGNED, "length of payload_type .* padded"),
        (KEY + b"\x12\xff\xff\xff\xff\x0f", "length of payload_type .* too large"),
        (KEY + b"\x12\x00" + PAYLOAD + SIGNED, "payload_type of an envelope has 0 bytes"),
        (KEY + TYPE + b"\x1a\x00" + SIGNED, "payload of an envelope has 0 bytes"),
        (KEY + b"\x12\x41" + bytes(65) + PAYLOAD + SIGNED, "payload_type .* has 65 bytes"),
        (KEY + TYPE + PAYLOAD + b"\x2a\x3f" + SIGNATURE[1:], "signature .* has 63 bytes"),
        (b"\x0a\x00" + TYPE + PAYLOAD + SIGNED, "public_key of an envelope has 0 bytes"),
        (b"\x0a\x24\x08\x00" + KEY[4:] + TYPE + PAYLOAD + SIGNED, "canonical protobuf Ed25519"),
        (bytes(MAX_ENVELOPE + 1), "at most 61440 are allowed"),
    ],
)
def test_what_is_not_the_one_encoding_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        decode_envelope(data)


@pytest.mark.parametrize("domain", [b"libp2p-peer-record", b"peatnet-recore", b"peatnet-record\0"])
def test_a_signature_counts_in_our_domain_only(domain: bytes) -> None:
    message = encode_varint(len(domain)) + domain + b"\x04type\x04load"
    with pytest.raises(SignatureError):
        Envelope(ALICE.public, b"type", b"load", ALICE.sign(message)).verify()
    Envelope(ALICE.public, b"type", b"load", ALICE.sign(signing_input(b"type", b"load"))).verify()
