"""Records: what publishers sign, how it is packed, and how it is opened when it comes from strangers.

The envelope's payload is a msgpack map of exactly three keys, in this order and in msgpack's shortest forms::

    {"k": key (text), "s": sequence (unsigned integer), "b": body (binary)}

The payload type names the kind of record and its version (``/peatnet/manifest/1``). A field added later means
a new version, since a payload with an unknown key is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgpack
from blake3 import blake3

from peatnet.errors import LocalProtocolError, RemoteProtocolError
from peatnet.records.envelope import (
    MAX_ENVELOPE,
    Envelope,
    decode_envelope,
    encode_envelope,
    signing_input,
)

if TYPE_CHECKING:
    from peatnet.records.keys import KeyPair, PeerId, PublicKey

MAX_KEY = 300  # bytes of UTF-8
MAX_SEQUENCE = 2**63 - 1  # what SQLite and most languages hold in a signed integer
ID_BYTES = 32
SLOT_BYTES = 16

_SLOT_CONTEXT = "peatnet record slot v1"


class RecordType(StrEnum):
    """What a record says; `payload_type` is its name inside the envelope."""

    MANIFEST = "manifest"
    WITHDRAWAL = "withdrawal"
    COMMAND = "command"
    CANCELLATION = "cancellation"
    STATUS = "status"

    @property
    def payload_type(self) -> bytes:
        """The payload type of the envelope, an ASCII path that ends in the format's version."""
        return f"/peatnet/{self.value}/1".encode("ascii")

    @property
    def kind(self) -> str:
        """The kind of slot: what takes another record back competes with it for one, so the newer of them counts."""
        return _TAKES_BACK.get(self, self).value


