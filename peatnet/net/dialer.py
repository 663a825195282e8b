"""The dialer: keeps us connected to the peers we want, with backoff, since py-libp2p never redials.

Wanted are the peers that the operator named (for ever), and those that mDNS or presence told of (as long as we
have few connections). A hostile node can announce any address, so what is learned is bounded in number, dialled
a few at a time, and forgotten when it keeps failing; Noise proves who answers.
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
# A learned peer is forgotten after so many failures in a row.
LEARNED_FAILURES = 8
# A connection that ended earlier than this was none: the peer is full, has banned us, or fails.
LASTING = 10.0

log = get_logger(__name__)


@dataclass(slots=True)
class _Target:
    named: bool
    addresses: list[str] = field(default_factory=list)
    failures: int = 0
    next_try: float = 0.0
    connected_at: float = 0.0
    dialling: bool = False


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
        host.on_change.append(self._connection_changed)

    def want(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Stay connected to this peer for ever; what the operator asked for."""
        if peer_id == self._host.peer_id:
            return
        target = self._targets.setdefault(peer_id, _Target(named=True))
        target.named = True
        target.addresses = list(dict.fromkeys([*target.addresses, *addresses]))[:MAX_ADDRESSES]
        self._wake.set()

    def learn(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Note where a peer can be dialled, as mDNS or the peer itself tells."""
        if peer_id == self._host.peer_id:
            return
        target = self._targets.get(peer_id)
        if target is None:
            if len(self._targets) >= MAX_LEARNED and not self._forget_one():
                return
            target = self._targets[peer_id] = _Target(named=False)
        news = list(addresses)[:MAX_ADDRESSES]
        if not target.named and news:
            target.addresses = news
        elif target.named:
            # The operator's addresses stay first.
            target.addresses = list(dict.fromkeys([*target.addresses, *news]))[:MAX_ADDRESSES]
        self._wake.set()

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
            async with self._slots:
                if peer_id not in self._host.connected:
                    await self._host.connect(peer_id, target.addresses)
        except PeerLost as exc:
            target.failures += 1
            log.debug("dial failed", peer=peer_id, failures=target.failures, reason=exc.message)
            if not target.named and target.failures >= LEARNED_FAILURES:
                self._targets.pop(peer_id, None)
        finally:
            self._back_off(target)
            target.dialling = False
            self._wake.set()

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
            target.failures = 0 if lasted else target.failures + 1
            self._back_off(target)
        self._wake.set()
