"""yamux with the guards that py-libp2p's lacks: writes that survive cancellation, bounds, and a pulse.

py-libp2p 0.8.1's yamux leaves seven doors open, and this module shuts them:

- A task that is cancelled while it writes leaves half a frame on the wire, and the connection is lost to all
  its streams. Here a writer task of the connection's own puts every frame on the wire whole. Control frames
  never wait, so ending, resetting and reading a stream cannot hang on a peer that takes no bytes.
- A peer that sends beyond its window fills the memory: here that ends the connection. One may open streams
  without end: here there are 64 at once.
- The window of a stream that a peer opened grows to 16 MiB. Here it stays what it is at the start, since
  inbound streams carry requests and gossip; that of our own streams grows to half of that.
- What nobody reads is bounded for each stream only. Here it is for a whole node; see ``unread``.
- Frames that are cheap to send and costly to take may come as fast as the line brings them. Here nothing more is read of a
  connection for a moment when its peer has sent too many; see ``effort``.
- Of each stream that ends while somebody reads it an event is kept as long as the connection. Here it is not.
- A peer that falls silent is never noticed. Here it is pinged, and cut off when nothing at all comes any more.
  Any byte counts as a sign of life, so a connection that is busy with a transfer is never in doubt.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    FLAG_SYN,
    GO_AWAY_NORMAL,
    HEADER_SIZE,
    TYPE_GO_AWAY,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)

from peatnet.log import get_logger
from peatnet.net.effort import cost_of_data, cost_of_frame
from peatnet.net.noise import tcp_below
from peatnet.net.quick_lock import GiveWay, QuickLock
from peatnet.net.stream_tables import Events, Streams
from peatnet.net.stream_window import limit_window
from peatnet.net.unread import Unread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from libp2p.abc import IMuxedStream, ISecureConn
    from libp2p.peer.id import ID

    from peatnet.net.effort import Effort
    from peatnet.net.unread import NodeUnread

# A peer that was silent for the first time is pinged; one that was silent for the second is given up. Busy
# machines answer late: the second leaves room for that. Who was dialled waits longer with its ping, so that one
# of the two does for both.
PING_AFTER = 8.0
DIALLED_LONGER = 1.5
DEAD_AFTER = 20.0
# How long closing waits for what is still to be written.
FLUSH_TIMEOUT = 0.5
OPEN_TIMEOUT = 10.0
# Streams that the peer has opened and that are not gone yet; one more is reset.
MAX_INBOUND_STREAMS = 64
MAX_OUTBOUND_WINDOW = 8 * 1024 * 1024
# Frames of so many bytes in all are written together.
TOGETHER = 16 * 1024
# Control frames that wait for the socket. A peer that reads nothing and makes us answer gets no further.
MAX_WAITING_FRAMES = 4096
# What may be buffered beyond the windows that were granted: frames for streams that are gone already.
WINDOW_SLACK = 1024 * 1024

log = get_logger(__name__)


@dataclass(slots=True)
class _Frame:
    data: bytes
    gone: trio.Event = field(default_factory=trio.Event)
    failed: bool = False


class Muxer(Yamux):
    """One guarded yamux connection.

    Args:
        secured_conn: the connection below, encrypted, with the peer proved.
        peer_id: the peer.
        on_violation: called with what the peer did, when no honest one could have done it.
        effort: what the peer may make us do.
        unread: what waits to be read in the whole node.
    """

    streams: Streams

    def __init__(
        self,
        secured_conn: ISecureConn,
        peer_id: ID,
        on_violation: Callable[[str], None],
        effort: Effort,
        unread: NodeUnread,
    ) -> None:
        super().__init__(secured_conn, peer_id, is_initiator=secured_conn.is_initiator)
        self._on_violation = on_violation
        self._effort = effort
        self._tcp = tcp_below(secured_conn)
        self._heard_at = trio.current_time()
        self._waiting: deque[_Frame] = deque()
        self._filled = trio.Event()
        self._writable = True
        self._ended = trio.Event()  # when it is not writable any more
        # Nothing is waited for under it.
        self.streams_lock = QuickLock()  # type: ignore[assignment]
        self.streams = Streams()
        self._unread = Unread(unread)
        self.stream_buffers = self._unread  # type: ignore[assignment]  # buffers all the same
        self.stream_events = Events(self.streams)
        self._listen(secured_conn)

    def _listen(self, secured_conn: Any) -> None:
        read_message = secured_conn.conn.read_msg
        self._read = secured_conn.read

        async def read_msg(*arguments: Any) -> bytes:
            message: bytes = await read_message(*arguments)
            self._heard_at = trio.current_time()
            # To decrypt a byte takes us no less than to take a frame.
            cost = cost_of_data(len(message))
            if cost and (seconds := self._effort.owe(cost)):
                await self._pause(seconds)
            return message

        secured_conn.conn.read_msg = read_msg
        # py-libp2p's reader takes the headers of frames from here, and what is behind them by `_read_data_body`.
        secured_conn.read = self._header_reader()

    def _header_reader(self) -> Callable[..., Awaitable[bytes]]:
        give_way = GiveWay()
        effort = self._effort
        seconds = 0.0

        async def read_header(n: int | None = None) -> bytes:
            nonlocal seconds
            await give_way.step()  # a message may carry thousands of frames
            if seconds:
                await self._pause(seconds)
            if not self._writable:
                # What is decrypted already is not looked at, or each ping of it would have the connection live 10 ms more.
                raise ConnectionClosedError("connection closed")
            header: bytes = await self._read(n)
            cost = cost_of_frame(header)
            seconds = effort.owe(cost) if cost else 0.0
            return header

        return read_header

    async def _pause(self, seconds: float) -> None:
        """Read nothing for a while, unless that is over anyway."""
        with trio.move_on_after(seconds):
            await self._ended.wait()

    def round_trip(self) -> float:
        """Seconds to the peer and back at least, as far as that is known; else 0."""
        # A ping waits for the programs at both ends, and behind what is sent before it.
        return (self._tcp.round_trip() if self._tcp is not None else 0.0) or self.rtt()

    # Life and death

    async def start(self) -> None:
        """Run the connection until it ends. Cancellation ends it."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_frames)
                await super().start()
                nursery.cancel_scope.cancel()
        finally:
            await self.abort()
            self.event_closed.set()
            self.stream_buffers.clear()  # where the reader was cancelled, nobody has

    async def abort(self) -> None:
        """Close the socket now, whatever waits for it. Never blocks; the reader ends the streams."""
        self._fail_waiting()
        with trio.CancelScope(shield=True):
            try:
                await self.secured_conn.close()
            except (BaseLibp2pError, OSError, trio.ClosedResourceError) as exc:
                log.debug("socket already closed", peer=str(self.peer_id), error=repr(exc))

    async def close(self, error_code: int = GO_AWAY_NORMAL) -> None:
        """Close in good order, within FLUSH_TIMEOUT seconds."""
        if self._writable and not self.event_shutting_down.is_set():
            self._put(struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_GO_AWAY, 0, 0, error_code))
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FLUSH_TIMEOUT):
                await self._waiting[-1].gone.wait()
        self._fail_waiting()
        await super().close(error_code)

    def _violated(self, what: str) -> None:
        self._on_violation(what)
        raise trio.TooSlowError  # the one error upon which py-libp2p's reader ends the connection

    async def _measure_rtt_loop(self) -> None:
        patience = PING_AFTER if self.is_initiator_value else DIALLED_LONGER * PING_AFTER
        # The window grows by the measured round trip time, so one ping goes out early.
        last_ping = trio.current_time() - patience + 0.5
        while not self.event_shutting_down.is_set():
            now = trio.current_time()
            if now - self._heard_at >= DEAD_AFTER:
                log.info("peer fell silent", peer=str(self.peer_id))
                await self.abort()
                return
            due = max(last_ping, self._heard_at if self._rtt else 0.0) + patience
            if now >= due:
                try:
                    await self._ping()
                except ConnectionClosedError:
                    return  # the reader ends the streams; an error from here would end it before it has
                last_ping = due = now
            await trio.sleep_until(min(max(due, now + 0.5), self._heard_at + DEAD_AFTER))

    async def _ping(self) -> None:
        self._ping_id = (self._ping_id + 1) % 2**32
        self._ping_sent_time = trio.current_time()
        header = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, self._ping_id)
        await self._write_frame(header)

    # Writing

    async def _write_frame(self, data: bytes) -> None:
        """Put a frame in line for the socket; one that carries data is waited for.

        Cancellation: the frame goes out whole all the same.

        Raises:
            ConnectionClosedError: the connection has ended.
        """
        if not self._writable:
            raise ConnectionClosedError("connection closed")
        if len(self._waiting) >= MAX_WAITING_FRAMES:
            log.info("peer takes no bytes", peer=str(self.peer_id))
            await self.abort()
            raise ConnectionClosedError("the peer takes no bytes")
        frame = self._put(data)
        if len(data) == HEADER_SIZE:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        await frame.gone.wait()
        if frame.failed:
            raise ConnectionClosedError("connection closed")

    def _put(self, data: bytes) -> _Frame:
        frame = _Frame(data)
        self._waiting.append(frame)
        self._filled.set()
        return frame

    async def _write_frames(self) -> None:
        give_way = GiveWay()
        while True:
            while not self._waiting:
                self._filled = trio.Event()
                await self._filled.wait()
            if len(self._waiting[-1].data) == HEADER_SIZE:
                # Who opens a stream, or answers and ends it, has more to say, and may say it now.
                await trio.lowlevel.checkpoint()
            await give_way.step()
            together = self._first_waiting()
            if not together:
                continue  # aborted meanwhile
            try:
                # Its time is limited. One message below for several small frames: it costs more than they do.
                await self.secured_conn.write(b"".join(frame.data for frame in together))
            except (BaseLibp2pError, OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
                log.debug("connection lost while writing", peer=str(self.peer_id), error=repr(exc))
                await self.abort()
                return
            if self._waiting:  # unless it was aborted meanwhile
                for frame in together:
                    self._waiting.popleft()
                    frame.gone.set()

    def _first_waiting(self) -> list[_Frame]:
        """The first frame, and those behind it that are small as well."""
        together: list[_Frame] = []
        length = 0
        for frame in self._waiting:
            length += len(frame.data)
            if together and length > TOGETHER:
                break
            together.append(frame)
        return together

    def _fail_waiting(self) -> None:
        self._writable = False
        self._ended.set()
        while self._waiting:
            frame = self._waiting.popleft()
            frame.failed = True
            frame.gone.set()

    # Streams

    async def open_stream(self) -> YamuxStream:
        """Open a stream. Shielded, since py-libp2p's would lose its slot when cancelled; bounded in time.

        Raises:
            MuxedStreamError: the connection has ended, or too many streams are open.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + OPEN_TIMEOUT):
            stream = await super().open_stream()
            limit_window(stream, MAX_OUTBOUND_WINDOW)
            return stream
        raise MuxedStreamError("too many streams are open")

    async def accept_stream(self) -> IMuxedStream:
        """The next stream that the peer opens; too many at once are turned away."""
        while True:
            stream = await super().accept_stream()
            if not isinstance(stream, YamuxStream):
                return stream
            if stream.stream_id not in self.streams:
                continue  # the peer has reset it already, and nobody needs to hear of it
            limit_window(stream, DEFAULT_WINDOW_SIZE)
            if self.streams.inbound <= MAX_INBOUND_STREAMS:
                return stream
            await stream.reset()
            self.streams.pop(stream.stream_id, None)
            self.stream_buffers.pop(stream.stream_id, None)
            self.stream_events.pop(stream.stream_id, None)

    def _finalize_stream_locked(self, stream: YamuxStream, *, fully_closed: bool) -> None:
        if stream.reset_received and stream.send_closed and stream.recv_closed:
            # We have reset it: nobody will read what is buffered, and py-libp2p would keep that for a minute.
            self.stream_buffers.pop(stream.stream_id, None)
        super()._finalize_stream_locked(stream, fully_closed=fully_closed)

    async def _read_data_body(self, length: int) -> bytes:
        # Called for each data frame before it is read, with nothing of it buffered yet.
        unread = self._unread
        if unread.held + length > WINDOW_SLACK:
            granted = sum(stream.target_recv_window for stream in self.streams.values())
            if unread.held + length > granted + WINDOW_SLACK:
                self._violated(f"sent {unread.held + length} bytes, beyond its windows")
        while unread.is_over(length):
            # Nothing is heard of the peer meanwhile, so this ends at DEAD_AFTER.
            await unread.change()
            if not self._writable:
                raise ConnectionClosedError("connection closed")
        unread.count(length)  # it may take its time
        try:
            # py-libp2p sets a time limit here, for each frame anew. The pulse does the same for less.
            data: bytes = await self._read(length)
        finally:
            unread.count(-length)
        if len(data) < length:
            raise ConnectionClosedError("connection closed within a frame")
        return data
