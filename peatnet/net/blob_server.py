"""The holder's side of ``/peatnet/blob/1`` on libp2p streams: answers for what the store has, complete or partial.

Questions are answered as they come; chunks one after the other, in the order in which they were asked for, each
through the node's upload gate, as are long pieces of chunk tables. Memory is bounded: a few chunk buffers a stream, and
a bounded number of streams.
What is being downloaded is served as soon as it is verified, and told to those who watch.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import trio

from peatnet.concurrency import bare_errors
from peatnet.net import upload_gate
from peatnet.net.blob_answers import Answer, Answers, chunk_header, refused
from peatnet.net.blob_messages import (
    ABSENT,
    BUSY,
    MOST_URGENT,
    ChunkRequest,
    HaveRequest,
    Request,
    decode_request,
)
from peatnet.net.blob_news import Bell, Newsroom
from peatnet.net.standing import Allowance
from peatnet.net.turns import Turns
from peatnet.net.upload_gate import UploadGate

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.blobs import Store
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
# Requests for chunks that wait; with more, the peer's next requests are left unread.
MAX_WANTED = 32
# Questions (have, table) of one stream that are answered, a second and at once; more have to wait. A table of the
# most chunks that there can be takes 32. How many bytes the answers to one peer may have is the gate's to say.
QUESTION_RATE = 10.0
QUESTION_BURST = 100.0

R = TypeVar("R", bound=Request)
A = TypeVar("A")


class BlobServer:
    """Serves blobs from one store to any number of peers.

    Args:
        store: where the blobs are.
        gate: which all chunks pass; None for one of its own, without limits.
    """

    def __init__(self, store: Store, gate: UploadGate | None = None) -> None:
        self._store = store
        self._gate = gate or UploadGate()
        self._newsroom = Newsroom()
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
            await frames.send(*refused(request, BUSY))
            return
        answers = partial(Answers, self._store, frames.peer_id, self._gate)
        session = _Session(answers, self._gate, self._newsroom, frames, self._disk)
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


class _Ready(NamedTuple):
    """A chunk that was asked for, its buffer, and what of that is filled; None where it is not here any more."""

    request: ChunkRequest
    buffer: bytearray
    view: memoryview | None


class _Session:
    """One stream.

    Tasks: one takes requests, answers questions and refuses what it must, at once; one reads the chunks that are
    wanted from disk; one sends them, so that the next is read while one is on its way; one pushes news. Invariant:
    ``_unsent`` chunks are wanted and have not been answered, all of the blob that was asked for last.
    """

    def __init__(
        self,
        make_answers: Callable[[Callable[[], None]], Answers],
        gate: UploadGate,
        newsroom: Newsroom,
        frames: FrameStream,
        disk: trio.CapacityLimiter,
    ) -> None:
        self._bell = Bell()
        self._answers = make_answers(self._bell.ring)
        self._gate = gate
        self._newsroom = newsroom
        self._frames = frames
        self._peer_id = frames.peer_id
        self._disk = disk
        self._turns = Turns(gate, frames)
        # Held from asking for news until they are sent, so that they go out in their order.
        self._telling = trio.Lock()
        self._questions = Allowance(QUESTION_RATE, QUESTION_BURST)
        self._unsent = 0
        self._all_sent = trio.Event()
        self.scope = trio.CancelScope()
        self.idle_since = trio.current_time()  # infinite while a request is answered

    async def run(self) -> None:
        want, wanted = trio.open_memory_channel[ChunkRequest](MAX_WANTED)
        ready, to_send = trio.open_memory_channel[_Ready](READ_AHEAD)
        give_back, buffers = trio.open_memory_channel[bytearray](READ_AHEAD)
        for _ in range(READ_AHEAD):
            give_back.send_nowait(bytearray())
        try:
            with bare_errors():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read_chunks, wanted, buffers, ready)
                    nursery.start_soon(self._send_chunks, to_send, give_back)
                    nursery.start_soon(self._newsroom.tell, self._bell, self._push)
                    nursery.start_soon(self._turns.free_places)
                    while True:
                        frame = await self._frames.receive(max_payload=0, patience=IDLE_TIMEOUT)
                        self.idle_since = math.inf
                        await self._take(decode_request(frame.fields), want)
                        self._note_idle()
        finally:
            self._answers.close()

    async def _take(self, request: Request, want: trio.MemorySendChannel[ChunkRequest]) -> None:
        answers = self._answers
        if request.blob != answers.blob:
            while self._unsent:
                await self._all_sent.wait()
        cold = answers.cold_for(request)
        if isinstance(request, ChunkRequest):
            refusal = await self._run(answers.want, request, cold=cold)
            if refusal is not None:
                await self._frames.send(*refusal)
                return
            if not self._unsent:
                self._all_sent = trio.Event()
            self._unsent += 1
            await want.send(request)
            return
        now = trio.current_time()
        await trio.sleep(max(self._questions.wait(now), self._gate.answer_wait(self._peer_id)))
        self._questions.take(trio.current_time())
        if isinstance(request, HaveRequest):
            async with self._telling:
                await self._answer(await self._run(answers.have, request, cold=cold))
            return
        answer = await self._run(answers.table, request, cold=cold)
        if _size(answer) < upload_gate.WAITS_FROM:
            await self._answer(answer)
        else:
            # Nothing else is to be had before the table.
            await self._turns.send(request.blob, None, MOST_URGENT, answer)

    async def _answer(self, answer: Answer) -> None:
        self._gate.charge(self._peer_id, _size(answer))
        await self._frames.send(*answer)

    async def _run(self, answer: Callable[[R], A], request: R, *, cold: bool) -> A:
        """Answer here, or, where that needs the disk, in a worker thread."""
        if cold:
            return await trio.to_thread.run_sync(answer, request, limiter=self._disk)
        return answer(request)

    async def _push(self) -> bool:
        """Send the next push, if there is one, and say whether there was."""
        async with self._telling:
            news = self._answers.news
            push = await trio.to_thread.run_sync(news) if self._answers.cold else news()
            if push is not None:
                await self._answer(push)
        return push is not None

    async def _read_chunks(
        self,
        wanted: trio.MemoryReceiveChannel[ChunkRequest],
        buffers: trio.MemoryReceiveChannel[bytearray],
        ready: trio.MemorySendChannel[_Ready],
    ) -> None:
        async for request in wanted:
            length = self._answers.length_of(request.index)
            buffer = await buffers.receive()
            if len(buffer) < length:
                buffer = bytearray(length)
            view = memoryview(buffer)[:length]
            here = await trio.to_thread.run_sync(
                self._answers.read, request.index, view, limiter=self._disk
            )
            await ready.send(_Ready(request, buffer, view if here else None))

    async def _send_chunks(
        self,
        to_send: trio.MemoryReceiveChannel[_Ready],
        give_back: trio.MemorySendChannel[bytearray],
    ) -> None:
        async for request, buffer, view in to_send:
            if view is None:
                await self._frames.send(*refused(request, ABSENT))
            else:
                await self._send_chunk(request, view)
            give_back.send_nowait(buffer)
            self._unsent -= 1
            if not self._unsent:
                self._all_sent.set()
                self._note_idle()

    async def _send_chunk(self, request: ChunkRequest, view: memoryview) -> None:
        chunk = Answer(chunk_header(request), view)
        await self._turns.send(request.blob, request.index, self._answers.priority, chunk)

    def _note_idle(self) -> None:
        if not self._unsent:
            self.idle_since = trio.current_time()


def _size(answer: Answer) -> int:
    return memoryview(answer.payload).nbytes
