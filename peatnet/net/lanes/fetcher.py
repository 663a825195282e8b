"""The downloader's loop on one lane, in a worker thread: sends requests, checks and writes what comes.

A chunk goes from the socket into this lane's one buffer, is hashed and written from there, and only its number goes to
trio. While the thread hashes and writes, the kernel's buffers take what the holder sends. Requests lie in a
deque that trio fills, shared by the lanes of a session: the lane that has room takes the next one.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from peatnet.errors import IntegrityError, PeerLost, RemoteProtocolError
from peatnet.net.blob_messages import (
    ChunkReply,
    ChunkRequest,
    HaveReply,
    More,
    Refusal,
    decode_reply,
)
from peatnet.net.holdings import HAVE_NUMBER, Holdings
from peatnet.net.standing import Allowance
from peatnet.net.stream_fetch import KEEP_ALIVE, STALL_TIMEOUT, TALK_BURST, TALK_RATE
from peatnet.net.wire import pack_prefix

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.net.lanes.sockets import LaneSocket
    from peatnet.transfer import SourceLink


# Where chunks come in a row, trio is told of several at once, this often, in seconds: each telling costs it as much as
# a chunk, and the lane's thread waits for the interpreter meanwhile.
IN_A_ROW = 0.010


class Kind(Enum):
    """What a lane's thread has to tell."""

    ARRIVED = auto()  # a chunk, and is on disk
    CORRUPT = auto()  # a chunk, and is not what the table says
    REFUSED = auto()  # by the peer
    FORGOTTEN = auto()  # a request that was taken back in time
    HAS = auto()  # what the peer has now
    GAINED = auto()  # what it has besides


class Report(NamedTuple):
    """One thing that happened on a lane."""

    kind: Kind
    chunk: int = -1
    reason: str = ""
    bitmap: bytes | None = None
    gained: tuple[int, ...] = ()


@dataclass(slots=True)
class Board:
    """What the lanes of one session share with trio: requests one way, reports the other.

    Attributes:
        notify: tells trio that there are reports; any thread.
        depth: requests that one lane may have out; trio changes it.
        wanted: chunks to ask for; trio appends, any lane takes.
        reports: what happened; any lane appends, trio takes.
    """

    notify: Callable[[], None]
    depth: int = 2
    wanted: deque[int] = field(default_factory=deque)
    reports: deque[Report] = field(default_factory=deque)


