"""The downloader's side of ``/peatnet/blob/1``: a peer as a source of chunks.

One stream a download. Three tasks share it: one asks for chunks as the engine wants them, one asks now and
then what a partial holder has gained, one reads the replies. A chunk is read into one of a few pooled
buffers and handed to a worker thread, which checks and writes it while the next one is read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from peatnet.blobs import ChunkTable, Hash
from peatnet.concurrency import first_error
from peatnet.errors import IntegrityError, NoSource, PeerLost, RemoteProtocolError
from peatnet.net.blob_messages import (
    MAX_TABLE_PIECE,
    ChunkReply,
    ChunkRequest,
    HaveReply,
    HaveRequest,
    Refusal,
    Reply,
    TableReply,
    TableRequest,
    decode_reply,
)
from peatnet.swarm import Tier

if TYPE_CHECKING:
    from peatnet.net.frames import Frame, FrameStream
    from peatnet.transfer import SourceLink

# Requests out at once: enough to keep the stream full while the swarm thinks.
PIPELINE = 8
# Chunks that are being checked and written while the next is read.
WRITE_BEHIND = 6
# How often a holder that lacks something is asked again, in seconds.
POLL_INTERVAL = 0.5
# One that has all is asked too, so that an idle stream stays open and a dead one is noticed.
KEEP_ALIVE = 25.0
# How long a silent stream is waited for while chunks are out. The swarm's own timeouts act long before.
STALL_TIMEOUT = 60.0
TABLE_TIMEOUT = 30.0

_Chunk = tuple[int, bytearray, memoryview]  # index, its buffer, the filled part of that

OpenStream = Callable[[], Awaitable["FrameStream"]]


class PeerSource:
    """A peer, asked over libp2p streams.

    Args:
        peer_id: whom we ask.
        open_stream: opens a new ``/peatnet/blob/1`` stream to it; raises PeerLost.
        on_fault: called with what the peer did when it breaks the protocol in :meth:`run`.
    """

    tier = Tier.PEER
    pipeline = PIPELINE

    def __init__(
        self, peer_id: str, open_stream: OpenStream, on_fault: Callable[[str], None]
    ) -> None:
        self.name = f"peer:{peer_id}"
        self._open_stream = open_stream
        self._on_fault = on_fault

    async def table(self, hash: Hash) -> ChunkTable | None:  # noqa: A002  # as in Source
        """Ask the peer for the blob's chunk table, piece by piece.

        Returns:
            A table that is consistent in itself (its hash is the one the peer named), or None where the
            peer has no such blob. Whether it is the blob's table only a signature or the blob can tell.

        Raises:
            PeerLost: the peer went away or took longer than TABLE_TIMEOUT seconds.
            RemoteProtocolError: an answer that does not fit the question.
        """
        frames = await self._open_stream()
        try:
            with trio.fail_after(TABLE_TIMEOUT):
                return await _ask_table(frames, hash)
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
        frames = await self._open_stream()
        try:
            await _Session(frames, link).run()
        except BaseExceptionGroup as group:
            faults, _ = group.split(RemoteProtocolError)
            if faults is not None:
                self._on_fault(first_error(faults).message)
            raise
        finally:
            await frames.reset()


async def _ask_table(frames: FrameStream, blob: Hash) -> ChunkTable | None:
    await frames.send(HaveRequest(0, blob).header())
    reply, frame = await _receive(frames)
    if isinstance(reply, Refusal) and reply.number == 0:
        return None
    if not isinstance(reply, HaveReply) or reply.number != 0:
        raise RemoteProtocolError(f"{frames.peer_id}: a {type(reply).__name__} to a have request")
    n_chunks = -(-reply.size // reply.chunk_size)
    _check_bitmap(frames.peer_id, reply, frame, n_chunks)
    await frames.read_payload(frame)
    digests = bytearray()
    while len(digests) < 32 * n_chunks:
        first = len(digests) // 32
        count = min(MAX_TABLE_PIECE, n_chunks - first)
        await frames.send(TableRequest(first + 1, blob, first, count).header())
        answer, frame = await _receive(frames)
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
    return table


async def _receive(frames: FrameStream) -> tuple[Reply, Frame]:
    frame = await frames.receive(patience=STALL_TIMEOUT)
    reply = decode_reply(frame.fields)
    if isinstance(reply, Refusal) and frame.payload_length:
        raise RemoteProtocolError(f"{frames.peer_id}: a refusal with a payload")
    return reply, frame


def _check_bitmap(peer_id: str, reply: HaveReply, frame: Frame, n_chunks: int) -> None:
    """Check the length of a have reply's payload, before it is read."""
    expected = 0 if reply.full else (n_chunks + 7) // 8
    if frame.payload_length != expected:
        raise RemoteProtocolError(
            f"{peer_id}: a bitmap of {frame.payload_length} bytes for {n_chunks} chunks"
        )


