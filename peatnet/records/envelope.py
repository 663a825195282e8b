"""libp2p's signed envelope, read strictly and written by hand (libp2p RFC 0002).

The message is four length-delimited protobuf fields::

    message Envelope {
        PublicKey public_key = 1;   // see peatnet.records.keys
        bytes payload_type = 2;
        bytes payload = 3;
        bytes signature = 5;        // over the signing input, see `signing_input`
    }

A general protobuf reader takes fields in any order, twice, with padded lengths and with unknown fields between
them, so one signature would fit many byte strings. Here exactly one encoding is taken: fields in ascending
order, each once, shortest lengths, nothing before, between or after. Ed25519 signatures cannot be altered by
others either (RFC 8032 bounds S), so a record has one encoding and its hash can serve as its name.
"""

from __future__ import annotations

from dataclasses import dataclass

from peatnet.errors import RemoteProtocolError
from peatnet.records.keys import PROTOBUF_KEY_BYTES, SIGNATURE_BYTES, PublicKey

DOMAIN = b"peatnet-record"
MAX_ENVELOPE = 60 * 1024  # bytes; gossipsub carries 64 KiB safely
MAX_PAYLOAD_TYPE = 64  # bytes

_TAG_PUBLIC_KEY = 0x0A  # field number << 3 | 2 (length-delimited)
_TAG_PAYLOAD_TYPE = 0x12
_TAG_PAYLOAD = 0x1A
_TAG_SIGNATURE = 0x2A
_MAX_VARINT_BYTES = 3  # 21 bits, more than any length below MAX_ENVELOPE needs


@dataclass(frozen=True, slots=True)
class Envelope:
    """The four fields, their signature not yet checked."""

    public_key: PublicKey
    payload_type: bytes
    payload: bytes
    signature: bytes

    def verify(self) -> None:
        """Check the signature in peatnet's domain.

        Raises:
            SignatureError: it does not verify.
        """
        self.public_key.verify(self.signature, signing_input(self.payload_type, self.payload))


def encode_varint(number: int) -> bytes:
    """Protobuf's unsigned varint, shortest form."""
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | number & 0x7F)
        number >>= 7
    out.append(number)
    return bytes(out)


def signing_input(payload_type: bytes, payload: bytes) -> bytes:
    """The bytes that are signed: domain, payload type and payload, each behind its varint length."""
    parts = (DOMAIN, payload_type, payload)
    return b"".join(encode_varint(len(part)) + part for part in parts)


def encode_envelope(envelope: Envelope) -> bytes:
    """The one encoding of `envelope` that `decode_envelope` takes."""
    fields = (
        (_TAG_PUBLIC_KEY, envelope.public_key.encode()),
        (_TAG_PAYLOAD_TYPE, envelope.payload_type),
        (_TAG_PAYLOAD, envelope.payload),
        (_TAG_SIGNATURE, envelope.signature),
    )
    return b"".join(bytes([tag]) + encode_varint(len(value)) + value for tag, value in fields)


def decode_envelope(data: bytes) -> Envelope:
    """Read an envelope; the signature is not checked here.

    Raises:
        RemoteProtocolError: anything but the one encoding, an empty payload or payload type, a key that is
            not Ed25519, or more bytes than `MAX_ENVELOPE`.
    """
    if len(data) > MAX_ENVELOPE:
        raise RemoteProtocolError(
            f"an envelope has {len(data)} bytes, at most {MAX_ENVELOPE} are allowed"
        )
    reader = _Reader(data)
    public_key = reader.field(_TAG_PUBLIC_KEY, "public_key", PROTOBUF_KEY_BYTES, PROTOBUF_KEY_BYTES)
    payload_type = reader.field(_TAG_PAYLOAD_TYPE, "payload_type", 1, MAX_PAYLOAD_TYPE)
    payload = reader.field(_TAG_PAYLOAD, "payload", 1, MAX_ENVELOPE)
    signature = reader.field(_TAG_SIGNATURE, "signature", SIGNATURE_BYTES, SIGNATURE_BYTES)
    if reader.position != len(data):
        raise RemoteProtocolError(
            f"an envelope has {len(data) - reader.position} bytes after its end"
        )
    return Envelope(PublicKey.decode(public_key), payload_type, payload, signature)


class _Reader:
    """Takes fields off a byte string, in the order in which the caller names them."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def field(self, tag: int, name: str, shortest: int, longest: int) -> bytes:
        if self._byte(name) != tag:
            raise RemoteProtocolError(f"an envelope lacks {name} at byte {self.position - 1}")
        length = self._varint(name)
        if not shortest <= length <= longest:
            raise RemoteProtocolError(
                f"{name} of an envelope has {length} bytes, {shortest} to {longest} are allowed"
            )
        start, end = self.position, self.position + length
        if end > len(self.data):
            raise RemoteProtocolError(f"an envelope ends within {name}")
        self.position = end
        return self.data[start:end]

    def _varint(self, name: str) -> int:
        number = 0
        for index in range(_MAX_VARINT_BYTES):
            byte = self._byte(name)
            number |= (byte & 0x7F) << 7 * index
            if byte <= 0x7F:
                if byte == 0 and index:
                    raise RemoteProtocolError(f"the length of {name} in an envelope is padded")
                return number
        raise RemoteProtocolError(f"the length of {name} in an envelope is too large")

    def _byte(self, name: str) -> int:
        if self.position == len(self.data):
            raise RemoteProtocolError(f"an envelope ends before or within {name}")
        byte = self.data[self.position]
        self.position += 1
        return byte
