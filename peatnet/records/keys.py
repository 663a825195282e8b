"""Ed25519 keys, and the peer ids that name them.

A peer id here is always the text of an Ed25519 key: base58btc of the identity multihash of libp2p's protobuf
`PublicKey` (libp2p specs, peer-ids/peer-ids.md). So an id holds its key, and nothing has to be looked up to
check a signature. libp2p allows other key types; peatnet's nodes have none, so they are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from peatnet.errors import LocalProtocolError, RemoteProtocolError, SignatureError, UsageError
from peatnet.records.base58 import base58_decode, base58_encode

KEY_BYTES = 32
SEED_BYTES = 32
SIGNATURE_BYTES = 64

_REMEMBERED = 1024  # keys

# PublicKey {Type = 1: Ed25519 (1); Data = 2: 32 bytes}. Fields in order and minimal varints: the only
# encoding that libp2p accepts for hashing into a peer id, so everything before the key is a constant.
_PROTOBUF_PREFIX = bytes([0x08, 0x01, 0x12, KEY_BYTES])
PROTOBUF_KEY_BYTES = len(_PROTOBUF_PREFIX) + KEY_BYTES
# Multihash: code 0 (identity), then the length.
_MULTIHASH_PREFIX = bytes([0x00, PROTOBUF_KEY_BYTES])
_PEER_ID_CHARS = 52  # one "1" for the zero byte, 51 digits for the other 37 bytes

# Curve constants of RFC 8032, section 5.1.
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_SIGN_BIT = 1 << 255
# The y coordinates of the points whose order divides 8. Under such a "key" anybody can make signatures that
# some libraries accept and others refuse, so nodes would disagree. tests/records computes these anew.
_ORDER_8_Y = int.from_bytes(
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
)
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y})


def _y_coordinate(raw: bytes) -> int:
    return int.from_bytes(raw, "little") & (_SIGN_BIT - 1)


def _on_curve(raw: bytes) -> bool:
    """True when some x goes with this y: (y² - 1)/(dy² + 1) is a square (RFC 8032, section 5.1.3)."""
    y_squared = pow(_y_coordinate(raw), 2, _P)
    product = (y_squared - 1) * (_D * y_squared + 1) % _P
    return pow(product, (_P - 1) // 2, _P) <= 1


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key.

    Args:
        raw: the 32 bytes of RFC 8032. That they are a point of the curve is left to `verify`.

    Raises:
        RemoteProtocolError: wrong length, not the canonical encoding of a point, or a point of small order.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise RemoteProtocolError(f"an Ed25519 key has {KEY_BYTES} bytes, not {len(self.raw)}")
        y = _y_coordinate(self.raw)
        if y >= _P:
            raise RemoteProtocolError("an Ed25519 key is not in canonical form")
        if y in _SMALL_ORDER_Y:
            raise RemoteProtocolError("an Ed25519 key is a point of small order")

    @property
    def peer_id(self) -> PeerId:
        """The peer id that names this key."""
        return PeerId.from_public_key(self)

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check that `signature` was made over `message` with the private half of this key.

        Raises:
            SignatureError: it was not, or this key is not a point of the curve.
        """
        try:
            _loaded(self.raw).verify(signature, message)
        except InvalidSignature as exc:
            raise SignatureError(f"the signature does not verify under {self.peer_id}") from exc

    def encode(self) -> bytes:
        """The 36 bytes of libp2p's protobuf `PublicKey`."""
        return _PROTOBUF_PREFIX + self.raw

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` writes, and nothing else.

        Raises:
            RemoteProtocolError: another key type or another encoding, or see the class.
        """
        if len(data) != PROTOBUF_KEY_BYTES or not data.startswith(_PROTOBUF_PREFIX):
            raise RemoteProtocolError("a public key is not a canonical protobuf Ed25519 key")
        return cls(data[len(_PROTOBUF_PREFIX) :])


class PeerId(str):
    """The text form of an Ed25519 peer id (``12D3KooW...``, 52 characters); a plain string otherwise.

    Raises:
        UsageError: `text` is not such an id in its canonical form, or names no point of the curve (which is
            also how half of all typing errors show).
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check `text`; a `PeerId` is taken as it is."""
        if not isinstance(text, cls):
            _check_peer_id(text)
        return super().__new__(cls, text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The same as ``PeerId(text)``.

        Raises:
            UsageError: see the class.
        """
        return cls(text)

    @classmethod
    def from_public_key(cls, key: PublicKey) -> Self:
        """The id that names `key`."""
        return super().__new__(cls, _id_text(key.encode()))

    @property
    def public_key(self) -> PublicKey:
        """The key inside the id."""
        return _key_of(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The id's binary form: the 38 bytes of the multihash."""
        return base58_decode(self)


def _check_peer_id(text: str) -> None:
    hint = "a peer id is 52 characters and begins with 12D3KooW; `peatnet id` prints a node's own"
    if len(text) != _PEER_ID_CHARS:
        raise UsageError(f"a peer id has {_PEER_ID_CHARS} characters, not {len(text)}", hint=hint)
    try:
        key = _key_of(base58_decode(text))
    except (UsageError, RemoteProtocolError) as exc:
        raise UsageError(f"not a peer id: {text!a}: {exc.message}", hint=hint) from exc
    if not _on_curve(key.raw):
        raise UsageError(f"not a peer id: {text!a}: no such key exists", hint=hint)


def _key_of(multihash: bytes) -> PublicKey:
    if not multihash.startswith(_MULTIHASH_PREFIX):
        raise RemoteProtocolError("it does not hold an Ed25519 key")
    return PublicKey.decode(multihash[len(_MULTIHASH_PREFIX) :])


# A few publishers sign most records, and their keys come with each of them.


@lru_cache(_REMEMBERED)
def _loaded(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


@lru_cache(_REMEMBERED)
def _id_text(key: bytes) -> str:
    return base58_encode(_MULTIHASH_PREFIX + key)


class KeyPair:
    """A private Ed25519 key with its public half. Its text form does not show the secret."""

    __slots__ = ("_private", "peer_id", "public")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PublicKey(private.public_key().public_bytes_raw())
        self.peer_id = self.public.peer_id

    def __repr__(self) -> str:
        return f"KeyPair({self.peer_id})"

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The key pair of a 32-byte seed (the secret of RFC 8032, and what libp2p's Ed25519 keys start from).

        Raises:
            LocalProtocolError: `seed` has another length.
        """
        if len(seed) != SEED_BYTES:
            raise LocalProtocolError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature over `message`."""
        return self._private.sign(message)
