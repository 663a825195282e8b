"""The holder's side of ``/peatnet/small/1``: whole small blobs, as many as one ask names in one answer.

What an answer carries passes the node's upload gate as one piece. Memory is bounded: one answer a stream, and a bounded
number of streams.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from peatnet.blobs import Bitmap
from peatnet.concurrency import bare_errors
from peatnet.errors import NotFound, StorageError
from peatnet.net.blob_answers import Answer
from peatnet.net.blob_messages import USUAL_PRIORITY
from peatnet.net.small_stream import ASK_PAYLOAD, busy_header, give_header, read_ask
from peatnet.net.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peatnet.blobs import Store
    from peatnet.net.frames import FrameStream
    from peatnet.net.small_stream import Wanted
    from peatnet.net.upload_gate import UploadGate

# Streams of one peer, which needs one for each group that it fetches; and of all, of which each may hold an answer.
MAX_STREAMS_PER_PEER = 4
MAX_STREAMS = 32
# A downloader ends its stream when it has got what it came for. It may wait for its own limits in between.
IDLE_TIMEOUT = 30.0


class SmallServer:
    """Gives small blobs from one store to any number of peers.

    Args:
        store: where the blobs are.
        gate: which all of them pass.
    """

    def __init__(self, store: Store, gate: UploadGate) -> None:
        self._store = store
        self._gate = gate
        self._streams: Counter[str] = Counter()
        self._disk = trio.CapacityLimiter(2)

    async def serve(self, frames: FrameStream) -> None:
        """Answer one stream's asks until the peer ends it or falls silent.

        Raises:
            PeerLost: the stream ended.
            RemoteProtocolError: the peer sent something that is no ask.
        """
        peer_id = frames.peer_id
        if self._streams[peer_id] >= MAX_STREAMS_PER_PEER or self._streams.total() >= MAX_STREAMS:
            await self._receive(frames)
            await frames.send(busy_header())
            return
        self._streams[peer_id] += 1
        try:
            with bare_errors():
                async with trio.open_nursery() as nursery:
                    turns = Turns(self._gate, frames)
                    nursery.start_soon(turns.free_places)
                    while True:
                        wanted = await self._receive(frames)
                        answer = await trio.to_thread.run_sync(
                            self._answer, wanted, limiter=self._disk
                        )
                        if answer.payload:
                            await turns.send(wanted[0].blob, None, USUAL_PRIORITY, answer)
                        else:
                            await frames.send(*answer)
        finally:
            self._streams[peer_id] -= 1
            self._streams += Counter()  # drops those at zero

    async def _receive(self, frames: FrameStream) -> list[Wanted]:
        frame = await frames.receive(max_payload=ASK_PAYLOAD, patience=IDLE_TIMEOUT)
        kind = frame.fields.text("t", 16)
        return read_ask(frames.peer_id, kind, await frames.read_payload(frame))

    def _answer(self, wanted: Sequence[Wanted]) -> Answer:
        """In a worker thread: what of this is here, whole and verified."""
        buffer = memoryview(bytearray(sum(each.size for each in wanted)))
        given, filled = Bitmap(len(wanted)), 0
        for place, each in enumerate(wanted):
            if self._read(each, buffer[filled : filled + each.size]):
                given.set(place)
                filled += each.size
        return Answer(give_header(given), buffer[:filled])

    def _read(self, wanted: Wanted, view: memoryview) -> bool:
        info = self._store.info(wanted.blob)
        if info is None or info.size != wanted.size:
            return False
        try:
            reader = self._store.open_reader(wanted.blob)
            if reader is None:
                return False
            with reader:
                for index in range(reader.n_chunks):
                    reader.read_into(index, view[reader.table.offset_of(index) :])
        except (NotFound, StorageError):
            # Thrown away meanwhile, or the disk failed us: we do not have it. `verify` finds out why.
            return False
        return True
