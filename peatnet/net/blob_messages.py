"""The messages of ``/peatnet/blob/1``: typed values to and from frame headers.

Requests flow from the downloader, replies from the holder. Each request has a number that its reply repeats, so a
downloader may have several out at once. A ``have`` that watches is answered more than once: what the holder gains
is pushed. The bulk lane speaks the same.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peatnet.blobs import MAX_CHUNK_SIZE, MAX_CHUNKS, MIN_CHUNK_SIZE, Hash
from peatnet.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peatnet.net.wire import Fields

MAX_REQUEST_ID = 2**32 - 1
# 32,768 digests of 32 bytes: a table travels in pieces of at most 1 MiB.
MAX_TABLE_PIECE = 32_768
MAX_SIZE = MAX_CHUNKS * MAX_CHUNK_SIZE
MAX_REASON = 32
# Chunk indices in one push of news: 16 KiB of them.
MAX_MORE = 4096
MOST_URGENT = 1
LEAST_URGENT = 5
USUAL_PRIORITY = 3

# Why a request is refused: it is not here; there are too many streams or lanes; it will be given, but somebody else
# who is here has it too, so ask for another chunk first.
ABSENT = "absent"
BUSY = "busy"
LATER = "later"


@dataclass(frozen=True, slots=True)
class HaveRequest:
    """What do you have of this blob?

    Attributes:
        watch: tell what you gain of it, too, until this stream asks for another blob or ends.
        priority: of this download among all that you serve, 1 (most urgent) to 5.
    """

    number: int
    blob: Hash
    watch: bool = False
    priority: int = USUAL_PRIORITY

    def header(self) -> dict[str, Any]:
        """The frame header; what is as usual is left out."""
        fields: dict[str, Any] = {"t": "have", "i": self.number, "h": bytes(self.blob)}
        if self.watch:
            fields["w"] = True
        if self.priority != USUAL_PRIORITY:
            fields["p"] = self.priority
        return fields


@dataclass(frozen=True, slots=True)
class TableRequest:
    """Give me ``count`` digests of this blob's chunk table, from ``first`` on."""

    number: int
    blob: Hash
    first: int
    count: int

    def header(self) -> dict[str, Any]:
        """The frame header."""
        return {
            "t": "table",
            "i": self.number,
            "h": bytes(self.blob),
            "f": self.first,
            "n": self.count,
        }


@dataclass(frozen=True, slots=True)
class ChunkRequest:
    """Give me this chunk."""

    number: int
    blob: Hash
    index: int

    def header(self) -> dict[str, Any]:
        """The frame header."""
        return {"t": "get", "i": self.number, "h": bytes(self.blob), "c": self.index}


Request = HaveRequest | TableRequest | ChunkRequest


@dataclass(frozen=True, slots=True)
class HaveReply:
    """The blob's shape, and which chunks are here.

    When ``full`` is false the payload is the bitmap: one bit a chunk, least significant bit first.
    """

    number: int
    size: int
    chunk_size: int
    table_hash: Hash
    full: bool

    def header(self) -> dict[str, Any]:
        """The frame header."""
        return {
            "t": "have",
            "i": self.number,
            "s": self.size,
            "k": self.chunk_size,
            "x": bytes(self.table_hash),
            "f": self.full,
        }


@dataclass(frozen=True, slots=True)
class TableReply:
    """A piece of the chunk table; the payload is the digests, 32 bytes each."""

    number: int

    def header(self) -> dict[str, Any]:
        """The frame header."""
        return {"t": "table", "i": self.number}


@dataclass(frozen=True, slots=True)
class ChunkReply:
    """A chunk; the payload is its bytes."""

    number: int
    index: int

    def header(self) -> dict[str, Any]:
        """The frame header."""
        return {"t": "chunk", "i": self.number, "c": self.index}


@dataclass(frozen=True, slots=True)
class More:
    """A push to one who watches: the chunks whose indices are the payload are here now as well.

    Its number is that of the ``have`` request. When ``full`` is true there is no payload: all chunks are here.
    """

    number: int
    full: bool

    def header(self) -> dict[str, Any]:
        """The frame header."""
        return {"t": "more", "i": self.number, "f": self.full}


@dataclass(frozen=True, slots=True)
class Refusal:
    """The request cannot be met: ``absent`` (not here), ``busy`` (no room), or ``later`` (others can give it)."""

    number: int
    reason: str

    def header(self) -> dict[str, Any]:
        """The frame header."""
        return {"t": "no", "i": self.number, "e": self.reason}


Reply = HaveReply | TableReply | ChunkReply | More | Refusal


def decode_request(fields: Fields) -> Request:
    """One request from its frame header.

    Raises:
        RemoteProtocolError: unknown message, or a field that is missing, ill-typed or out of bounds.
    """
    kind = fields.text("t", 16)
    number = fields.integer("i", 0, MAX_REQUEST_ID)
    if kind not in {"have", "table", "get"}:
        raise RemoteProtocolError(f"unknown request {kind!r}")
    blob = Hash(fields.binary("h", 32, 32))
    if kind == "have":
        watch = fields.boolean("w") if "w" in fields else False
        priority = (
            fields.integer("p", MOST_URGENT, LEAST_URGENT) if "p" in fields else USUAL_PRIORITY
        )
        return HaveRequest(number, blob, watch, priority)
    if kind == "get":
        return ChunkRequest(number, blob, fields.integer("c", 0, MAX_CHUNKS - 1))
    return TableRequest(
        number,
        blob,
        fields.integer("f", 0, MAX_CHUNKS - 1),
        fields.integer("n", 1, MAX_TABLE_PIECE),
    )


def decode_reply(fields: Fields) -> Reply:
    """One reply from its frame header; its payload is the caller's to check.

    Raises:
        RemoteProtocolError: unknown message, or a field that is missing, ill-typed or out of bounds.
    """
    kind = fields.text("t", 16)
    number = fields.integer("i", 0, MAX_REQUEST_ID)
    if kind == "chunk":
        return ChunkReply(number, fields.integer("c", 0, MAX_CHUNKS - 1))
    if kind == "have":
        chunk_size = fields.integer("k", MIN_CHUNK_SIZE, MAX_CHUNK_SIZE)
        return HaveReply(
            number,
            fields.integer("s", 1, min(MAX_SIZE, chunk_size * MAX_CHUNKS)),
            chunk_size,
            Hash(fields.binary("x", 32, 32)),
            fields.boolean("f"),
        )
    if kind == "table":
        return TableReply(number)
    if kind == "more":
        return More(number, fields.boolean("f"))
    if kind == "no":
        reason = fields.text("e", MAX_REASON)
        if not reason.isascii() or not reason.isalpha():
            # It goes into logs and error messages.
            raise RemoteProtocolError("field 'e': one word of letters is needed")
        return Refusal(number, reason)
    raise RemoteProtocolError(f"unknown reply {kind!r}")


def pack_indices(indices: Sequence[int]) -> bytes:
    """The payload of a push of news: each index as 4 bytes, big-endian. At most MAX_MORE of them."""
    return struct.pack(f">{len(indices)}I", *indices)


def unpack_indices(payload: bytes) -> tuple[int, ...]:
    """The indices in a push of news; whether the blob has such chunks is the caller's to check.

    Raises:
        RemoteProtocolError: the length is not that of 1 to MAX_MORE indices.
    """
    count, rest = divmod(len(payload), 4)
    if rest or not 1 <= count <= MAX_MORE:
        raise RemoteProtocolError(f"{len(payload)} bytes of chunk indices")
    return struct.unpack(f">{count}I", payload)
