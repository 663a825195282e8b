"""Tickets: who may open a lane. Pure: time and randomness are passed in.

A ticket is 32 random bytes, given to one peer over a stream that Noise has proved to be that peer's. It opens one
lane, soon or never. Whoever presents it is taken for that peer, who alone can have passed it on. The second half of
this module counts addresses that come with anything else.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TICKET_BYTES = 32
TICKET_LIFE = 10.0
# Tickets that one peer may hold at a time, and all peers together. When all are taken the next one has to wait: a
# ticket of somebody else's is never withdrawn to make room.
MAX_TICKETS_PER_PEER = 16
MAX_TICKETS = 1024

# So many failures of an address within FAILURES_FADE seconds, and it is refused for REFUSED_FOR seconds.
MAX_FAILURES = 8
FAILURES_FADE = 60.0
REFUSED_FOR = 60.0
# Addresses are forgotten beyond this, the one that failed longest ago first.
MAX_ADDRESSES = 1024


class Tickets:
    """The tickets that are out. All times are seconds on one clock of the caller's.

    Args:
        random_bytes: gives as many unguessable bytes as it is asked for.
        life: how long a ticket can be used, in seconds.
    """

    def __init__(self, random_bytes: Callable[[int], bytes], life: float = TICKET_LIFE) -> None:
        self.life = life
        self._random_bytes = random_bytes
        self._out: OrderedDict[bytes, tuple[str, float]] = OrderedDict()  # the oldest first
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._out)

    def issue(self, peer_id: str, count: int, now: float) -> list[bytes]:
        """Up to ``count`` new tickets for a peer; fewer, or none, where it or all have too many out."""
        self._expire(now)
        room = min(MAX_TICKETS_PER_PEER - self._held[peer_id], MAX_TICKETS - len(self._out))
        tickets = [self._random_bytes(TICKET_BYTES) for _ in range(min(count, room))]
        for ticket in tickets:
            self._out[ticket] = peer_id, now + self.life
        self._count(peer_id, len(tickets))
        return tickets

    def redeem(self, ticket: bytes, now: float) -> str | None:
        """Use a ticket up; the peer that it was given to, or None where it is none of ours, used, or too old."""
        self._expire(now)
        # A dictionary's comparison takes as long for a good guess as for a bad one, but for a collision of hashes,
        # and there is nothing to learn from 32 random bytes that are used once.
        found = self._out.pop(ticket, None)
        if found is None:
            return None
        self._count(found[0], -1)
        return found[0]

    def withdraw(self, peer_id: str) -> None:
        """Make all tickets of a peer worthless."""
        if peer_id in self._held:
            for ticket in [ticket for ticket, (peer, _) in self._out.items() if peer == peer_id]:
                del self._out[ticket]
            del self._held[peer_id]

    def _expire(self, now: float) -> None:
        while self._out:
            ticket, (peer_id, until) = next(iter(self._out.items()))
            if until > now:
                return
            del self._out[ticket]
            self._count(peer_id, -1)

    def _count(self, peer_id: str, change: int) -> None:
        self._held[peer_id] += change
        if not self._held[peer_id]:
            del self._held[peer_id]


@dataclass(slots=True)
class _Failures:
    count: float
    at: float
    refused_until: float = 0.0


class AddressStanding:
    """Which IP addresses may connect, after what they did before. Bounded in size."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def failed(self, address: str, now: float) -> bool:
        """Note that a connection from this address came to nothing; True where it is refused from now on."""
        entry = self._entries.setdefault(address, _Failures(0.0, now))
        self._entries.move_to_end(address)
        if len(self._entries) > MAX_ADDRESSES:
            self._entries.popitem(last=False)
        # They fade evenly: a few wrong ones a minute, as a restart of ours causes, are no attack.
        faded = (now - entry.at) * MAX_FAILURES / FAILURES_FADE
        entry.count = max(0.0, entry.count - faded) + 1.0
        entry.at = now
        if entry.count < MAX_FAILURES or entry.refused_until > now:
            return False
        entry.count = 0.0
        entry.refused_until = now + REFUSED_FOR
        return True

    def refuses(self, address: str, now: float) -> bool:
        """Whether connections from this address are closed unheard."""
        entry = self._entries.get(address)
        return entry is not None and entry.refused_until > now
