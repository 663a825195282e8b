"""Places for work that peers bring: so many in all, so many of them for one peer. Who finds none waits for its turn."""

from __future__ import annotations

from dataclasses import dataclass

import trio


@dataclass(slots=True)
class _Peer:
    places: trio.Semaphore
    users: int = 0  # who have a place or wait for one


class PeerPlaces:
    """Places that are taken and given back.

    Args:
        each: for one peer.
        total: for all.
    """

    def __init__(self, each: int, total: int) -> None:
        self._each = each
        self._total = trio.Semaphore(total)
        self._peers: dict[str, _Peer] = {}

    async def take(self, peer_id: str) -> None:
        """Have a place; those who wait get theirs in the order in which they came. A checkpoint only for who waits.

        Cancellation: no place is taken.
        """
        peer = self._peers.setdefault(peer_id, _Peer(trio.Semaphore(self._each)))
        peer.users += 1
        try:
            await _acquire(peer.places)
        except trio.Cancelled:
            self._leave(peer_id)
            raise
        try:
            await _acquire(self._total)
        except trio.Cancelled:
            peer.places.release()
            self._leave(peer_id)
            raise

    def give_back(self, peer_id: str) -> None:
        """Give back a place that was taken."""
        self._total.release()
        self._peers[peer_id].places.release()
        self._leave(peer_id)

    def _leave(self, peer_id: str) -> None:
        self._peers[peer_id].users -= 1
        if not self._peers[peer_id].users:
            del self._peers[peer_id]


async def _acquire(places: trio.Semaphore) -> None:
    try:
        places.acquire_nowait()
    except trio.WouldBlock:
        await places.acquire()
