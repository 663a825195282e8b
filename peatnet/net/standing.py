"""What we think of each peer: offences, bans, and how many messages it may send. Pure: time is passed in.

An offence adds points that fade with a half-life; enough points are a ban. Some offences, such as a chunk
that does not match its hash, are a ban at once. A ban's length doubles with each repetition.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

HALF_LIFE = 600.0
BAN_THRESHOLD = 100.0
FIRST_BAN = 600.0
LONGEST_BAN = 24 * 3600.0
# Peers are forgotten beyond this, banned ones last, otherwise the oldest first; each entry is a few hundred bytes.
MAX_PEERS = 4096


class Offence(Enum):
    """What a peer can do wrong."""

    CORRUPT_CHUNK = "corrupt chunk"
    WRONG_TABLE = "wrong table"
    BAD_RECORD = "bad record"
    MALFORMED = "malformed message"
    FLOOD = "flood"


# A hundred is a ban at once. What an honest peer could never send weighs most; a burst of gossip least.
POINTS = {
    Offence.CORRUPT_CHUNK: 100.0,
    Offence.WRONG_TABLE: 100.0,
    Offence.BAD_RECORD: 50.0,
    Offence.MALFORMED: 34.0,
    Offence.FLOOD: 5.0,
}


@dataclass(slots=True)
class _Entry:
    points: float = 0.0
    points_at: float = 0.0
    bans: int = 0
    banned_until: float = 0.0


class Standing:
    """The standing of all peers, bounded in size. All times are seconds on one clock of the caller's."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def offend(self, peer_id: str, offence: Offence, now: float) -> bool:
        """Note an offence; returns True where it is the one that bans the peer."""
        entry = self._entries.setdefault(peer_id, _Entry(points_at=now))
        self._entries.move_to_end(peer_id)
        if len(self._entries) > MAX_PEERS:
            self._forget_one(peer_id, now)
        elapsed = max(0.0, now - entry.points_at)
        entry.points = entry.points * 0.5 ** (elapsed / HALF_LIFE) + POINTS[offence]
        entry.points_at = now
        if entry.points < BAN_THRESHOLD or entry.banned_until > now:
            return False
        entry.points = 0.0
        # The exponent is bounded so that the float cannot overflow.
        length = min(LONGEST_BAN, FIRST_BAN * 2.0 ** min(entry.bans, 16))
        entry.bans += 1
        entry.banned_until = now + length
        return True

    def _forget_one(self, newest: str, now: float) -> None:
        # The oldest that is not banned: offences of invented peers must not lift the ban of a real one.
        harmless = (
            peer
            for peer, entry in self._entries.items()
            if entry.banned_until <= now and peer != newest
        )
        del self._entries[next(harmless, next(iter(self._entries)))]

    def is_banned(self, peer_id: str, now: float) -> bool:
        """Whether the peer is banned at this time."""
        entry = self._entries.get(peer_id)
        return entry is not None and entry.banned_until > now

    def banned(self, now: float) -> dict[str, float]:
        """All peers banned at this time, each with the time that its ban ends."""
        return {
            peer: entry.banned_until
            for peer, entry in self._entries.items()
            if entry.banned_until > now
        }


class Allowance:
    """A token bucket: so many messages a second on average, and a burst on top.

    Args:
        rate: tokens a second.
        burst: the most tokens there can be.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Take one token; False where there is none."""
        if self.wait(now):
            return False
        self._tokens -= 1.0
        return True

    def owe(self, tokens: float, now: float) -> float:
        """Take so many tokens, also those that are not there yet; returns the seconds until they are."""
        self._fill(now)
        self._tokens -= tokens
        return max(0.0, -self._tokens) / self._rate

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0 where there is one."""
        self._fill(now)
        return max(0.0, 1.0 - self._tokens) / self._rate

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
