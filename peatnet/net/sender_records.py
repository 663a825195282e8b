"""The address record that py-libp2p's gossip adds to every RPC: sent as it is expected, and not looked at.

py-libp2p 0.8.1 signs a node's addresses into each RPC and verifies them at the other end, twice. That costs more than
the gossip itself: three signatures for one small message. Our nodes tell their addresses in presence, which is
signed as a whole, and dial nothing that only such a record names (see ``dialer``); so what comes is let pass
unread, and what is sent is made anew only where the addresses have changed, which is looked at now and then: an
eighth of what gossip costs went there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from libp2p.peer.peerstore import env_to_send_in_RPC
from libp2p.pubsub import gossipsub, pubsub

if TYPE_CHECKING:
    from libp2p.abc import IHost
    from libp2p.peer.id import ID
    from libp2p.pubsub.pb import rpc_pb2

# Seconds between two looks at our addresses, which change only where an interface does.
LOOK_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class _Made:
    addresses: tuple[str, ...]
    envelope: bytes
    looked_at: float


_made: WeakKeyDictionary[IHost, _Made] = WeakKeyDictionary()


def spare_sender_records() -> None:
    """From now on, for all gossip of this process. Said again, it changes nothing."""
    for module in (pubsub, gossipsub):
        module.maybe_consume_signed_record = _let_pass  # type: ignore[attr-defined]
        module.env_to_send_in_RPC = _made_once  # type: ignore[attr-defined]


def _let_pass(_message: rpc_pb2.RPC, _host: IHost, _peer_id: ID) -> bool:
    return True


def _made_once(host: IHost) -> tuple[bytes, bool]:
    now = time.monotonic()
    known = _made.get(host)
    if known is not None and now < known.looked_at + LOOK_EVERY:
        return known.envelope, False
    addresses = tuple(str(address) for address in host.get_transport_addrs())
    if known is not None and known.addresses == addresses:
        envelope, fresh = known.envelope, False
    else:
        envelope, fresh = env_to_send_in_RPC(host)
    _made[host] = _Made(addresses, envelope, now)
    return envelope, fresh
