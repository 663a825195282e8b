"""Taking turns at an origin: of the nodes of a fleet that lack a file, only a few fetch it from its ``download_url``.

Theory. A node whose peers do not deliver does not go to the origin at once. It looks whether `MOST` others claim to be
there; if not, it claims a place itself, waits a moment for the claims of others to arrive, and goes if it is among
the first `MOST`: those whose claims it knew before its own go first, then by rank, the hash of peer id and name, which
all compute alike. Otherwise it drops its claim and waits for the claims to change, while its peers, who fetch, pass on
what they get.

Claims are hints from peers that may lie, die or be slow, so waiting is bounded: a node that has got nothing from
anybody for a while goes to the origin whatever others claim. A node without peers goes at once.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import trio

from peatnet.errors import NoSource
from peatnet.log import get_logger
from peatnet.swarm import Tier

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from peatnet.blobs import ChunkTable, Hash
    from peatnet.net.claims import Claims
    from peatnet.transfer import SourceLink

log = get_logger(__name__)

# Nodes that use an origin for one file at once.
MOST = 2
# A claim is given as long as this to arrive at the others, and theirs to arrive here; and up to as long again, at
# random, so that not all decide in the same moment. Presence goes out within 0.25 s and arrives within about 0.1 s.
SETTLE = 1.0


class Turn:
    """One fetch's place at an origin.

    Args:
        claims: what is known of the others.
        name: what is fetched: the blob, or the SHA-256 where that is all that is known.
        has_peers: whether anybody is connected.
        rng: spreads decisions.
    """

    def __init__(
        self, claims: Claims, name: Hash, has_peers: Callable[[], bool], rng: random.Random
    ) -> None:
        self._claims = claims
        self._name = name
        self._has_peers = has_peers
        self._rng = rng
        self._held = False

    @property
    def held(self) -> bool:
        """Whether we may use the origin."""
        return self._held

    async def take(self, patience: float, got: Callable[[], int]) -> None:
        """Wait until this node may use the origin; `release` is to be called in the end.

        Args:
            patience: seconds without anything new after which it goes in any case.
            got: bytes that have come from others; patience begins anew whenever they grow.

        Cancellation: no claim stays.
        """
        if self._held:
            return
        seen, since = got(), trio.current_time()
        while self._has_peers():
            if (now := got()) > seen:
                seen, since = now, trio.current_time()
            stirred = self._claims.stirring.event
            left = since + patience - trio.current_time()
            if left <= 0:
                break
            if await self._try(min(SETTLE, patience / 4)):
                return
            with trio.move_on_after(min(left, SETTLE * 5)):
                await stirred.wait()
        self._claims.claim(self._name)
        self._hold()

    async def _try(self, settle: float) -> bool:
        """Claim a place, and hold it if it is ours."""
        before = self._claims.rivals(self._name)
        if len(before) >= MOST:
            return False
        self._claims.claim(self._name)
        try:
            await trio.sleep(settle * self._rng.uniform(1, 2))
            now = self._claims.rivals(self._name)
            first = before & now
            order = sorted((now - first) | {self._claims.me}, key=self._rank)
            if order.index(self._claims.me) < MOST - len(first):
                self._hold()
        finally:
            if not self._held:
                self._claims.drop(self._name)
        return self._held

    def _rank(self, peer_id: str) -> bytes:
        return hashlib.sha256(bytes(self._name) + peer_id.encode()).digest()

    def _hold(self) -> None:
        self._held = True
        log.info("our turn at the origin", name=self._name.hex())

    def release(self) -> None:
        """We are done with the origin. Said again, it changes nothing."""
        if self._held:
            self._held = False
            self._claims.drop(self._name)


class Scout:
    """Stands for an origin in a download until the swarm wants something of it, and leaves then.

    So the swarm decides, as ever, when peers are not enough; then it is time for a turn.

    Attributes:
        wanted: set when the swarm asked for the first chunk.
    """

    tier = Tier.HTTP
    pipeline = 1

    def __init__(self, name: str) -> None:
        self.name = name
        self.wanted = trio.Event()

    async def table(self, hash: Hash) -> ChunkTable | None:  # noqa: A002, ARG002  # as in Source
        """An origin has no table."""
        await trio.lowlevel.checkpoint()
        return None

    async def run(self, link: SourceLink) -> None:
        """Wait until a chunk is wanted.

        Raises:
            NoSource: one is.
        """
        link.has(None)
        await link.next_request()
        self.wanted.set()
        raise NoSource(f"{self.name}: waits for its turn")
