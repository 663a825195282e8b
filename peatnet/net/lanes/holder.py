"""The holder's loop on one lane, in a worker thread.

Questions are answered, and chunks refused, as the requests are read; chunks that are wanted, and long pieces of chunk
tables, wait in a queue, of which the first one stands at the node's upload gate. While it waits there the thread waits
for whatever comes first: leave to send, another request, or news for a peer that watches. A chunk is read into the one
buffer that the lane has while it is busy, behind room for its header, and sent from there.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from peatnet.errors import PeerLost
from peatnet.net import upload_gate
from peatnet.net.blob_answers import Answer, Answers, chunk_header, refused
from peatnet.net.blob_messages import (
    ABSENT,
    MOST_URGENT,
    ChunkRequest,
    HaveRequest,
    Request,
    decode_request,
)
from peatnet.net.blob_news import LONGEST_INTERVAL, PUSH_INTERVAL, PUSHES_PER_SECOND
from peatnet.net.lanes.messages import OK
from peatnet.net.lanes.sockets import HEAD_ROOM
from peatnet.net.standing import Allowance

if TYPE_CHECKING:
    from peatnet.blobs import Hash, Store
    from peatnet.net.lanes.sockets import LaneSocket
    from peatnet.net.upload_gate import Pass, UploadGate

# Requests that wait for their turn; with more, the peer's next ones are left unread. An honest one has far fewer out.
MAX_WANTED = 64
# As on streams, see ``blob_server``.
IDLE_TIMEOUT = 120.0
QUESTION_RATE = 10.0
QUESTION_BURST = 100.0
# How long an idle lane keeps its buffer, in seconds.
KEEP_BUFFER = 1.0
# Requests that are read in a row before the thread looks whether it has something to send.
IN_A_ROW = 64


class _Piece(NamedTuple):
    """Of this blob's chunk table, as it is sent when its turn comes."""

    blob: Hash
    answer: Answer


