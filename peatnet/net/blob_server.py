"""The holder's side of ``/peatnet/blob/1``: answers requests for what the store has, complete or partial.

Requests on one stream are answered in order. Memory is bounded: one chunk buffer a stream, and a bounded
number of streams. What is being downloaded is served as soon as it is verified.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from peatnet.blobs import MAX_CHUNK_SIZE, Hash, Reader, Store
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
    from peatnet.net.frames import FrameStream

# A downloader holds its stream open while it waits for more chunks and asks now and then what we have; one
# that asks nothing for this long has forgotten it.
IDLE_TIMEOUT = 120.0
# Streams that one peer may hold at once, a stream a download; and all peers together. Each may hold a chunk
# buffer, so this bounds memory: 64 buffers of 1 MiB, usually.
MAX_STREAMS_PER_PEER = 16
MAX_STREAMS = 64
# When all are taken, one that has asked nothing for this long gives way: an honest downloader opens another.
GIVES_WAY_AFTER = 5.0


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


class _Session:
    """One stream's state: the reader of the blob asked for last, and a buffer for its chunks."""

    def __init__(self, store: Store, frames: FrameStream, disk: trio.CapacityLimiter) -> None:
        self._store = store
        self._frames = frames
        self._disk = disk
        self._blob: Hash | None = None
        self._reader: Reader | None = None
        self._buffer = bytearray()
        self.scope = trio.CancelScope()
        self.idle_since = trio.current_time()  # infinite while a request is answered

    async def run(self) -> None:
        try:
            while True:
                frame = await self._frames.receive(max_payload=0, patience=IDLE_TIMEOUT)
                self.idle_since = math.inf
                await self._answer(decode_request(frame.fields))
                self.idle_since = trio.current_time()
        finally:
            if self._reader is not None:
                self._reader.close()

    async def _answer(self, request: Request) -> None:
        reader = await self._reader_for(request)
        if reader is None:
            await self._frames.send(Refusal(request.number, "absent").header())
        elif isinstance(request, HaveRequest):
            await self._send_have(request, reader)
        elif isinstance(request, TableRequest):
            await self._send_table(request, reader)
        else:
            await self._send_chunk(request, reader)

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

    async def _send_have(self, request: HaveRequest, reader: Reader) -> None:
        table = reader.table
        full = reader.complete
        reply = HaveReply(request.number, table.size, table.chunk_size, table.table_hash, full)
        await self._frames.send(reply.header(), b"" if full else reader.have())

    async def _send_table(self, request: TableRequest, reader: Reader) -> None:
        digests = memoryview(reader.table.digests)
        piece = digests[request.first * 32 : (request.first + request.count) * 32]
        await self._frames.send(TableReply(request.number).header(), piece)

    async def _send_chunk(self, request: ChunkRequest, reader: Reader) -> None:
        if request.index >= reader.table.n_chunks or not reader.has(request.index):
            await self._frames.send(Refusal(request.number, "absent").header())
            return
        length = reader.table.length_of(request.index)
        if len(self._buffer) < length:
            self._buffer = bytearray(min(reader.table.chunk_size, MAX_CHUNK_SIZE))
        view = memoryview(self._buffer)[:length]
        try:
            await trio.to_thread.run_sync(reader.read_into, request.index, view, limiter=self._disk)
        except StorageError:
            # The disk failed us or the file was cut: say that we do not have it; verify finds out why.
            await self._frames.send(Refusal(request.number, "absent").header())
            return
        await self._frames.send(ChunkReply(request.number, request.index).header(), view)
