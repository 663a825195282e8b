"""The holder's loop on one lane, in a worker thread: takes requests, answers them in order.

Between two frames of ours it looks for new requests, so that a peer that sends them is never kept from doing so by a
full buffer; but for BACKLOG of them, of which an honest downloader has far fewer out. A chunk is read into the one
buffer that the lane has while it is busy, behind room for its header, and sent from there.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING

from peatnet.errors import PeerLost, StorageError
from peatnet.net.blob_messages import (
    ABSENT,
    ChunkReply,
    ChunkRequest,
    HaveReply,
    HaveRequest,
    Refusal,
    Request,
    TableReply,
    decode_request,
)
from peatnet.net.lanes.messages import OK
from peatnet.net.lanes.sockets import HEAD_ROOM

if TYPE_CHECKING:
    from peatnet.blobs import Hash, Reader, Store
    from peatnet.net.lanes.sockets import LaneSocket

# Requests that are read and not answered; with more, reading waits until some are.
BACKLOG = 64
# As on streams, see ``blob_server``.
IDLE_TIMEOUT = 120.0


class Holder:
    """Serves one lane. Belongs to its thread, but for ``idle_since``.

    Attributes:
        idle_since: when it answered the last request, on time.monotonic's clock; infinite while it is busy.
    """

    def __init__(self, store: Store, lane: LaneSocket) -> None:
        self.idle_since = time.monotonic()
        self._store = store
        self._lane = lane
        self._backlog: deque[Request] = deque()
        self._blob: Hash | None = None
        self._reader: Reader | None = None
        self._buffer = memoryview(bytearray())

    def run(self) -> None:
        """Serve until the peer ends the lane or asks nothing for IDLE_TIMEOUT seconds.

        Raises:
            PeerLost: the lane ended or broke.
            RemoteProtocolError: the peer sent something that is no request.
        """
        try:
            self._lane.send(OK)
            while True:
                self._take_requests()
                if self._backlog:
                    self._answer(self._backlog.popleft())
        finally:
            if self._reader is not None:
                self._reader.close()

    def _take_requests(self) -> None:
        while len(self._backlog) < BACKLOG:
            if not self._lane.wait(0.0 if self._backlog else self._patience()):
                return
            fields, _ = self._lane.receive(max_payload=0)
            self._backlog.append(decode_request(fields))
            self.idle_since = math.inf

    def _patience(self) -> float:
        """How long to wait for the next request.

        Raises:
            PeerLost: it was long enough.
        """
        now = time.monotonic()
        if self.idle_since == math.inf:
            self.idle_since = now
            self._buffer = memoryview(bytearray())
        left = self.idle_since + IDLE_TIMEOUT - now
        if left <= 0:
            raise PeerLost(f"asked nothing for {IDLE_TIMEOUT:.0f} s")
        return left

    def _answer(self, request: Request) -> None:
        reader = self._reader_for(request)
        if reader is None:
            self._lane.send(Refusal(request.number, ABSENT).header())
        elif isinstance(request, HaveRequest):
            table = reader.table
            full = reader.complete
            reply = HaveReply(request.number, table.size, table.chunk_size, table.table_hash, full)
            self._lane.send(reply.header(), b"" if full else reader.have())
        elif isinstance(request, ChunkRequest):
            self._send_chunk(request, reader)
        else:
            digests = memoryview(reader.table.digests)
            piece = digests[request.first * 32 : (request.first + request.count) * 32]
            self._lane.send(TableReply(request.number).header(), piece)

    def _reader_for(self, request: Request) -> Reader | None:
        # A "have" looks again: a partial blob may have become complete, or a removed one have come back.
        if request.blob != self._blob or isinstance(request, HaveRequest):
            if self._reader is not None:
                self._reader.close()
            self._reader = None
            self._reader = self._store.open_reader(request.blob)
            self._blob = request.blob
        return self._reader

    def _send_chunk(self, request: ChunkRequest, reader: Reader) -> None:
        if request.index < reader.table.n_chunks and reader.has(request.index):
            length = reader.table.length_of(request.index)
            if len(self._buffer) < HEAD_ROOM + length:
                self._buffer = memoryview(bytearray(HEAD_ROOM + reader.table.chunk_size))
            try:
                reader.read_into(request.index, self._buffer[HEAD_ROOM : HEAD_ROOM + length])
            except StorageError:
                pass  # say that it is not here; verify finds out why
            else:
                reply = ChunkReply(request.number, request.index)
                self._lane.send_behind(reply.header(), self._buffer, length)
                return
        self._lane.send(Refusal(request.number, ABSENT).header())
