from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records_support import ALICE, BOB

from peatnet.errors import LocalProtocolError, RemoteProtocolError, SignatureError, UsageError
from peatnet.records import KeyPair, PeerId, PublicKey
from peatnet.records.base58 import base58_encode

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
L = 2**252 + 27742317777372353535851937790883648493

Point = tuple[int, int]


def add(left: Point, right: Point) -> Point:
    """The addition law of edwards25519, RFC 8032 section 5.1.4, in affine coordinates."""
    (x1, y1), (x2, y2) = left, right
    product = D * x1 * x2 * y1 * y2 % P
    x3 = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
    y3 = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P
    return x3, y3


def multiply(point: Point, factor: int) -> Point:
    result = (0, 1)
    while factor:
        if factor & 1:
            result = add(result, point)
        point = add(point, point)
        factor >>= 1
    return result


def point_with(y: int) -> Point | None:
    """A point with this y, if the curve has one: section 5.1.3."""
    x_squared = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x_squared, (P + 3) // 8, P)
    for candidate in (x, x * pow(2, (P - 1) // 4, P) % P):
        if candidate * candidate % P == x_squared:
            return candidate, y
    return None


def small_order_points() -> set[Point]:
    """All 8 points whose order divides 8, got by taking the large prime order out of any point."""
    for y in range(2, 100):
        point = point_with(y)
        if point is None:
            continue
        torsion = multiply(point, L)
        points = {multiply(torsion, factor) for factor in range(8)}
        if len(points) == 8:
            return points
    raise AssertionError("no point of order 8 found")


def encode_point(point: Point) -> bytes:
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100))
@settings(deadline=None)
def test_sign_verify_and_names(seed: bytes, message: bytes) -> None:
    keys = KeyPair.from_seed(seed)
    signature = keys.sign(message)
    keys.public.verify(signature, message)
    with pytest.raises(SignatureError, match=keys.peer_id):
        keys.public.verify(signature, message + b"!")
    assert PublicKey.decode(keys.public.encode()) == keys.public
    peer_id = PeerId.parse(str(keys.peer_id))
    assert peer_id == keys.peer_id == keys.public.peer_id
    assert peer_id.public_key == keys.public
    assert peer_id.startswith("12D3KooW")
    assert peer_id.to_bytes() == b"\x00\x24" + keys.public.encode()


def test_a_peer_id_is_a_string_and_survives_copies() -> None:
    assert isinstance(ALICE.peer_id, str)
    assert {ALICE.peer_id: 1}[PeerId(str(ALICE.peer_id))] == 1
    for twin in (
        copy.copy(ALICE.peer_id),
        PeerId(ALICE.peer_id),
        pickle.loads(pickle.dumps(ALICE.peer_id)),
    ):
        assert isinstance(twin, PeerId)
        assert twin == ALICE.peer_id


def test_a_key_pair_does_not_show_its_secret() -> None:
    assert repr(ALICE) == f"KeyPair({ALICE.peer_id})"


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_seeds_and_keys_have_one_length(length: int) -> None:
    with pytest.raises(LocalProtocolError):
        KeyPair.from_seed(bytes(length))
    with pytest.raises(RemoteProtocolError):
        PublicKey(bytes(length))


def test_points_of_small_order_are_refused_in_every_encoding() -> None:
    points = small_order_points()
    assert len(points) == 8
    for point in points:
        raw = encode_point(point)
        flipped = raw[:31] + bytes([raw[31] ^ 0x80])
        for data in (raw, flipped):
            with pytest.raises(RemoteProtocolError, match="small order"):
                PublicKey(data)


@given(st.integers(P, 2**255 - 1), st.booleans())
@settings(deadline=None)
def test_keys_not_in_canonical_form_are_refused(y: int, sign: bool) -> None:  # noqa: FBT001  # hypothesis passes it
    with pytest.raises(RemoteProtocolError, match="canonical"):
        PublicKey((y | sign << 255).to_bytes(32, "little"))


@given(st.integers(2, P - 2))
@settings(deadline=None)
def test_a_peer_id_names_a_point_of_the_curve(y: int) -> None:
    key = PublicKey(y.to_bytes(32, "little"))
    text = base58_encode(b"\x00\x24" + key.encode())
    if point_with(y) is None:
        with pytest.raises(UsageError, match="no such key"):
            PeerId(text)
        with pytest.raises(SignatureError):
            key.verify(bytes(64), b"")
    else:
        assert PeerId(text).public_key == key


def test_a_signature_moved_by_the_group_order_is_refused() -> None:
    signature = ALICE.sign(b"message")
    s = int.from_bytes(signature[32:], "little")
    moved = signature[:32] + (s + L).to_bytes(32, "little")
    with pytest.raises(SignatureError):
        ALICE.public.verify(moved, b"message")


@pytest.mark.parametrize("length", [0, 63, 65])
def test_signatures_of_a_wrong_length_are_refused(length: int) -> None:
    with pytest.raises(SignatureError):
        ALICE.public.verify(bytes(length), b"message")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x02" + ALICE.public.encode()[2:],  # Secp256k1
        b"\x08\x81\x00\x12\x20" + ALICE.public.raw,  # padded varint
        b"\x12\x20" + ALICE.public.raw + b"\x08\x01",  # fields swapped
        ALICE.public.encode() + b"\0",
        ALICE.public.encode()[:-1],
    ],
)
def test_only_the_canonical_protobuf_key_is_read(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        PublicKey.decode(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "junk",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",  # an RSA key's hash
        str(ALICE.peer_id)[:-1],
        f"{ALICE.peer_id}1",
        f" {str(ALICE.peer_id)[1:]}",
        str(ALICE.peer_id).lower(),
        "2" + str(ALICE.peer_id)[1:],
        "1" * 52,
        "z" * 52,
        base58_encode(b"\x00\x24\x08\x02\x12\x20" + ALICE.public.raw),
        base58_encode(b"\x00\x24\x08\x01\x12\x20" + b"\x01" + bytes(31)),  # of small order
    ],
)
def test_what_is_not_a_peer_id_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        PeerId.parse(text)
    assert "12D3KooW" in str(caught.value.hint)


def test_one_wrong_character_is_never_taken_for_the_same_id() -> None:
    text = str(BOB.peer_id)
    for position in range(len(text)):
        other = "3" if text[position] != "3" else "4"
        changed = text[:position] + other + text[position + 1 :]
        try:
            found = PeerId(changed)
        except UsageError:
            continue
        assert found != BOB.peer_id
