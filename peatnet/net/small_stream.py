"""Fetching many small blobs from one peer over one stream of ``/peatnet/blob/1``: the downloader's side.

Each blob is one chunk, so chunk 0 of each is asked for, without asking what the peer has first: a blob that is not
there is refused at once. Many requests are out at a time. The holder answers blob after blob and each chunk passes
its upload gate, so its rules and limits hold here as anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from peatnet.errors import PeerLost, RemoteProtocolError
from peatnet.net.blob_messages import ChunkReply, ChunkRequest, Refusal
from peatnet.net.stream_fetch import receive_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from peatnet.blobs import Hash
    from peatnet.net.frames import FrameStream

# Requests out at once: as many as a holder lets wait. Also the most bytes that are on their way unasked: 8 MiB of the
# largest small blobs.
PIPELINE = 32


class Wanted(NamedTuple):
    """A blob of one chunk: its hash, and its size in bytes."""

    blob: Hash
    size: int


class SmallStream:
    """One stream, for one list of blobs.

    Args:
        frames: the stream; stays the caller's.
        wanted: what to ask for, in this order.
        pace: waited for before each request; a limit on what is downloaded.
        take: called with the place in ``wanted`` and the bytes, of the right length, of each blob that comes; to check
            them is its to do, and what it raises ends the work.
    """

    def __init__(
        self,
        frames: FrameStream,
        wanted: Sequence[Wanted],
        pace: Callable[[], Awaitable[None]],
        take: Callable[[int, bytes], None],
    ) -> None:
        self._frames = frames
        self._wanted = wanted
        self._pace = pace
        self._take = take
        self._out: set[int] = set()
        self._room = trio.Semaphore(PIPELINE, max_value=PIPELINE)

    async def run(self) -> None:
        """Ask for all of them, and return when each has come or was refused. Errors come in a group.

        Raises:
            PeerLost: the peer went away, stopped answering, or has a longer blob under this name: it cannot know better
                while it fetches by a table that nobody signed.
            RemoteProtocolError: it broke the protocol.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask)
            for _ in self._wanted:
                await self._receive()

    async def _ask(self) -> None:
        for number, wanted in enumerate(self._wanted):
            await self._room.acquire()
            await self._pace()
            self._out.add(number)
            await self._frames.send(ChunkRequest(number, wanted.blob, 0).header())

    async def _receive(self) -> None:
        reply, frame = await receive_reply(self._frames)
        number, peer_id = reply.number, self._frames.peer_id
        if number not in self._out or not isinstance(reply, (ChunkReply, Refusal)):
            raise RemoteProtocolError(f"{peer_id}: an answer that nobody asked for")
        if isinstance(reply, ChunkReply):
            size, length = self._wanted[number].size, frame.payload_length
            if reply.index != 0:
                raise RemoteProtocolError(f"{peer_id}: chunk {reply.index}, which nobody asked for")
            if length > size:
                raise PeerLost(f"{peer_id}: its chunk 0 has {length} bytes, the blob {size}")
            data = await self._frames.read_payload(frame)
            # With fewer bytes it has the blob cut into other chunks, which is as good as a refusal.
            if length == size:
                self._take(number, data)
        self._out.remove(number)
        self._room.release()
