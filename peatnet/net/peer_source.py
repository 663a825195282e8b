"""The downloader's side of ``/peatnet/blob/1``: a peer as a source of chunks.

Its chunks come over bulk lanes where those can be had, else over one libp2p stream a download.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import trio

from peatnet.blobs import ChunkTable, Hash
from peatnet.concurrency import bare_errors, first_error
from peatnet.errors import IntegrityError, NoSource, PeerLost, RemoteProtocolError
from peatnet.net.blob_messages import (
    MAX_TABLE_PIECE,
    HaveReply,
    HaveRequest,
    Refusal,
    TableReply,
    TableRequest,
)
from peatnet.net.lanes import carry, is_far
from peatnet.net.small_stream import SmallStream, Wanted
from peatnet.net.stream_fetch import StreamFetch, receive_reply
from peatnet.swarm import Tier

if TYPE_CHECKING:
    from peatnet.net.frames import FrameStream
    from peatnet.net.lanes import LaneClient
    from peatnet.transfer import SourceLink

# Requests out at once at the most: where chunks come fast, several are told and asked for together.
PIPELINE = 32
TABLE_TIMEOUT = 30.0
# Bytes of a blob that are here over a stream before a lane (a stream for its ticket, a handshake) would be open.
STREAM_ENOUGH = 256 * 1024

OpenStream = Callable[[], Awaitable["FrameStream"]]


class GivenTable(NamedTuple):
    """A chunk table as a peer gave it.

    Attributes:
        table: consistent in itself. Whether it is the blob's only a signature or the blob can tell.
        vouched: the peer says that it has all of the blob, which it cannot have found out by a wrong table.
    """

    table: ChunkTable
    vouched: bool


class PeerSource:
    """A peer, asked over libp2p streams.

    Args:
        peer_id: whom we ask.
        open_stream: opens a new ``/peatnet/blob/1`` stream to it; raises PeerLost.
        on_fault: called with what the peer did when it breaks the protocol on a stream in :meth:`run`.
        lanes: opens bulk lanes to it; None where streams are to serve alone.
        open_small: opens a new ``/peatnet/small/1`` stream to it; raises PeerLost, also where the peer does not speak
            that. None where it is not to be used.
    """

    tier = Tier.PEER
    pipeline = PIPELINE

    def __init__(
        self,
        peer_id: str,
        open_stream: OpenStream,
        on_fault: Callable[[str], None],
        lanes: LaneClient | None = None,
        open_small: OpenStream | None = None,
    ) -> None:
        self.name = f"peer:{peer_id}"
        self._open_stream = open_stream
        self._on_fault = on_fault
        self._lanes = lanes
        self._open_small = open_small

    async def table(self, hash: Hash) -> ChunkTable | None:  # noqa: A002  # as in Source
        """The same as :meth:`given_table`, whoever vouches for it."""
        given = await self.given_table(hash)
        return given.table if given is not None else None

    async def given_table(self, blob: Hash) -> GivenTable | None:
        """Ask the peer for the blob's chunk table, piece by piece.

        Returns:
            The table (its hash is the one the peer named), or None where the peer has no such blob.

        Raises:
            PeerLost: the peer went away or took longer than TABLE_TIMEOUT seconds.
            RemoteProtocolError: an answer that does not fit the question.
        """
        frames = await self._open_stream()
        try:
            with trio.fail_after(TABLE_TIMEOUT), bare_errors():
                async with trio.open_nursery() as nursery:
                    if self._lanes is not None and is_far(self._lanes.round_trip()):
                        nursery.start_soon(self._lanes.prepare)
                    given = await _ask_table(frames, blob)
                    nursery.cancel_scope.cancel()
                return given
        except trio.TooSlowError as exc:
            raise PeerLost(f"{self.name}: no chunk table in {TABLE_TIMEOUT:.0f} s") from exc
        finally:
            await frames.reset()

    async def run(self, link: SourceLink) -> None:
        """Deliver chunks of one download until cancelled.

        Raises:
            NoSource: the peer went away, is busy, or has the blob cut into other chunks.
            RemoteProtocolError: it broke the protocol.
        """
        if self._lanes is None or link.table.size <= STREAM_ENOUGH:
            await self._run_stream(link)
        else:
            await carry(link, self._lanes, self._run_stream)

    async def _run_stream(self, link: SourceLink) -> None:
        await self._use_stream(self._open_stream, lambda frames: StreamFetch(frames, link).run())

    async def small(
        self,
        wanted: Sequence[Wanted],
        pace: Callable[[], Awaitable[None]],
        take: Callable[[int, bytes], None],
    ) -> None:
        """Ask for many small blobs over one stream; see :class:`SmallStream`.

        Raises:
            NoSource: the peer went away, is busy, or gives none that way; what came before was taken.
            RemoteProtocolError: it broke the protocol.
            Anything that ``take`` raises.
        """
        if self._open_small is None:
            raise NoSource(f"{self.name}: gives no small blobs together")
        with bare_errors():
            await self._use_stream(
                self._open_small, lambda frames: SmallStream(frames, wanted, pace, take).run()
            )

    async def _use_stream(
        self, open_stream: OpenStream, act: Callable[[FrameStream], Awaitable[None]]
    ) -> None:
        frames = await open_stream()
        try:
            await act(frames)
        except BaseExceptionGroup as group:
            faults, _ = group.split(RemoteProtocolError)
            if faults is not None:
                self._on_fault(first_error(faults).message)
            raise
        finally:
            await frames.reset()


async def _ask_table(frames: FrameStream, blob: Hash) -> GivenTable | None:
    await frames.send(HaveRequest(0, blob).header())
    reply, frame = await receive_reply(frames)
    if isinstance(reply, Refusal) and reply.number == 0:
        return None
    if not isinstance(reply, HaveReply) or reply.number != 0:
        raise RemoteProtocolError(f"{frames.peer_id}: a {type(reply).__name__} to a have request")
    n_chunks = -(-reply.size // reply.chunk_size)
    if frame.payload_length != (0 if reply.full else (n_chunks + 7) // 8):
        raise RemoteProtocolError(f"{frames.peer_id}: a bitmap of {frame.payload_length} bytes")
    await frames.read_payload(frame)
    digests = bytearray()
    while len(digests) < 32 * n_chunks:
        first = len(digests) // 32
        count = min(MAX_TABLE_PIECE, n_chunks - first)
        await frames.send(TableRequest(first + 1, blob, first, count).header())
        answer, frame = await receive_reply(frames)
        if isinstance(answer, Refusal) and answer.number == first + 1:
            return None
        if (
            not isinstance(answer, TableReply)
            or answer.number != first + 1
            or frame.payload_length != 32 * count
        ):
            raise RemoteProtocolError(f"{frames.peer_id}: not the piece of table asked for")
        digests += await frames.read_payload(frame)
    try:
        table = ChunkTable(reply.size, reply.chunk_size, bytes(digests))
    except IntegrityError as exc:
        raise RemoteProtocolError(f"{frames.peer_id}: {exc.message}") from exc
    if table.table_hash != reply.table_hash:
        raise RemoteProtocolError(f"{frames.peer_id}: the table does not have the hash it named")
    return GivenTable(table, reply.full)
