"""Who fetches what from its origin, the server behind a ``download_url``, as nodes tell each other in presence.

A node that is about to use an origin says so first (a *claim*), so that of a fleet only a few do, and the others take
the bytes from those. A claim names a blob, or, where a manifest gives no blob hash, a SHA-256. It counts while its
maker is connected and was heard of within `FRESH` seconds, and it is a hint: nobody waits for one for ever.

Who fetched a file that was known by its SHA-256 alone knows its blob hash afterwards, and tells that too: else nobody
could ask for it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from peatnet.concurrency import Stirring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from peatnet.blobs import Hash

# In one presence message, and of one peer.
MAX_CLAIMS = 16
MAX_LEARNED = 16
# A node is heard of about every 15 s; one that misses three messages may be gone.
FRESH = 45.0
# What others told of blob hashes, and who was wrong; the oldest is forgotten.
_MAX_HEARSAY = 256


class Claims:
    """What this node claims, and what it heard of others. Belongs to the trio thread.

    Args:
        me: our own peer id.
        clock: seconds, never backwards.
        on_change: called when there is something new to tell.

    Attributes:
        me: as given.
        stirring: stirred when others claim something, drop a claim, or tell a blob hash.
    """

    def __init__(
        self, me: str, clock: Callable[[], float], on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.me = me
        self.stirring = Stirring()
        self._clock = clock
        self._on_change = on_change
        self._mine: dict[Hash, int] = {}
        self._learned: OrderedDict[Hash, Hash] = OrderedDict()
        self._others: dict[str, tuple[frozenset[Hash], float]] = {}
        self._hearsay: OrderedDict[Hash, tuple[Hash, str]] = OrderedDict()
        self._disbelieved: OrderedDict[str, None] = OrderedDict()

    # Ours.

    def claim(self, name: Hash) -> None:
        """We are about to fetch this from its origin; `drop` is to be told of the end."""
        self._mine[name] = self._mine.get(name, 0) + 1
        self._on_change()

    def drop(self, name: Hash) -> None:
        """We no longer do."""
        left = self._mine.get(name, 0) - 1
        if left > 0:
            self._mine[name] = left
        elif self._mine.pop(name, None) is not None:
            self._on_change()

    def learn(self, sha256: Hash, blob: Hash) -> None:
        """We have the blob whose SHA-256 this is, verified."""
        self._learned[sha256] = blob
        self._learned.move_to_end(sha256)
        if len(self._learned) > MAX_LEARNED:
            self._learned.popitem(last=False)
        self._on_change()

    def to_tell(self) -> tuple[list[Hash], list[tuple[Hash, Hash]]]:
        """For a presence message: our claims, and the blob hashes that we learned."""
        return list(self._mine)[:MAX_CLAIMS], list(self._learned.items())

    # Theirs.

    def heard(
        self, peer_id: str, names: Iterable[Hash], learned: Iterable[tuple[Hash, Hash]]
    ) -> None:
        """A connected peer says what it claims, in place of what it said before, and what it learned."""
        claimed = frozenset(names)
        before, _ = self._others.get(peer_id, (frozenset(), 0.0))
        if claimed:
            self._others[peer_id] = (claimed, self._clock())
        else:
            self._others.pop(peer_id, None)
        news = claimed != before
        for sha256, blob in learned:
            if sha256 not in self._hearsay and peer_id not in self._disbelieved:
                self._hearsay[sha256] = (blob, peer_id)
                news = True
        while len(self._hearsay) > _MAX_HEARSAY:
            self._hearsay.popitem(last=False)
        if news:
            self.stirring.stir()

    def gone(self, peer_id: str) -> None:
        """A peer is no longer connected."""
        if self._others.pop(peer_id, None) is not None:
            self.stirring.stir()

    def rivals(self, name: Hash) -> frozenset[str]:
        """The peers that fetch this from its origin, as far as we know."""
        oldest = self._clock() - FRESH
        return frozenset(
            peer
            for peer, (names, heard_at) in self._others.items()
            if name in names and heard_at >= oldest
        )

    def told(self, sha256: Hash) -> tuple[Hash, str] | None:
        """The blob that has this SHA-256, and who says so; only the bytes can tell whether it is true."""
        return self._hearsay.get(sha256)

    def disbelieve(self, peer_id: str) -> None:
        """What this peer told of a SHA-256 was wrong: nothing that it says of any is heard from now on."""
        self._disbelieved[peer_id] = None
        if len(self._disbelieved) > _MAX_HEARSAY:
            self._disbelieved.popitem(last=False)
        for sha256 in [sha256 for sha256, (_, by) in self._hearsay.items() if by == peer_id]:
            del self._hearsay[sha256]