_TAKES_BACK = {
    RecordType.WITHDRAWAL: RecordType.MANIFEST,
    RecordType.CANCELLATION: RecordType.COMMAND,
}
_TYPES = {kind.payload_type: kind for kind in RecordType}


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One signed record. Only `sign_record` and `open_record` make one, so its signature is known to be good.

    Records are equal when their ids are: the id is a hash over everything else.

    Attributes:
        type: what it says.
        publisher: who signed it.
        key: what it is about: ``model_id@version``, ``model_id/command_id``, or a node's peer id.
        sequence: grows with each record of the publisher; 0 to 2**63 - 1.
        body: the JSON as it was signed; not looked at here, see `peatnet.records.bodies`.
        envelope: the signed bytes, as they travel and are kept.
        id: BLAKE3 of `envelope`, 32 bytes.
        slot: 16 bytes that name (publisher, kind, key); within a slot the newest record counts.
    """

    type: RecordType
    publisher: PeerId
    key: str
    sequence: int
    body: bytes = field(repr=False)
    envelope: bytes = field(repr=False)
    id: bytes = field(repr=False)
    slot: bytes = field(repr=False)

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Record) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def order(self) -> tuple[int, bytes]:
        """Sorts the records of one slot from old to new; equal only for the same record."""
        return self.sequence, self.id

    @property
    def model_id(self) -> str:
        """The model that a command, or its cancellation, is about: what stands before the slash in its key."""
        return self.key.partition("/")[0]


def id_of(envelope: bytes) -> bytes:
    """The 32-byte name of a record: BLAKE3 of its envelope, which has one encoding only."""
    return blake3(envelope).digest()


def slot_of(public_key: PublicKey, record_type: RecordType, key: str) -> bytes:
    """The 16-byte name of a slot.

    It is the beginning of BLAKE3 in key derivation mode over: the 32 bytes of the public key, the kind
    (``manifest``, ``command``, ``status``), a zero byte, and the key in UTF-8.
    """
    material = public_key.raw + record_type.kind.encode("ascii") + b"\0" + key.encode()
    return blake3(material, derive_key_context=_SLOT_CONTEXT).digest(length=SLOT_BYTES)


def sign_record(
    keys: KeyPair, record_type: RecordType, key: str, sequence: int, body: bytes
) -> Record:
    """Make a record and sign it.

    Raises:
        LocalProtocolError: `key` or `sequence` out of bounds, or a `body` that makes the envelope too large.
    """
    fault = _fault(key, sequence)
    if fault is not None:
        raise LocalProtocolError(f"cannot sign a {record_type} record: {fault}")
    payload = _pack(key, sequence, body)
    payload_type = record_type.payload_type
    signature = keys.sign(signing_input(payload_type, payload))
    data = encode_envelope(Envelope(keys.public, payload_type, payload, signature))
    if len(data) > MAX_ENVELOPE:
        raise LocalProtocolError(
            f"cannot sign {record_type} record {key!a}: its envelope would have {len(data)} bytes, "
            f"at most {MAX_ENVELOPE} are allowed",
            hint="make the body (description, metadata) shorter",
        )
    return _record(record_type, keys.public, key, sequence, body, data)


def open_record(envelope: bytes) -> Record:
    """Read and verify a record from anywhere. The body is not looked at.

    Costs one signature check, after all the cheaper ones.

    Raises:
        RemoteProtocolError: not a record, not in the one canonical form, or over a bound.
        SignatureError: a well-formed record that its publisher did not sign.
    """
    opened = decode_envelope(envelope)
    record_type = _TYPES.get(opened.payload_type)
    if record_type is None:
        raise RemoteProtocolError(f"unknown record type {opened.payload_type!a}")
    key, sequence, body = _unpack(opened.payload)
    opened.verify()
    return _record(record_type, opened.public_key, key, sequence, body, bytes(envelope))


def _record(
    record_type: RecordType,
    public_key: PublicKey,
    key: str,
    sequence: int,
    body: bytes,
    envelope: bytes,
) -> Record:
    return Record(
        type=record_type,
        publisher=public_key.peer_id,
        key=key,
        sequence=sequence,
        body=body,
        envelope=envelope,
        id=id_of(envelope),
        slot=slot_of(public_key, record_type, key),
    )


def _pack(key: str, sequence: int, body: bytes) -> bytes:
    packed: bytes = msgpack.packb({"k": key, "s": sequence, "b": body}, use_bin_type=True)
    return packed


def _unpack(payload: bytes) -> tuple[str, int, bytes]:
    try:
        fields: Any = msgpack.unpackb(
            payload,
            raw=False,
            strict_map_key=True,
            max_map_len=3,
            max_array_len=0,
            max_ext_len=0,
            max_str_len=MAX_KEY,
            max_bin_len=MAX_ENVELOPE,
        )
    except (ValueError, msgpack.UnpackException) as exc:
        raise RemoteProtocolError(f"a record's payload is not valid msgpack: {exc}") from exc
    if not isinstance(fields, dict) or fields.keys() != {"k", "s", "b"}:
        raise RemoteProtocolError("a record's payload is not a map of k, s and b")
    key, sequence, body = fields["k"], fields["s"], fields["b"]
    if not isinstance(key, str):
        raise RemoteProtocolError(f"a record's key is {type(key).__name__}, not text")
    if type(sequence) is not int:  # bool is a subclass of int
        raise RemoteProtocolError(f"a record's sequence is {type(sequence).__name__}, not int")
    if not isinstance(body, bytes):
        raise RemoteProtocolError(f"a record's body is {type(body).__name__}, not binary")
    fault = _fault(key, sequence)
    if fault is not None:
        raise RemoteProtocolError(f"a record breaks a rule: {fault}")
    if _pack(key, sequence, body) != payload:
        raise RemoteProtocolError("a record's payload is not in canonical msgpack form")
    return key, sequence, body


def _fault(key: str, sequence: int) -> str | None:
    """What is wrong with a key or a sequence number, if anything.

    Keys end up in logs and on terminals, so control characters are out. The ranges are spelled out: what
    ``str.isprintable`` says depends on the Python version, and nodes must agree.
    """
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        return "its key holds a lone surrogate"
    if not 1 <= length <= MAX_KEY:
        return f"its key has {length} bytes, 1 to {MAX_KEY} are allowed"
    if any(char < " " or "\x7f" <= char <= "\x9f" for char in key):
        return f"its key {key!a} holds a control character"
    if not 0 <= sequence <= MAX_SEQUENCE:
        return f"its sequence {sequence} is not within 0 to {MAX_SEQUENCE}"
    return None
