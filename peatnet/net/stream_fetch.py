"""Fetching over one libp2p stream of ``/peatnet/blob/1``: the downloader's side.

Four tasks share the stream: one asks for chunks as the engine wants them, one asks now and then what the holder
has, one reads what comes, one hands chunks to a worker thread. A chunk is read into one of a few pooled
buffers; the thread checks and writes it while the next one is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from peatnet.errors import IntegrityError, PeerLost, RemoteProtocolError
from peatnet.net.blob_messages import (
    LATER,
    ChunkReply,
    ChunkRequest,
    HaveReply,
    More,
    Refusal,
    Reply,
    decode_reply,
)
from peatnet.net.holdings import HAVE_NUMBER, Holdings, Patience
from peatnet.net.standing import Allowance

if TYPE_CHECKING:
    from peatnet.net.frames import Frame, FrameStream
    from peatnet.transfer import SourceLink

# Chunks that are being checked and written while the next is read.
WRITE_BEHIND = 6
# A holder pushes what it gains. It is asked all the same, so that an idle stream stays open and a dead one is noticed.
KEEP_ALIVE = 25.0
# How long a silent stream is waited for while something is out. The swarm's own timeouts act long before.
STALL_TIMEOUT = 60.0
# Pushes and refusals of one stream that are heeded, a second and at once. With more, all that it sends has to wait:
# it may keep itself busy, but not us.
TALK_RATE = 200.0
TALK_BURST = 400.0

_Chunk = tuple[int, bytearray, memoryview]  # index, its buffer, the filled part of that


async def receive_reply(frames: FrameStream) -> tuple[Reply, Frame]:
    """The next reply or push, and the frame whose payload is to be read.

    Raises:
        PeerLost: nothing came for STALL_TIMEOUT seconds, or the stream ended.
        RemoteProtocolError: it is malformed.
    """
    frame = await frames.receive(patience=STALL_TIMEOUT)
    reply = decode_reply(frame.fields)
    if isinstance(reply, Refusal) and frame.payload_length:
        raise RemoteProtocolError(f"{frames.peer_id}: a refusal with a payload")
    return reply, frame


class StreamFetch:
    """One stream of one download.

    Args:
        frames: the stream; stays the caller's.
        link: the download's.
    """

    def __init__(self, frames: FrameStream, link: SourceLink) -> None:
        self._frames = frames
        self._link = link
        self._out: set[int] = set()
        self._holdings = Holdings(frames.peer_id, link.hash, link.table, watch=True)
        self._patience = Patience()
        self._talk = Allowance(TALK_RATE, TALK_BURST)
        self._answered = trio.Event()
        size = min(link.table.chunk_size, link.table.size)
        self._give_back, self._free = trio.open_memory_channel[bytearray](WRITE_BEHIND)
        for _ in range(WRITE_BEHIND):
            self._give_back.send_nowait(bytearray(size))
        self._filled, self._to_write = trio.open_memory_channel[_Chunk](WRITE_BEHIND)

    async def run(self) -> None:
        """Deliver chunks until cancelled. Errors come in a group.

        Raises:
            NoSource: the peer went away, is busy, or has the blob cut into other chunks.
            RemoteProtocolError: it broke the protocol.
            DiskFull, StorageError: as raised by ``link.write``.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_what_it_has)
            nursery.start_soon(self._ask_for_chunks)
            nursery.start_soon(self._read_replies)
            nursery.start_soon(self._write_chunks)

    async def _ask_what_it_has(self) -> None:
        while True:
            self._answered = trio.Event()
            question = self._holdings.question(self._link.priority)
            await self._frames.send(question.header())
            with trio.move_on_after(STALL_TIMEOUT) as waited:
                await self._answered.wait()
            if waited.cancelled_caught:
                raise PeerLost(f"{self._frames.peer_id}: no answer in {STALL_TIMEOUT:.0f} s")
            await trio.sleep(KEEP_ALIVE)

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
            reply, frame = await receive_reply(self._frames)
            if isinstance(reply, ChunkReply):
                await self._take_chunk(reply, frame)
                continue
            await trio.sleep(self._talk.wait(trio.current_time()))
            self._talk.take(trio.current_time())
            if isinstance(reply, HaveReply):
                self._holdings.expect(reply, frame.payload_length)
                bitmap = await self._frames.read_payload(frame)
                self._link.line(self._frames.round_trip())
                self._link.has(self._holdings.have(reply, bitmap, trio.current_time()))
                self._answered.set()
            elif isinstance(reply, More):
                self._holdings.expect(reply, frame.payload_length)
                self._take_more(reply, await self._frames.read_payload(frame))
            elif isinstance(reply, Refusal):
                self._take_refusal(reply)
            else:
                raise RemoteProtocolError(f"{self._frames.peer_id}: a table that nobody asked for")

    def _take_more(self, reply: More, payload: bytes) -> None:
        gained = self._holdings.more(reply, payload)
        if gained is None:
            self._link.has(None)
        else:
            self._link.gained(gained)

    def _take_refusal(self, refusal: Refusal) -> None:
        if refusal.number == HAVE_NUMBER:
            self._link.has(self._holdings.refusal(refusal))
            self._answered.set()
        elif (index := refusal.number - 1) in self._out:
            self._out.remove(index)
            if refusal.reason == LATER and self._patience.has_for(index):
                self._link.deferred(index)
            else:
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