class Holder:
    """Serves one lane. Belongs to its thread, but for ``idle_since`` and ``place_out``.

    Args:
        store: where the blobs are.
        gate: which all chunks pass.
        lane: the lane; stays the caller's.
        peer_id: whose lane it is.
        telling: the holders that have news to push, of all lanes: the more, the rarer each one pushes.

    Attributes:
        idle_since: when the last request was dealt with, on time.monotonic's clock; infinite while one is not.
    """

    def __init__(
        self,
        store: Store,
        gate: UploadGate,
        lane: LaneSocket,
        peer_id: str,
        telling: set[Holder],
    ) -> None:
        self.idle_since = time.monotonic()
        self._gate = gate
        self._lane = lane
        self._peer_id = peer_id
        self._answers = Answers(store, peer_id, gate, self._ring)
        self._questions = Allowance(QUESTION_RATE, QUESTION_BURST)
        self._deaf_until = 0.0  # it asked too many
        self._held: Request | None = None  # until all chunks of another blob have been sent
        # All of the blob that was asked for last.
        self._wanted: deque[ChunkRequest | _Piece] = deque()
        self._place: Pass | None = None  # of the first one
        self._may_go = False
        self._telling = telling
        self._news = False
        self._news_due = 0.0
        self._ended = False
        self._buffer = memoryview(bytearray())
        self._thread = 0

    def run(self) -> None:
        """Serve until the peer ends the lane or asks nothing for IDLE_TIMEOUT seconds.

        Raises:
            PeerLost: the lane ended or broke.
            RemoteProtocolError: the peer sent something that is no request.
            StorageError: a blob cannot be opened.
        """
        self._thread = threading.get_ident()
        try:
            self._lane.send(OK)
            found = False  # there is something to read; looking costs the thread its turn at the interpreter
            while True:
                if self._held is not None and not self._wanted:
                    request, self._held = self._held, None
                    self._take(request)
                if found and self._hears():
                    self._take_requests()
                self._push_news()
                if self._wanted and self._place is None:
                    self._stand_at_the_gate(self._wanted[0])
                if self._may_go:
                    self._send_first(self._wanted.popleft())
                    found = self._lane.wait(0.0, reading=self._hears())
                else:
                    found = self._lane.wait(self._patience(), reading=self._hears())
        finally:
            if self._place is not None:
                self._place.withdraw()
            self._answers.close()
            # In this order, which is the reverse of `_ring`'s: whoever comes last takes it out.
            self._ended = True
            self._telling.discard(self)
            self._buffer = memoryview(bytearray())

    # Requests.

    def _hears(self) -> bool:
        return (
            self._held is None
            and len(self._wanted) < MAX_WANTED
            and (not self._deaf_until or time.monotonic() >= self._deaf_until)
        )

    def _take_requests(self) -> None:
        """Take the request that is there, and those behind it."""
        for _ in range(IN_A_ROW):
            # A request may take long to come, and meanwhile others would wait for our place at the gate.
            if self._may_go:
                return
            fields, _ = self._lane.receive(max_payload=0)
            self.idle_since = math.inf
            request = decode_request(fields)
            if self._wanted and request.blob != self._answers.blob:
                self._held = request
            else:
                self._take(request)
            if self._may_go or not self._hears() or not self._lane.wait(0.0):
                return

    def _take(self, request: Request) -> None:
        if isinstance(request, ChunkRequest):
            refusal = self._answers.want(request)
            if refusal is None:
                self._wanted.append(request)
            else:
                self._lane.send(*refusal)
            return
        now = time.monotonic()
        self._questions.take(now)
        if isinstance(request, HaveRequest):
            self._answer(self._answers.have(request))
        else:
            piece = self._answers.table(request)
            if _size(piece) < upload_gate.WAITS_FROM:
                self._answer(piece)
            else:
                self._wanted.append(_Piece(request.blob, piece))
        self._deaf_until = now + max(
            self._questions.wait(now), self._gate.answer_wait(self._peer_id)
        )

    def _answer(self, answer: Answer) -> None:
        self._gate.charge(self._peer_id, _size(answer))
        self._lane.send(*answer)

    def _patience(self) -> float:
        """How long to wait when there is nothing to do.

        Raises:
            PeerLost: nothing has been asked for too long.
        """
        now = time.monotonic()
        if self._wanted or self._held is not None:
            left = IDLE_TIMEOUT
        else:
            if self.idle_since == math.inf:
                self.idle_since = now
            left = self.idle_since + IDLE_TIMEOUT - now
            if self._buffer.nbytes:
                # Kept for a moment: the next request may be on its way, and fresh memory costs as much as sending.
                left = self.idle_since + KEEP_BUFFER - now
                if left <= 0:
                    self._buffer = memoryview(bytearray())
                    left = IDLE_TIMEOUT - KEEP_BUFFER
            if left <= 0:
                raise PeerLost(f"asked nothing for {IDLE_TIMEOUT:.0f} s")
        for due in (self._deaf_until, self._news_due if self._news else 0.0):
            if due > now:
                left = min(left, due - now)
        return left

    # What waits for its turn.

    def _stand_at_the_gate(self, first: ChunkRequest | _Piece) -> None:
        index: int | None = None
        if isinstance(first, ChunkRequest):
            index, priority = first.index, self._answers.priority
            size = max(1, self._answers.length_of(index))
        else:
            # Nothing else is to be had before the table.
            priority, size = MOST_URGENT, _size(first.answer)
        self._place = self._gate.submit(first.blob, index, self._peer_id, priority, size, self._go)

    def _go(self) -> None:
        """Any thread: the time of the first one has come."""
        self._may_go = True
        self._ring_bell()

    @property
    def place_out(self) -> Pass | None:
        """Any thread: the pass of what is to be sent now, or is being sent, if there is anything."""
        # Looked at in this order: both are cleared before the next pass is made, so it is never one that still waits.
        place = self._place
        return place if self._may_go else None

    def _send_first(self, first: ChunkRequest | _Piece) -> None:
        try:
            if isinstance(first, ChunkRequest):
                self._send_chunk(first)
            else:
                self._lane.send(*first.answer)
            if self._place is not None:
                self._place.done(sent=True)
        finally:
            place, self._place, self._may_go = self._place, None, False
            if place is not None:
                place.withdraw()  # nothing, when it is done

    def _send_chunk(self, request: ChunkRequest) -> None:
        length = self._answers.length_of(request.index)
        if len(self._buffer) < HEAD_ROOM + length:
            self._buffer = memoryview(bytearray(HEAD_ROOM + length))
        view = self._buffer[HEAD_ROOM : HEAD_ROOM + length]
        if self._answers.read(request.index, view):
            self._lane.send_behind(chunk_header(request), self._buffer, length)
            return
        if self._place is not None:
            self._place.withdraw()
        self._lane.send(*refused(request, ABSENT))

    # News.

    def _ring(self) -> None:
        """Any thread: there may be news for a peer that watches. It may come when the lane has just ended."""
        self._news = True
        self._telling.add(self)
        if self._ended:
            self._telling.discard(self)
        self._ring_bell()

    def _ring_bell(self) -> None:
        if threading.get_ident() != self._thread:
            self._lane.wake()

    def _push_news(self) -> None:
        if not self._news or (now := time.monotonic()) < self._news_due:
            return
        self._news = False
        push = self._answers.news()
        if push is None:
            self._telling.discard(self)
            return
        # Until it is told that there is none, there may be more.
        self._news = True
        self._news_due = now + self._interval()
        self._answer(push)

    def _interval(self) -> float:
        shared = len(self._telling) / PUSHES_PER_SECOND
        return min(LONGEST_INTERVAL, max(PUSH_INTERVAL, shared))


def _size(answer: Answer) -> int:
    return memoryview(answer.payload).nbytes
