"""The side of a swarm that its owner reads: how far the download is, and who brought what."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peatnet.swarm.board import Board
    from peatnet.swarm.ledger import Ledger
    from peatnet.swarm.sources import SourceView


class Books:
    """Read-only views of a board and its ledger; `Swarm` is one."""

    __slots__ = ("_board", "_ledger")

    def __init__(self, board: Board, ledger: Ledger) -> None:
        self._board = board
        self._ledger = ledger

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return self.missing == 0

    @property
    def missing(self) -> int:
        """How many chunks are not there."""
        return self._board.n_chunks - self._board.have.count

    @property
    def verified_bytes(self) -> int:
        """Bytes in the chunks that are there; never falls."""
        return self._ledger.verified

    @property
    def duplicate_bytes(self) -> int:
        """Bytes that sources delivered though the chunk was there already."""
        return self._ledger.duplicates

    @property
    def requests_made(self) -> int:
        """How many requests were ever made."""
        return self._board.requests_made

    @property
    def requests_in_vain(self) -> int:
        """How many of them ended without a chunk: failed, put off, overdue, or their source gone."""
        return self._board.requests_in_vain

    @property
    def requests_out(self) -> int:
        """How many requests are out now."""
        return self._board.requests_out

    @property
    def bytes_by_source(self) -> dict[str, int]:
        """Bytes that each source was the first to deliver, of those that delivered any."""
        return {
            name: source.brought for name, source in self._board.sources.items() if source.brought
        }

    def have(self) -> bytes:
        """The chunks that are there: one bit a chunk, low bit first."""
        return self._board.have.to_bytes()

    def sources(self) -> list[SourceView]:
        """All sources that ever joined, in the order they first did."""
        return [source.view(self._ledger.chunk_size) for source in self._board.sources.values()]
