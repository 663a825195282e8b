"""The holder's side of ``/peatnet/blob/1``: answers requests for what the store has, complete or partial.

Requests on one stream are answered in order. Memory is bounded: one chunk buffer a stream, and a bounded
number of streams. What is being downloaded is served as soon as it is verified.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from peatnet.blobs import MAX_CHUNK_SIZE, Hash, Reader, Store
from peatnet.concurrency import bare_errors
from peatnet.errors import StorageError
from peatnet.net.blob_messages import (
    ChunkReply,
    ChunkRequest,
    HaveReply,
    HaveRequest,
    Refusal,
    Request,
    TableReply,
    TableRequest,
    decode_request,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from peatnet.net.frames import FrameStream

# A downloader holds its stream open while it waits for more chunks and asks now and then what we have; one
# that asks nothing for this long has forgotten it.
IDLE_TIMEOUT = 120.0
# Streams that one peer may hold at once, a stream a download; and all peers together. Each may hold
# READ_AHEAD chunks, so this bounds memory: 128 MiB at the worst, with the usual chunks of 1 MiB.
MAX_STREAMS_PER_PEER = 16
MAX_STREAMS = 64
# When all are taken, one that has asked nothing for this long gives way: an honest downloader opens another.
GIVES_WAY_AFTER = 5.0
# Chunks of one stream in memory: one that is sent, and the next.
READ_AHEAD = 2


class BlobServer:
    """Serves blobs from one store to any number of peers.

    Args:
        store: where the blobs are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sessions: dict[str, list[_Session]] = {}
        # Reads share the disk with downloads; more readers at once than this make it slower, not faster.
        self._disk = trio.CapacityLimiter(8)

    async def serve(self, frames: FrameStream) -> None:
        """Answer one stream's requests until the peer ends it or falls silent.

        Raises:
            PeerLost: the stream ended.
            RemoteProtocolError: the peer sent something that is no request.
        """
        mine = self._sessions.setdefault(frames.peer_id, [])
        if len(mine) >= MAX_STREAMS_PER_PEER or not self._make_room():
            request = decode_request((await frames.receive(max_payload=0)).fields)
            await frames.send(Refusal(request.number, "busy").header())
            return
        session = _Session(self._store, frames, self._disk)
        mine.append(session)
        try:
            with session.scope:
                await session.run()
        finally:
            mine.remove(session)
            if not mine:
                self._sessions.pop(frames.peer_id, None)

    def _make_room(self) -> bool:
        """See to it that one more stream can be served; False where all are in use."""
        sessions = [session for group in self._sessions.values() for session in group]
        if len(sessions) < MAX_STREAMS:
            return True
        idle_longest = min(sessions, key=lambda session: session.idle_since)
        if trio.current_time() - idle_longest.idle_since < GIVES_WAY_AFTER:
            return False
        idle_longest.idle_since = math.inf  # on its way out
        idle_longest.scope.cancel()
        return True


@dataclass(slots=True)
class _Answer:
    """A reply that is ready to be sent; ``buffer`` is the pooled one that its payload lies in, if it does."""

    header: dict[str, Any]
    payload: Buffer = b""
    buffer: bytearray | None = None


class _Session:
    """One stream's state: the reader of the blob asked for last, and the buffers for its chunks.

    Two tasks: one takes requests and reads what they ask for, the other sends. So the next chunk is read from disk
    while one is on its way, and memory is READ_AHEAD buffers, whatever is asked for.
    """

    def __init__(self, store: Store, frames: FrameStream, disk: trio.CapacityLimiter) -> None:
        self._store = store
        self._frames = frames
        self._disk = disk
        self._blob: Hash | None = None
        self._reader: Reader | None = None
        self._give_back, self._buffers = trio.open_memory_channel[bytearray](READ_AHEAD)
        for _ in range(READ_AHEAD):
            self._give_back.send_nowait(bytearray())
        self._unanswered = 0
        self.scope = trio.CancelScope()
        self.idle_since = trio.current_time()  # infinite while a request is answered

    async def run(self) -> None:
        ready, to_send = trio.open_memory_channel[_Answer](READ_AHEAD)
        try:
            with bare_errors():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send_answers, to_send)
                    while True:
                        frame = await self._frames.receive(max_payload=0, patience=IDLE_TIMEOUT)
                        self._unanswered += 1
                        self.idle_since = math.inf
                        await ready.send(await self._answer(decode_request(frame.fields)))
        finally:
            if self._reader is not None:
                self._reader.close()

    async def _send_answers(self, to_send: trio.MemoryReceiveChannel[_Answer]) -> None:
        async for answer in to_send:
            await self._frames.send(answer.header, answer.payload)
            if answer.buffer is not None:
                self._give_back.send_nowait(answer.buffer)
            self._unanswered -= 1
            if not self._unanswered:
                self.idle_since = trio.current_time()

    async def _answer(self, request: Request) -> _Answer:
        reader = await self._reader_for(request)
        if reader is None:
            return _Answer(Refusal(request.number, "absent").header())
        if isinstance(request, HaveRequest):
            return _have(request, reader)
        if isinstance(request, TableRequest):
            return _table(request, reader)
        return await self._chunk(request, reader)

    async def _reader_for(self, request: Request) -> Reader | None:
        # A "have" looks again: a partial blob may have become complete, or a removed one have come back.
        if request.blob != self._blob or isinstance(request, HaveRequest):
            if self._reader is not None:
                self._reader.close()
            self._reader = None
            self._reader = await trio.to_thread.run_sync(
                self._store.open_reader, request.blob, limiter=self._disk
            )
            self._blob = request.blob
        return self._reader

    async def _chunk(self, request: ChunkRequest, reader: Reader) -> _Answer:
        absent = _Answer(Refusal(request.number, "absent").header())
        if request.index >= reader.table.n_chunks or not reader.has(request.index):
            return absent
        length = reader.table.length_of(request.index)
        buffer = await self._buffers.receive()
        if len(buffer) < length:
            buffer = bytearray(min(reader.table.chunk_size, MAX_CHUNK_SIZE))
        view = memoryview(buffer)[:length]
        try:
            await trio.to_thread.run_sync(reader.read_into, request.index, view, limiter=self._disk)
        except StorageError:
            # The disk failed us or the file was cut: say that we do not have it; verify finds out why.
            self._give_back.send_nowait(buffer)
            return absent
        return _Answer(ChunkReply(request.number, request.index).header(), view, buffer)


def _have(request: HaveRequest, reader: Reader) -> _Answer:
    table = reader.table
    full = reader.complete
    reply = HaveReply(request.number, table.size, table.chunk_size, table.table_hash, full)
    return _Answer(reply.header(), b"" if full else reader.have())


def _table(request: TableRequest, reader: Reader) -> _Answer:
    digests = memoryview(reader.table.digests)
    piece = digests[request.first * 32 : (request.first + request.count) * 32]
    return _Answer(TableReply(request.number).header(), piece)
