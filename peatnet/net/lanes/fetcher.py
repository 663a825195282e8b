"""The downloader's loop on one lane, in a worker thread: sends requests, checks and writes what comes.

A chunk goes from the socket into this lane's one buffer, is hashed and written from there, and only its number goes to
trio. While the thread hashes and writes, the kernel's buffers take what the holder sends. Requests lie in a
deque that trio fills, shared by the lanes of a session: the lane that has room takes the next one.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peatnet.errors import IntegrityError, NoSource, PeerLost, RemoteProtocolError
from peatnet.net.blob_messages import (
    BUSY,
    MAX_MORE,
    ChunkReply,
    ChunkRequest,
    HaveReply,
    HaveRequest,
    More,
    Refusal,
    decode_reply,
    unpack_indices,
)
from peatnet.net.wire import pack_prefix

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.net.lanes.sockets import LaneSocket
    from peatnet.transfer import SourceLink

# As on streams, see ``peer_source``.
KEEP_ALIVE = 25.0
STALL_TIMEOUT = 60.0

Report = tuple[str, object]


@dataclass(slots=True)
class Board:
    """What the lanes of one session share with trio: requests one way, reports the other.

    Attributes:
        depth: requests that one lane may have out.
        wanted: chunks to ask for; trio appends, any lane takes.
        reports: what happened; any lane appends, trio takes.
    """

    notify: Callable[[], None]
    depth: int
    wanted: deque[int] = field(default_factory=deque)
    reports: deque[Report] = field(default_factory=deque)

    def report(self, kind: str, what: object) -> None:
        """Tell trio. Any thread."""
        self.reports.append((kind, what))
        self.notify()


class Fetcher:
    """Fetches over one lane. Belongs to its thread, but where said.

    Attributes:
        leads: whether this lane asks what the peer has; trio may set it.
        parked: whether the thread waits and has to be woken for new requests; trio reads it.
        out: chunks asked for and not answered; trio may look when the thread has ended.
    """

    def __init__(self, lane: LaneSocket, link: SourceLink, board: Board, *, leads: bool) -> None:
        self.lane = lane
        self.leads = leads
        self.parked = False
        self.out: set[int] = set()
        self._link = link
        self._board = board
        self._have_due = 0.0
        self._have_out = False
        self._heard_at = 0.0
        self._buffer = memoryview(bytearray(min(link.table.chunk_size, link.table.size)))

    def has_room(self) -> bool:
        """Whether it would take another request. Any thread."""
        return len(self.out) < self._board.depth

    def run(self) -> None:
        """Fetch until the lane ends.

        Raises:
            PeerLost: the lane broke or ended, or the peer fell silent.
            NoSource: the peer is busy, or has the blob cut into other chunks.
            RemoteProtocolError: it broke the protocol.
            DiskFull, StorageError: as raised by ``link.write``.
        """
        self._heard_at = time.monotonic()
        while True:
            self._send_requests()
            self.parked = True
            # Whoever adds a request looks at ``parked`` afterwards: between us none is overlooked.
            if self._board.wanted and self.has_room():
                self.parked = False
                continue
            readable = self.lane.wait(self._patience())
            self.parked = False
            if readable:
                self._take_reply()
                self._heard_at = time.monotonic()

    def _patience(self) -> float:
        now = time.monotonic()
        if not self.out and not self._have_out:
            return max(0.0, self._have_due - now)
        left = self._heard_at + STALL_TIMEOUT - now
        if left <= 0:
            raise PeerLost(f"sent nothing for {STALL_TIMEOUT:.0f} s")
        return left

    def _send_requests(self) -> None:
        frames = []
        if not self._have_out and time.monotonic() >= self._have_due:
            frames.append(
                pack_prefix(
                    HaveRequest(0, self._link.hash, self.leads, self._link.priority).header()
                )
            )
            self._have_out = True
            if not self.out:
                self._heard_at = time.monotonic()
        while self.has_room():
            try:
                index = self._board.wanted.popleft()
            except IndexError:
                break
            if self._link.cancelled(index):
                self._board.report("dropped", index)
                continue
            if not self.out and not self._have_out:
                self._heard_at = time.monotonic()
            self.out.add(index)
            frames.append(pack_prefix(ChunkRequest(index + 1, self._link.hash, index).header()))
        if frames:
            self.lane.send_bytes(b"".join(frames))

    def _take_reply(self) -> None:
        fields, length = self.lane.receive()
        reply = decode_reply(fields)
        if isinstance(reply, ChunkReply):
            self._take_chunk(reply, length)
        elif isinstance(reply, HaveReply):
            self._take_have(reply, length)
        elif isinstance(reply, More):
            self._take_more(reply, length)
        elif isinstance(reply, Refusal):
            self._take_refusal(reply, length)
        else:
            raise RemoteProtocolError(f"a {type(reply).__name__} that nobody asked for")

    def _take_chunk(self, reply: ChunkReply, length: int) -> None:
        index = reply.index
        if index not in self.out or reply.number != index + 1:
            raise RemoteProtocolError("a chunk that nobody asked for")
        if length != self._link.table.length_of(index):
            raise RemoteProtocolError(f"chunk {index} has {length} bytes")
        view = self._buffer[:length]
        self.lane.read_into(view)
        try:
            self._link.write(index, view)
        except IntegrityError:
            self._board.report("corrupt", index)
        else:
            self._board.report("arrived", index)
        self.out.remove(index)

    def _take_have(self, reply: HaveReply, length: int) -> None:
        self._answered(reply.number)
        table = self._link.table
        if (reply.size, reply.chunk_size) != (table.size, table.chunk_size) or (
            reply.table_hash != table.table_hash
        ):
            raise NoSource("its chunk table is not this download's")
        expected = 0 if reply.full else (table.n_chunks + 7) // 8
        if length != expected:
            raise RemoteProtocolError(f"a bitmap of {length} bytes for {table.n_chunks} chunks")
        bitmap = self.lane.read(length)
        if self.leads:
            self._board.report("has", None if reply.full else bitmap)

    def _answered(self, number: int) -> None:
        if number != 0 or not self._have_out:
            raise RemoteProtocolError("an answer that nobody asked for")
        self._have_out = False
        self._have_due = time.monotonic() + KEEP_ALIVE

    def _take_more(self, reply: More, length: int) -> None:
        if not self.leads or reply.number != 0 or length > 4 * MAX_MORE or (reply.full and length):
            raise RemoteProtocolError("news that nobody asked for")
        if reply.full:
            self._board.report("has", None)
        else:
            self._board.report("gained", unpack_indices(self.lane.read(length)))

    def _take_refusal(self, refusal: Refusal, length: int) -> None:
        if length:
            raise RemoteProtocolError("a refusal with a payload")
        index = refusal.number - 1
        if refusal.number == 0:
            self._answered(0)
            if refusal.reason == BUSY:
                raise NoSource("busy")
            if self.leads:
                # It has nothing yet. It may get some; the question is asked again.
                self._board.report("has", bytes((self._link.table.n_chunks + 7) // 8))
        elif index in self.out:
            self.out.remove(index)
            self._board.report(refusal.reason, index)
        else:
            raise RemoteProtocolError("refused what nobody asked for")
