"""The dialer: keeps us connected to the peers we want, with backoff, since py-libp2p never redials.

Wanted are the peers that the operator named (for ever), and those that mDNS or presence told of (as long as we
have few connections). A hostile node can announce any address, so what is learned is bounded in number, dialled
a few at a time, and forgotten when it keeps failing; Noise proves who answers. Those that have been there before
are tried on when they fail, so that a network that was cut for an hour, or a node that was unplugged, comes
together again by itself: mDNS tells of each peer once, and whoever was named may be gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from peatnet.errors import PeerLost
from peatnet.log import get_logger
from peatnet.net.addresses import MAX_ADDRESSES

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from peatnet.net.host import Host

# Learned peers are dialled while there are fewer connections than this; a gossip mesh needs about 12, and a
# download is faster with more sources.
ENOUGH_CONNECTIONS = 48
MAX_LEARNED = 512
PARALLEL_DIALS = 8
FIRST_RETRY = 0.5
LONGEST_RETRY = 60.0
# A learned peer is forgotten after so many failures in a row, but for so many of those that have been there before.
LEARNED_FAILURES = 8
MAX_LOST = 64
# How many of these are dialled at once. Nobody answers where they were, so each takes its full time, and others do not wait for it.
PARALLEL_LOST = 4
# A connection that ended earlier than this was none: the peer is full, has banned us, or fails.
LASTING = 10.0

log = get_logger(__name__)


@dataclass(slots=True)
class _Target:
    given: list[str] = field(default_factory=list)  # by the operator
    named: bool = False
    met: bool = False  # it was connected, in this run or an earlier one
    told: list[str] = field(default_factory=list)  # by mDNS, or by itself
    failures: int = 0
    next_try: float = 0.0
    connected_at: float = 0.0
    dialling: bool = False

    @property
    def addresses(self) -> list[str]:
        """Where it may be, the operator's word first."""
        return list(dict.fromkeys([*self.given, *self.told]))[:MAX_ADDRESSES]

    @property
    def is_lost(self) -> bool:
        """Whether others do not wait for it any more."""
        return not self.named and self.failures >= LEARNED_FAILURES


class Dialer:
    """Dials for one host. Run :meth:`run` in a nursery.

    Args:
        host: whose connections these are.
        rng: spreads the retries of many nodes over time.
    """

    def __init__(self, host: Host, rng: random.Random) -> None:
        self._host = host
        self._rng = rng
        self._targets: dict[str, _Target] = {}
        self._wake = trio.Event()
        self._slots = trio.CapacityLimiter(PARALLEL_DIALS)
        self._slots_for_lost = trio.CapacityLimiter(PARALLEL_LOST)
        host.on_change.append(self._connection_changed)

    def want(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Stay connected to this peer for ever; what the operator asked for."""
        if peer_id == self._host.peer_id:
            return
        target = self._targets.setdefault(peer_id, _Target())
        target.named = True
        target.given = list(dict.fromkeys([*target.given, *addresses]))[:MAX_ADDRESSES]
        self._wake.set()

    def learn(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Note where a peer can be dialled, as mDNS or the peer itself tells."""
        if (target := self._target(peer_id)) is None:
            return
        news = list(addresses)[:MAX_ADDRESSES]
        if news and news != target.told:
            target.told = news
            # It has moved, or has come back: what failed elsewhere says nothing of this.
            target.next_try = min(target.next_try, trio.current_time() + FIRST_RETRY)
        self._wake.set()

    def remember(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Note where a peer was in an earlier run. What it tells itself counts more."""
        if (target := self._target(peer_id)) is not None:
            target.met = True
            target.told = target.told or list(addresses)[:MAX_ADDRESSES]
            self._wake.set()

    def forget(self, peer_id: str) -> None:
        """Do not dial a peer any more until somebody tells of it, unless the operator named it."""
        target = self._targets.get(peer_id)
        if target is not None and not target.named:
            del self._targets[peer_id]

    def _target(self, peer_id: str) -> _Target | None:
        """What is noted of a peer; None where it is ourselves, or there is no room for it."""
        if peer_id == self._host.peer_id:
            return None
        target = self._targets.get(peer_id)
        if target is None and (len(self._targets) < MAX_LEARNED or self._forget_one()):
            target = self._targets[peer_id] = _Target()
        return target

    def _forget_one(self) -> bool:
        """Forget the learned peer that has failed most; False where none has failed."""
        peer_id = max(
            (peer for peer, target in self._targets.items() if not target.named),
            key=lambda peer: self._targets[peer].failures,
            default=None,
        )
        if peer_id is None or not self._targets[peer_id].failures:
            return False
        del self._targets[peer_id]
        return True

    def known(self) -> dict[str, list[str]]:
        """All peers that can be dialled, with their addresses."""
        return {peer: list(target.addresses) for peer, target in self._targets.items()}

    async def run(self) -> None:
        """Dial whatever is due, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                now = trio.current_time()
                soonest = now + LONGEST_RETRY
                for peer_id, target in self._due():
                    if target.next_try > now:
                        soonest = min(soonest, target.next_try)
                        continue
                    target.dialling = True
                    nursery.start_soon(self._dial, peer_id, target)
                with trio.move_on_at(soonest):
                    await self._wake.wait()

    def _due(self) -> list[tuple[str, _Target]]:
        connected = self._host.connected
        room = ENOUGH_CONNECTIONS - len(connected)
        return [
            (peer_id, target)
            for peer_id, target in self._targets.items()
            if peer_id not in connected
            and not target.dialling
            and target.addresses
            and (target.named or room > 0)
            and not self._host.is_banned(peer_id)
        ]

    async def _dial(self, peer_id: str, target: _Target) -> None:
        try:
            async with self._slots_for_lost if target.is_lost else self._slots:
                if peer_id not in self._host.connected:
                    await self._host.connect(peer_id, target.addresses)
        except PeerLost as exc:
            target.failures += 1
            log.debug("dial failed", peer=peer_id, failures=target.failures, reason=exc.message)
            if target.is_lost and not (target.met and self._count_lost() <= MAX_LOST):
                self._targets.pop(peer_id, None)
        finally:
            self._back_off(target)
            target.dialling = False
            self._wake.set()

    def _count_lost(self) -> int:
        return sum(target.is_lost for target in self._targets.values())

    def _back_off(self, target: _Target) -> None:
        delay = min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(target.failures, 16))
        target.next_try = trio.current_time() + delay * self._rng.uniform(0.75, 1.25)

    def _connection_changed(self, peer_id: str, *, connected: bool) -> None:
        now = trio.current_time()
        target = self._targets.get(peer_id)
        if target is not None and connected:
            target.connected_at = now
        elif target is not None:
            lasted = now - target.connected_at >= LASTING
            target.met |= lasted
            target.failures = 0 if lasted else target.failures + 1
            self._back_off(target)
        self._wake.set()