class Fetcher:
    """Fetches over one lane. Belongs to its thread, but where said.

    Args:
        lane: the lane; stays the caller's.
        link: the download's.
        board: shared with the session's other lanes.
        peer_id: who is at the other end.
        leads: whether this lane asks what the peer has, for all of them.

    Attributes:
        leads: that; trio may set it when the lane that led is gone.
        retiring: whether it asks for nothing more, and ends when it owes nothing; trio may set it.
        parked: whether the thread waits and has to be woken for new requests; trio reads it.
        out: chunks asked for and not answered; trio may look when the thread has ended.
    """

    def __init__(
        self, lane: LaneSocket, link: SourceLink, board: Board, peer_id: str, *, leads: bool
    ) -> None:
        self.lane = lane
        self.leads = leads
        self.retiring = False
        self.parked = False
        self.out: set[int] = set()
        self._link = link
        self._board = board
        self._peer_id = peer_id
        self._holdings = self._new_holdings()
        self._watches = leads
        self._talk = Allowance(TALK_RATE, TALK_BURST)
        self._have_due = 0.0
        self._heard_at = 0.0
        self._told_at = 0.0
        self._topped_up_to = 0  # out after the last requests
        self._buffer = memoryview(b"")  # room for a chunk, when the first one comes

    def _new_holdings(self) -> Holdings:
        return Holdings(self._peer_id, self._link.hash, self._link.table, watch=self.leads)

    def has_room(self) -> bool:
        """Whether it would take another request. Any thread."""
        return len(self.out) < self._board.depth and not self.retiring

    def run(self) -> None:
        """Fetch until the lane ends, or has retired.

        Raises:
            PeerLost: the lane broke or ended, or the peer fell silent.
            NoSource: the peer is busy, or has the blob cut into other chunks.
            RemoteProtocolError: it broke the protocol.
            DiskFull, StorageError: as raised by ``link.write``.
        """
        while self.out or not self.retiring:
            self._send_requests()
            if self._may_tell_later() and self.lane.wait(0.0):
                self._take_reply()
                continue
            self._tell()
            self.parked = True
            # Whoever adds a request looks at ``parked`` afterwards: between us none is overlooked. The look at the lane
            # above may have taken the wake-up of a change of roles.
            if (self._board.wanted and self.has_room()) or self._has_news():
                self.parked = False
                continue
            readable = self.lane.wait(self._patience())
            self.parked = False
            if readable:
                self._take_reply()
        self._tell()

    def _has_news(self) -> bool:
        """Whether trio has made it lead, or retire, and it has not followed yet."""
        begins_to_lead = self.leads and not self._watches and not self._holdings.asked
        return begins_to_lead or (self.retiring and not self.out)

    def _may_tell_later(self) -> bool:
        """Whether trio need not know of the reports yet, if chunks come in a row: not of each one, while enough are out."""
        return (
            bool(self._board.reports)
            and 2 * len(self.out) > self._topped_up_to
            and time.monotonic() < self._told_at + IN_A_ROW
        )

    def _tell(self) -> None:
        """Let trio know of the reports."""
        if self._board.reports:
            self._told_at = time.monotonic()
            self._board.notify()

    def _patience(self) -> float:
        now = time.monotonic()
        if not self.out and not self._holdings.asked:
            return max(0.0, self._have_due - now)
        left = self._heard_at + STALL_TIMEOUT - now
        if left <= 0:
            raise PeerLost(f"sent nothing for {STALL_TIMEOUT:.0f} s")
        return left

    def _send_requests(self) -> None:
        frames = []
        idle = not self.out and not self._holdings.asked
        if not self._holdings.asked:
            if self.leads and not self._watches:
                self._watches, self._holdings, self._have_due = True, self._new_holdings(), 0.0
            if time.monotonic() >= self._have_due:
                frames.append(pack_prefix(self._holdings.question(self._link.priority).header()))
        while self.has_room():
            try:
                index = self._board.wanted.popleft()
            except IndexError:
                break
            if self._link.cancelled(index):
                self._board.reports.append(Report(Kind.FORGOTTEN, index))
                continue
            self.out.add(index)
            frames.append(pack_prefix(ChunkRequest(index + 1, self._link.hash, index).header()))
        if frames:
            self._topped_up_to = len(self.out)
            if idle:
                self._heard_at = time.monotonic()  # from now on the peer is waited for
            self.lane.send_bytes(b"".join(frames))

    def _take_reply(self) -> None:
        fields, length = self.lane.receive()
        self._heard_at = time.monotonic()
        reply = decode_reply(fields)
        if isinstance(reply, ChunkReply):
            self._take_chunk(reply, length)
            return
        # It may keep this lane busy with talk, but not us.
        if (pause := self._talk.wait(time.monotonic())) > 0:
            time.sleep(pause)
        self._talk.take(time.monotonic())
        if isinstance(reply, (HaveReply, More)):
            self._holdings.expect(reply, length)
            self._take_news(reply, self.lane.read(length))
        elif isinstance(reply, Refusal):
            self._take_refusal(reply, length)
        else:
            raise RemoteProtocolError("a table that nobody asked for")

    def _take_chunk(self, reply: ChunkReply, length: int) -> None:
        index = reply.index
        if index not in self.out or reply.number != index + 1:
            raise RemoteProtocolError("a chunk that nobody asked for")
        if length != self._link.table.length_of(index):
            raise RemoteProtocolError(f"chunk {index} has {length} bytes")
        if not self._buffer:
            table = self._link.table
            self._buffer = memoryview(bytearray(min(table.chunk_size, table.size)))
        view = self._buffer[:length]
        self.lane.read_into(view)
        try:
            self._link.write(index, view)
        except IntegrityError:
            kind = Kind.CORRUPT
        else:
            kind = Kind.ARRIVED
        self.out.remove(index)
        self._board.reports.append(Report(kind, index))

    def _take_news(self, reply: HaveReply | More, payload: bytes) -> None:
        now = time.monotonic()
        if isinstance(reply, More):
            gained = self._holdings.more(reply, payload)
            news = Report(Kind.HAS) if gained is None else Report(Kind.GAINED, gained=gained)
            self._board.reports.append(news)
            return
        bitmap = self._holdings.have(reply, payload, now)
        self._have_due = now + KEEP_ALIVE
        if self.leads:
            self._board.reports.append(Report(Kind.HAS, bitmap=bitmap))

    def _take_refusal(self, refusal: Refusal, length: int) -> None:
        index = refusal.number - 1
        if length:
            raise RemoteProtocolError("a refusal with a payload")
        if refusal.number == HAVE_NUMBER:
            bitmap = self._holdings.refusal(refusal)
            self._have_due = time.monotonic() + KEEP_ALIVE
            if self.leads:
                self._board.reports.append(Report(Kind.HAS, bitmap=bitmap))
        elif index in self.out:
            self.out.remove(index)
            self._board.reports.append(Report(Kind.REFUSED, index, refusal.reason))
        else:
            raise RemoteProtocolError("refused what nobody asked for")
