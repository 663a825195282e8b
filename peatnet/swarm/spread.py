"""What a complete holder has given to whom, so that it gives each chunk once before it gives any twice.

Theory. N downloaders ask one holder. If each gets other chunks than the rest, they have the whole blob between them
when the holder has sent it once, and give each other what they lack; if the holder sends what one of them has
already, its link carries the same bytes again while theirs are idle. So a request for a chunk that another
downloader got, who is still here, is put off once ("later"), as long as there are chunks that nobody here got.

This is advice and can never be more: a downloader is refused a given chunk at most once while it is here, so
asking again always helps. Whoever lacks just that chunk loses one round trip.

A chunk given to somebody who has left counts as not given: it may be lost with them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from peatnet.swarm.availability import ChunkSet

if TYPE_CHECKING:
    from peatnet.blobs import Hash

# Beyond these, nothing is remembered and nothing put off. A downloader costs two bits a chunk.
MAX_BLOBS = 64
MAX_DOWNLOADERS = 128


class _Downloader:
    """One peer that downloads one blob here, over one session or several."""

    __slots__ = ("given", "put_off", "sessions")

    def __init__(self) -> None:
        self.sessions = 1
        self.given: ChunkSet | None = None  # that it was the first to get, of those that are here
        self.put_off: ChunkSet | None = None


class _Blob:
    """One blob. Invariant: the downloaders' ``given`` are disjoint, and ``given`` is their union."""

    __slots__ = ("downloaders", "given")

    def __init__(self) -> None:
        self.downloaders: dict[str, _Downloader] = {}
        self.given: ChunkSet | None = None


class Spread:
    """Remembers, for the blobs asked for lately, which chunks went to whom first."""

    def __init__(self) -> None:
        self._blobs: OrderedDict[Hash, _Blob] = OrderedDict()

    def joined(self, blob: Hash, peer_id: str) -> None:
        """A session in which a peer downloads this blob begins."""
        state = self._blobs.setdefault(blob, _Blob())
        self._blobs.move_to_end(blob)
        if len(self._blobs) > MAX_BLOBS:
            self._blobs.popitem(last=False)
        if (downloader := state.downloaders.get(peer_id)) is not None:
            downloader.sessions += 1
        elif len(state.downloaders) < MAX_DOWNLOADERS:
            state.downloaders[peer_id] = _Downloader()

    def left(self, blob: Hash, peer_id: str) -> None:
        """Such a session has ended."""
        state = self._blobs.get(blob)
        downloader = state.downloaders.get(peer_id) if state is not None else None
        if state is None or downloader is None:
            return  # it was one too many, or is long forgotten
        downloader.sessions -= 1
        if downloader.sessions:
            return
        del state.downloaders[peer_id]
        if downloader.given is not None and state.given is not None:
            state.given = ChunkSet(state.given.n, state.given.mask & ~downloader.given.mask)
        if not state.downloaders:
            del self._blobs[blob]

    def defers(self, blob: Hash, n_chunks: int, index: int, peer_id: str) -> bool:
        """Whether a peer that asks for a chunk shall be told to ask again later.

        Where it is not, the chunk counts as given to that peer.
        """
        state = self._blobs.get(blob)
        asker = state.downloaders.get(peer_id) if state is not None else None
        if state is None or asker is None:
            return False
        if state.given is None or state.given.n != n_chunks:
            # The first question of all, or the blob was cut anew: what was remembered means nothing now.
            state.given = ChunkSet(n_chunks)
            for downloader in state.downloaders.values():
                downloader.given = downloader.put_off = None
        if asker.given is None or asker.put_off is None:
            asker.given, asker.put_off = ChunkSet(n_chunks), ChunkSet(n_chunks)
        if index not in state.given:
            state.given.add(index)
            asker.given.add(index)
            return False
        if index in asker.given or state.given.count == n_chunks:
            return False
        # Somebody else who is here got it first. True the first time only.
        return asker.put_off.add(index)

    def not_given(self, blob: Hash, index: int, peer_id: str) -> None:
        """A chunk did not reach this peer after all."""
        state = self._blobs.get(blob)
        asker = state.downloaders.get(peer_id) if state is not None else None
        if state is None or asker is None or asker.given is None or state.given is None:
            return
        if asker.given.discard(index):
            state.given.discard(index)