class _Session:
    """One stream of one download.

    Request numbers: 0 is the standing question what the peer has; a chunk request's number is its index
    plus one, since a chunk is asked for at most once at a time on one stream.
    """

    def __init__(self, frames: FrameStream, link: SourceLink) -> None:
        self._frames = frames
        self._link = link
        self._out: set[int] = set()
        self._have_reply = trio.Event()
        self._asked = False  # what the peer has, and not answered yet
        self._holds_all = False
        chunk_size = link.table.chunk_size
        size = min(chunk_size, link.table.size)
        self._give_back, self._free = trio.open_memory_channel[bytearray](WRITE_BEHIND)
        for _ in range(WRITE_BEHIND):
            self._give_back.send_nowait(bytearray(size))
        self._filled, self._to_write = trio.open_memory_channel[_Chunk](WRITE_BEHIND)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_what_it_has)
            nursery.start_soon(self._ask_for_chunks)
            nursery.start_soon(self._read_replies)
            nursery.start_soon(self._write_chunks)

    async def _ask_what_it_has(self) -> None:
        while True:
            self._have_reply = trio.Event()
            self._asked = True
            await self._frames.send(HaveRequest(0, self._link.hash).header())
            with trio.move_on_after(STALL_TIMEOUT) as waited:
                await self._have_reply.wait()
            if waited.cancelled_caught:
                raise PeerLost(f"{self._frames.peer_id}: no answer in {STALL_TIMEOUT:.0f} s")
            await trio.sleep(KEEP_ALIVE if self._holds_all else POLL_INTERVAL)

    async def _ask_for_chunks(self) -> None:
        while True:
            index = await self._link.next_request()
            if index in self._out:
                continue  # cancelled and wanted again: the first request is still on its way
            self._out.add(index)
            request = ChunkRequest(index + 1, self._link.hash, index)
            await self._frames.send(request.header())

    async def _read_replies(self) -> None:
        while True:
            reply, frame = await _receive(self._frames)
            if isinstance(reply, ChunkReply):
                await self._take_chunk(reply, frame)
            elif isinstance(reply, HaveReply):
                await self._take_have(reply, frame)
            elif isinstance(reply, Refusal):
                self._take_refusal(reply)
            else:
                raise RemoteProtocolError(f"{self._frames.peer_id}: a table that nobody asked for")

    async def _take_have(self, reply: HaveReply, frame: Frame) -> None:
        self._expect_answer(reply.number)
        table = self._link.table
        if (reply.size, reply.chunk_size) != (table.size, table.chunk_size) or (
            reply.table_hash != table.table_hash
        ):
            # No offence: it may have the blob from another publisher, who cut it in another way, or hold
            # the table of somebody who lied to it.
            raise NoSource(f"{self._frames.peer_id}: its chunk table is not this download's")
        _check_bitmap(self._frames.peer_id, reply, frame, table.n_chunks)
        bitmap = await self._frames.read_payload(frame)
        self._link.has(None if reply.full else bitmap)
        self._holds_all = reply.full
        self._have_reply.set()

    def _expect_answer(self, number: int) -> None:
        if number != 0 or not self._asked:
            raise RemoteProtocolError(f"{self._frames.peer_id}: an answer that nobody asked for")
        self._asked = False

    def _take_refusal(self, refusal: Refusal) -> None:
        if refusal.number == 0:
            self._expect_answer(0)
            if refusal.reason == "busy":
                raise NoSource(f"{self._frames.peer_id}: busy")
            # It has nothing yet. It may get some; the question is asked again.
            self._link.has(bytes((self._link.table.n_chunks + 7) // 8))
            self._have_reply.set()
        elif (index := refusal.number - 1) in self._out:
            self._out.remove(index)
            self._link.failed(index, refusal.reason)
        else:
            raise RemoteProtocolError(f"{self._frames.peer_id}: refused what nobody asked for")

    async def _take_chunk(self, reply: ChunkReply, frame: Frame) -> None:
        index = reply.index
        if index not in self._out or reply.number != index + 1:
            raise RemoteProtocolError(f"{self._frames.peer_id}: a chunk that nobody asked for")
        if frame.payload_length != self._link.table.length_of(index):
            raise RemoteProtocolError(
                f"{self._frames.peer_id}: chunk {index} has {frame.payload_length} bytes"
            )
        buffer = await self._free.receive()
        view = memoryview(buffer)[: frame.payload_length]
        await self._frames.read_into(view)
        self._out.remove(index)
        self._filled.send_nowait((index, buffer, view))

    async def _write_chunks(self) -> None:
        """Hand what has been read to a worker thread, all of it at once: changing threads costs more than a hash."""
        async for chunk in self._to_write:
            chunks = [chunk]
            while len(chunks) < WRITE_BEHIND:
                try:
                    chunks.append(self._to_write.receive_nowait())
                except trio.WouldBlock:
                    break
            corrupt = await trio.to_thread.run_sync(self._write, chunks)
            for index, buffer, _ in chunks:
                if index in corrupt:
                    self._link.corrupt(index)
                else:
                    self._link.arrived(index)
                self._give_back.send_nowait(buffer)

    def _write(self, chunks: list[_Chunk]) -> set[int]:
        """In a worker thread: check and write; returns the chunks that are not what the table says."""
        corrupt = set()
        for index, _, view in chunks:
            try:
                self._link.write(index, view)
            except IntegrityError:
                corrupt.add(index)
        return corrupt
