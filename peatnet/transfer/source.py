"""What a source of chunks is, and what the engine gives it to work with.

The engine (:class:`peatnet.transfer.Download`) knows nothing of sockets. Whatever can deliver chunks of a
blob implements :class:`Source`: a libp2p stream, an HTTP server, a lane that runs in a worker thread. For
each pair of download and source the engine makes one :class:`SourceLink`; the source takes requests from
it and reports what became of them.

A chunk's way through a source::

    index = await link.next_request()                    # in trio; parks while nothing is wanted
    ... the bytes come in ...
    await trio.to_thread.run_sync(link.write, index, data)   # hash, compare, pwrite
    link.arrived(index)                                  # in trio: the swarm gives the next request

A source that lives in a worker thread crosses into trio once for the chunks that came since the last time: it calls
``write`` where it is, then ``TrioToken.run_sync_soon`` with a function that calls ``arrived`` and ``poll_request``, and
learns by ``listen`` of requests that come up otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

    from peatnet.blobs import ChunkTable, Hash
    from peatnet.swarm import Tier


class SourceLink(Protocol):
    """The engine's side of one source in one download.

    Methods belong to the trio thread unless they say otherwise. After the source's ``run`` has ended, and
    after the engine has dropped or banned the source, every report through the link is ignored.
    """

    @property
    def hash(self) -> Hash:
        """The blob that is being fetched."""
        ...

    @property
    def table(self) -> ChunkTable:
        """The chunk table that every chunk is checked against."""
        ...

    @property
    def priority(self) -> int:
        """Of the download, 1 (most urgent) to 5; it may change. Holders that serve several go by it."""
        ...

    def line(self, round_trip: float, lanes: int = 1) -> None:
        """State how the source is reached, in place of what was stated before: as many more requests may be out.

        Args:
            round_trip: seconds that a short request takes there and back at least; 0 where that is not known.
            lanes: on how many connections its chunks come.
        """
        ...

    def has(self, bitmap: bytes | None) -> None:
        """State what the source has now, in place of all that it said before.

        Nothing is requested from a source before it has said what it has.

        Args:
            bitmap: one bit a chunk, least significant bit first; None for all chunks.

        Raises:
            RemoteProtocolError: the bitmap's length is wrong, or a padding bit is set.
        """
        ...

    def gained(self, indices: Iterable[int]) -> None:
        """Add chunks to what the source has.

        Raises:
            RemoteProtocolError: an index is not one of this blob's.
        """
        ...

    async def next_request(self) -> int:
        """Take the next chunk index to fetch; waits as long as the swarm wants nothing from this source.

        Several tasks may wait at once. Cancellation is safe: no request is lost by it.
        """
        ...

    def poll_request(self) -> int | None:
        """Take the next chunk index without waiting, to fill a pipeline; None when there is none."""
        ...

    def listen(self, requested: Callable[[], None] | None) -> None:
        """Have ``requested`` called for each request that can be polled from now on; no ``next_request`` wakes meanwhile.

        Args:
            requested: called in trio, in the middle of what the engine is doing: it may poll, but report nothing. None
                ends this.
        """
        ...

    def cancelled(self, index: int) -> bool:
        """Whether a request that was taken is no longer wanted from this source. Any thread.

        The source may then forget the request and say nothing of it, or deliver the chunk after all.
        """
        ...

    def wants(self, index: int) -> bool:
        """Whether the download still lacks this chunk, whoever was asked for it. Any thread."""
        ...

    def write(self, index: int, data: Buffer) -> bool:
        """Check a chunk against the table and put it on disk. Any thread; blocks, so not trio's.

        A chunk that was not requested may be written too (a source that can only read in order passes
        by many): see ``wants``.

        Args:
            index: the chunk's number.
            data: exactly the chunk's bytes; free for reuse when this returns.

        Returns:
            True where the chunk was new, False where the download had it already.

        Raises:
            IntegrityError: the bytes are not the chunk's; nothing was written. Call ``corrupt``.
            DiskFull, StorageError: the whole download is about to fail with this error; let it pass.
        """
        ...

    def arrived(self, index: int) -> None:
        """Report that ``write`` returned for this chunk, whatever it returned."""
        ...

    def failed(self, index: int, reason: str) -> None:
        """Report that this source cannot deliver a requested chunk now; another one will be asked."""
        ...

    def deferred(self, index: int) -> None:
        """Report that this source would rather deliver a requested chunk later, as it sends others that are rarer.

        That is no failure. It will be asked for other chunks, and for this one again if need be.
        """
        ...

    def corrupt(self, index: int) -> None:
        """Report that ``write`` raised IntegrityError: the swarm bans the source, its ``run`` is cancelled."""
        ...


class Source(Protocol):
    """Anything that can deliver chunks of a blob.

    Attributes:
        name: unique among the sources of a download: ``peer:12D3...`` or ``http:example.org``.
        tier: what kind of source this is; peers go before HTTP servers.
        pipeline: how many chunk requests it likes to have out at once, 1 or more.
    """

    @property
    def name(self) -> str:
        """The source's name, the same for as long as it lives."""
        ...

    @property
    def tier(self) -> Tier:
        """Peer or HTTP server."""
        ...

    @property
    def pipeline(self) -> int:
        """How many chunk requests it likes to have out at once."""
        ...

    async def table(self, hash: Hash) -> ChunkTable | None:  # noqa: A002 - the word the whole project uses
        """Ask for the chunk table of a blob; None where the source has none to give.

        The table proves nothing until its hash is checked against a signed one, or the whole blob
        against its own.

        Raises:
            NoSource: the source is gone.
            RemoteProtocolError: it answered with something that is no table.
        """
        ...

    async def run(self, link: SourceLink) -> None:
        """Deliver chunks for one download, until cancelled or until the source is lost.

        Returning means that the source is lost as well. A source may run for several downloads at once,
        each with a link of its own. Errors may come bare or in an exception group.

        Cancellation: the engine cancels this when the download is complete, or when it drops the source.
        No worker thread may outlive the call.

        Raises:
            NoSource: the source went away, or cannot deliver (``HttpSourceError`` for HTTP).
            RemoteProtocolError: it broke the protocol.
            DiskFull, StorageError: as raised by ``link.write``.
        """
        ...
