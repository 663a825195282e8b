"""Presence: what a node says of itself on ``/peatnet/presence/1``, now and then and when something changed.

It is a hint, not a promise: where to dial the sender, the digest of its catalogue (so that a lost gossip
message is noticed), which blobs it has just gained some of (so that downloads ask it at once), and what it fetches
from an origin now (so that not all do; see claims.py). Its sender is proved by gossipsub's strict signing; what it
says is checked only by trying.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgpack
from multiaddr import Multiaddr

from peatnet.blobs import Hash
from peatnet.net.addresses import MAX_ADDRESS_BYTES, MAX_ADDRESSES, announced_by_peer
from peatnet.net.claims import MAX_CLAIMS, MAX_LEARNED
from peatnet.net.wire import unpack_map

MAX_GAINED = 64
MAX_PRESENCE = 16 * 1024


@dataclass(frozen=True, slots=True)
class Presence:
    """One presence message.

    Attributes:
        addresses: where the sender can be dialled, without the peer id.
        digest: 32 bytes, equal for equal catalogues.
        gained: blobs that the sender has some of since its last message; at most 64.
        claims: what the sender fetches from its origin now: blob hashes, or SHA-256 digests; at most 16.
        learned: pairs of a SHA-256 and the blob hash of the same bytes; at most 16.
    """

    addresses: list[str]
    digest: bytes
    gained: list[Hash]
    claims: list[Hash] = field(default_factory=list)
    learned: list[tuple[Hash, Hash]] = field(default_factory=list)

    def encode(self) -> bytes:
        """The message's bytes."""
        fields = {
            "a": [Multiaddr(text).to_bytes() for text in self.addresses[:MAX_ADDRESSES]],
            "d": self.digest,
            "g": [bytes(blob) for blob in self.gained[:MAX_GAINED]],
        }
        if self.claims:
            fields["o"] = [bytes(name) for name in self.claims[:MAX_CLAIMS]]
        if self.learned:
            fields["s"] = [bytes(sha) + bytes(blob) for sha, blob in self.learned[:MAX_LEARNED]]
        packed: bytes = msgpack.packb(fields)
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Presence:
        """Read a message; addresses of kinds that we do not dial are left out.

        Raises:
            RemoteProtocolError: malformed, or over a bound.
        """
        fields = unpack_map(data)
        return cls(
            announced_by_peer(fields.binaries("a", MAX_ADDRESSES, 1, MAX_ADDRESS_BYTES)),
            fields.binary("d", 32, 32),
            [Hash(item) for item in fields.binaries("g", MAX_GAINED, 32, 32)],
            [Hash(item) for item in fields.binaries("o", MAX_CLAIMS, 32, 32)]
            if "o" in fields
            else [],
            [
                (Hash(item[:32]), Hash(item[32:]))
                for item in fields.binaries("s", MAX_LEARNED, 64, 64)
            ]
            if "s" in fields
            else [],
        )
