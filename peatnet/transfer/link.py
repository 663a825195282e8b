"""One source in one download: the queue of its requests, and the way its reports take into the swarm."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio

from peatnet.errors import (
    DiskFull,
    LocalProtocolError,
    PeatnetError,
    RemoteProtocolError,
    StorageError,
)
from peatnet.swarm import (
    ChunkArrived,
    ChunkCorrupt,
    ChunkDeferred,
    ChunkFailed,
    SourceGained,
    SourceHas,
    SourceLine,
    mask_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

    from peatnet.blobs import ChunkTable, Hash, PartialBlob
    from peatnet.swarm import Event
    from peatnet.transfer.source import Source


class LinkOwner(Protocol):
    """What a link needs of its download."""

    def feed(self, event: Event) -> None:
        """Give the swarm an event and do what it answers."""

    def chunk_arrived(self, event: ChunkArrived) -> None:
        """The same for a chunk that is on disk now."""

    def fail(self, error: PeatnetError) -> None:
        """End the whole download with this error. Any thread."""


class Link:
    """Implements :class:`peatnet.transfer.SourceLink`; the engine's methods are below the source's.

    Invariants: an index is in at most one of ``_queue`` (not taken by the source yet) and ``_unwanted`` (taken,
    then cancelled). Once ``closed``, nothing reaches the swarm but chunks that are on disk anyway.
    """

    __slots__ = (
        "_owner",
        "_partial",
        "_queue",
        "_requested",
        "_unwanted",
        "_waiting",
        "closed",
        "holds",
        "priority",
        "scope",
        "source",
        "told",
    )

    def __init__(self, owner: LinkOwner, source: Source, partial: PartialBlob) -> None:
        self.source = source
        self.closed = False
        self.scope = trio.CancelScope()
        self.priority = 3  # of the download, for its holders
        self.holds = 0  # what the source says it has, bit i for chunk i
        self.told = False  # whether it has said
        self._owner = owner
        self._partial = partial
        self._queue: deque[int] = deque()
        self._unwanted: set[int] = set()
        self._waiting = trio.lowlevel.ParkingLot()
        self._requested: Callable[[], None] | None = None

    @property
    def hash(self) -> Hash:
        """See SourceLink."""
        return self._partial.hash

    @property
    def table(self) -> ChunkTable:
        """See SourceLink."""
        return self._partial.table

    def line(self, round_trip: float, lanes: int = 1) -> None:
        """See SourceLink."""
        if not self.closed:
            self._owner.feed(SourceLine(self.source.name, round_trip, lanes))

    def has(self, bitmap: bytes | None) -> None:
        """See SourceLink."""
        n = self.table.n_chunks
        if bitmap is None:
            holds = (1 << n) - 1
        else:
            holds = int.from_bytes(bitmap, "little") if len(bitmap) == (n + 7) // 8 else -1
            if holds < 0 or holds >> n:
                raise RemoteProtocolError(
                    f"{self.source.name}: a bitmap of {len(bitmap)} bytes for {n} chunks"
                )
        if not self.closed:
            self.holds, self.told = holds, True
            self._owner.feed(SourceHas(self.source.name, bitmap))

    def gained(self, indices: Iterable[int]) -> None:
        """See SourceLink."""
        n = self.table.n_chunks
        news = list(indices)
        for index in news:
            if not 0 <= index < n:
                raise RemoteProtocolError(f"{self.source.name}: chunk {index} of a blob with {n}")
        if not self.closed:
            chunks = mask_of(news, n)
            self.holds |= chunks
            self._owner.feed(SourceGained(self.source.name, chunks))

    def listen(self, requested: Callable[[], None] | None) -> None:
        """See SourceLink."""
        self._requested = requested

    async def next_request(self) -> int:
        """See SourceLink."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._queue:
            await self._waiting.park()
        return self._queue.popleft()

    def poll_request(self) -> int | None:
        """See SourceLink."""
        return self._queue.popleft() if self._queue else None

    def cancelled(self, index: int) -> bool:
        """See SourceLink."""
        return self.closed or index in self._unwanted

    def wants(self, index: int) -> bool:
        """See SourceLink."""
        return not self._partial.has(index)

    def write(self, index: int, data: Buffer) -> bool:
        """See SourceLink."""
        try:
            return self._partial.write(index, data)
        except (DiskFull, StorageError) as exc:
            self._owner.fail(exc)
            raise

    def arrived(self, index: int) -> None:
        """See SourceLink."""
        if not self._partial.has(index):
            raise LocalProtocolError(f"{self.source.name}: chunk {index} was not written")
        self._unwanted.discard(index)
        self._owner.chunk_arrived(ChunkArrived(self.source.name, index))

    def failed(self, index: int, reason: str) -> None:
        """See SourceLink."""
        self._unwanted.discard(index)
        if not self.closed:
            self._owner.feed(ChunkFailed(self.source.name, index, reason))

    def deferred(self, index: int) -> None:
        """See SourceLink."""
        self._unwanted.discard(index)
        if not self.closed:
            self._owner.feed(ChunkDeferred(self.source.name, index))

    def corrupt(self, index: int) -> None:
        """See SourceLink."""
        if not self.closed:
            self._owner.feed(ChunkCorrupt(self.source.name, index))

    # The engine's side.

    def push(self, index: int) -> None:
        """Give the source one more request."""
        self._unwanted.discard(index)
        self._queue.append(index)
        if self._requested is None:
            self._waiting.unpark()
        else:
            self._requested()

    def withdraw(self, index: int) -> None:
        """Take a request back: out of the queue, or, where the source has taken it, by way of ``cancelled``."""
        try:
            self._queue.remove(index)
        except ValueError:
            self._unwanted.add(index)

    def close(self) -> None:
        """End this source's part in the download."""
        self.closed = True
        self._queue.clear()
        self.scope.cancel()
