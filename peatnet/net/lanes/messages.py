"""The messages that open a lane: two on the libp2p stream ``/peatnet/lane/1``, two on the lane itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multiaddr import Multiaddr

from peatnet.errors import RemoteProtocolError
from peatnet.net.addresses import MAX_ADDRESS_BYTES, MAX_ADDRESSES, announced_by_peer
from peatnet.net.blob_messages import BUSY, MAX_REASON
from peatnet.net.lanes.tickets import TICKET_BYTES

if TYPE_CHECKING:
    from peatnet.net.wire import Fields

# Lanes that one download may have to one peer, and so tickets in one answer.
MAX_LANES_PER_DOWNLOAD = 4
FINGERPRINT_BYTES = 32
MAX_PORT = 65_535
# Longer is pointless: a ticket is for now.
LONGEST_LIFE = 3600

# Why there is no lane: this node has none at all, or too many at present.
OFF = "off"

OK: dict[str, Any] = {"t": "ok"}


@dataclass(frozen=True, slots=True)
class LaneRequest:
    """Let me open so many lanes."""

    count: int

    def header(self) -> dict[str, Any]:
        """The frame header."""
        return {"t": "lane", "n": self.count}


@dataclass(frozen=True, slots=True)
class LaneOffer:
    """Where lanes are opened, and with what.

    Attributes:
        port: of the TCP port, at the address where this peer is known.
        addresses: full addresses, for when it cannot be had there; those that nobody can dial are left out.
        fingerprint: SHA-256 of the certificate, in DER.
        tickets: one for each lane; there may be fewer than were asked for, but at least one.
        life: seconds for which they can be used.
    """

    port: int
    addresses: list[str]
    fingerprint: bytes
    tickets: list[bytes]
    life: int

    def header(self) -> dict[str, Any]:
        """The frame header."""
        return {
            "t": "lane",
            "p": self.port,
            "a": [Multiaddr(text).to_bytes() for text in self.addresses[:MAX_ADDRESSES]],
            "c": self.fingerprint,
            "k": self.tickets,
            "s": self.life,
        }


@dataclass(frozen=True, slots=True)
class NoLane:
    """No lane: ``off`` (there are none here), or ``busy`` (too many)."""

    reason: str

    def header(self) -> dict[str, Any]:
        """The frame header."""
        return {"t": "no", "e": self.reason}


@dataclass(frozen=True, slots=True)
class TicketFrame:
    """What a lane begins with."""

    ticket: bytes

    def header(self) -> dict[str, Any]:
        """The frame header."""
        return {"t": "ticket", "k": self.ticket}


def decode_lane_request(fields: Fields) -> LaneRequest:
    """A request for lanes.

    Raises:
        RemoteProtocolError: anything else.
    """
    _expect(fields, "lane")
    return LaneRequest(fields.integer("n", 1, MAX_LANES_PER_DOWNLOAD))


def decode_lane_answer(fields: Fields) -> LaneOffer | NoLane:
    """The answer to a request for lanes.

    Raises:
        RemoteProtocolError: anything else.
    """
    kind = fields.text("t", 16)
    if kind == "no":
        reason = fields.text("e", MAX_REASON)
        if not reason.isascii() or not reason.isalpha():
            raise RemoteProtocolError("field 'e': one word of letters is needed")
        return NoLane(reason)
    _expect(fields, "lane")
    tickets = fields.binaries("k", MAX_LANES_PER_DOWNLOAD, TICKET_BYTES, TICKET_BYTES)
    if not tickets:
        raise RemoteProtocolError("field 'k': a lane without a ticket")
    return LaneOffer(
        fields.integer("p", 1, MAX_PORT),
        announced_by_peer(fields.binaries("a", MAX_ADDRESSES, 1, MAX_ADDRESS_BYTES)),
        fields.binary("c", FINGERPRINT_BYTES, FINGERPRINT_BYTES),
        tickets,
        fields.integer("s", 1, LONGEST_LIFE),
    )


def decode_ticket(fields: Fields) -> bytes:
    """The ticket that a lane begins with.

    Raises:
        RemoteProtocolError: anything else.
    """
    _expect(fields, "ticket")
    return fields.binary("k", TICKET_BYTES, TICKET_BYTES)


def decode_ok(fields: Fields) -> None:
    """Check that the holder took the ticket.

    Raises:
        RemoteProtocolError: anything else.
    """
    _expect(fields, "ok")


def _expect(fields: Fields, kind: str) -> None:
    if (found := fields.text("t", 16)) != kind:
        raise RemoteProtocolError(f"{found!r} where {kind!r} belongs")


__all__ = [
    "BUSY",
    "MAX_LANES_PER_DOWNLOAD",
    "OFF",
    "OK",
    "LaneOffer",
    "LaneRequest",
    "NoLane",
    "TicketFrame",
    "decode_lane_answer",
    "decode_lane_request",
    "decode_ok",
    "decode_ticket",
]
