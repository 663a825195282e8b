"""Frames over a blocking TLS socket, for the worker thread that owns a lane's end.

The thread waits in two places: between frames, in ``wait``, for the socket or for a wake; and within a frame, for a
few seconds at a time so that the frame's own time limit is looked at. Any other thread may do two things: wake it, and
shut the socket down, which ends whatever the thread waits for. Only the owner closes, when the thread is done.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from peatnet.errors import PeerLost, RemoteProtocolError
from peatnet.net.lanes.receiving_tls import ReceivingTls
from peatnet.net.lanes.sending_tls import SendingTls
from peatnet.net.round_trip import least_round_trip
from peatnet.net.wire import MAX_HEADER, MAX_PAYLOAD, PREFIX, Fields, pack_prefix, unpack_map

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

# As on streams, see ``frames``: the time for a frame without its payload, and the lowest rate of that.
FRAME_TIMEOUT = 20.0
LOWEST_RATE = 16 * 1024
# Bytes that the kernel holds of ours beyond what is on its way. Few, so that chunks which are "sent" have gone out on
# a slow link, and so that the next ones still can be chosen; enough that the link never runs dry meanwhile.
UNSENT = 256 * 1024
# Room for a frame's prefix and header before a payload, so that both leave as one.
HEAD_ROOM = 256


class LaneSocket:
    """One end of a lane.

    Args:
        sock: connected; becomes this object's. Closed where TLS cannot be begun.
        context: for TLS.
        server: whether we are the one that was connected to.

    Raises:
        PeerLost: the connection is gone already.

    Attributes:
        on_close: called once with this object when it is closed.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server: bool) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
            self._tls: ReceivingTls | SendingTls
            if server:  # who is connected to is who sends chunks
                self._tls = tls = SendingTls(sock, context)
                sock = tls.sock
            else:
                self._tls = ReceivingTls(sock, context)
        except (OSError, ValueError) as exc:
            sock.close()
            raise PeerLost(f"the lane broke: {exc}") from exc
        self._sock = sock
        self.on_close: Callable[[LaneSocket], None] | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._deaf_poll = select.poll()
        self._deaf_poll.register(self._sock, select.POLLRDHUP)
        self._deaf_poll.register(self._wake, select.POLLIN)
        self._lock = threading.Lock()  # over closing and what others may do meanwhile
        self._closed = False
        self._head = memoryview(bytearray(MAX_HEADER))

    # Any thread.

    def wake(self) -> None:
        """Let the thread's ``wait`` return, now or next time. Safe at any time."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._wake, 1)

    def shut(self) -> None:
        """End the connection: whatever the thread does with it raises PeerLost. Safe at any time."""
        with self._lock:
            if not self._closed:
                # An SSLSocket's own would leave the thread a socket without TLS.
                with contextlib.suppress(OSError):  # the other end was faster
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Give all up; the thread must be done. Safe to call more than once."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._sock.close()
                os.close(self._wake)
                if self.on_close is not None:
                    self.on_close(self)

    # The thread that owns it.

    def shake_hands(self, limit: float) -> None:
        """Do the TLS handshake within ``limit`` seconds.

        Raises:
            PeerLost: it did not succeed.
        """
        self._tls.shake_hands(limit)

    def round_trip(self) -> float:
        """Seconds that a packet and its answer take at least, as far as that is known; else 0."""
        return least_round_trip(self._sock)

    def peer_certificate(self) -> bytes:
        """What the other end has shown, in DER; empty where that was nothing."""
        return self._tls.peer_certificate()

    def wait(self, seconds: float, *, reading: bool = True) -> bool:
        """Wait until there is something to read (then True), or somebody woke us, or time is up.

        Args:
            seconds: how long at most; 0 only looks.
            reading: False where what there is to read is to be left there.

        Raises:
            PeerLost: the lane has ended, where we are not to find that out by reading.
        """
        if reading and self._tls.pending():
            return True
        poll = self._poll if reading else self._deaf_poll
        found = False
        for fd, _ in poll.poll(math.ceil(seconds * 1000)):
            if fd == self._wake:
                os.eventfd_read(self._wake)
            else:
                found = True
        if found and not reading:
            raise PeerLost("the lane ended")
        return found

    def receive(
        self, *, max_payload: int = MAX_PAYLOAD, limit: float = FRAME_TIMEOUT
    ) -> tuple[Fields, int]:
        """Receive a frame's header; the payload, of the length returned, must be read next.

        Raises:
            PeerLost: the lane broke or ended, or the header was not there within ``limit`` seconds.
            RemoteProtocolError: a length over its bound, or a malformed header.
        """
        deadline = time.monotonic() + limit
        self._tls.fill(self._head[: PREFIX.size], deadline)
        header_length, payload_length = PREFIX.unpack_from(self._head)
        if header_length > MAX_HEADER:
            raise RemoteProtocolError(f"a header of {header_length} bytes")
        if payload_length > max_payload:
            raise RemoteProtocolError(f"a payload of {payload_length} bytes")
        header = self._head[:header_length]
        self._tls.fill(header, deadline)
        return unpack_map(header), payload_length

    def read_into(self, view: memoryview) -> None:
        """Fill ``view`` with the next bytes of a payload.

        Raises:
            PeerLost: the lane broke, or is too slow.
        """
        self._tls.fill(view, _deadline(view.nbytes))

    def read(self, count: int) -> bytes:
        """A short payload; its length was bounded by ``receive``.

        Raises:
            PeerLost: the lane broke, or is too slow.
        """
        buffer = bytearray(count)
        self.read_into(memoryview(buffer))
        return bytes(buffer)

    def send(self, header: Mapping[str, Any], payload: Buffer = b"") -> None:
        """Send a frame with a short payload, or none.

        Raises:
            PeerLost: the lane broke, or the peer takes bytes too slowly.
        """
        body = memoryview(payload)
        self.send_bytes(b"".join((pack_prefix(header, body.nbytes), body)))

    def send_behind(self, header: Mapping[str, Any], buffer: memoryview, length: int) -> None:
        """Send a frame whose payload lies in ``buffer`` from HEAD_ROOM on; what is before it is overwritten.

        Args:
            header: the frame's.
            buffer: room for the prefix, and the payload.
            length: of the payload, in bytes.

        Raises:
            PeerLost: the lane broke, or the peer takes bytes too slowly.
        """
        prefix = pack_prefix(header, length)
        start = HEAD_ROOM - len(prefix)
        buffer[start:HEAD_ROOM] = prefix
        self.send_bytes(buffer[start : HEAD_ROOM + length])

    def send_bytes(self, data: Buffer) -> None:
        """Send whole frames, as they are.

        Raises:
            PeerLost: the lane broke, or the peer takes bytes too slowly.
        """
        view = memoryview(data)
        self._tls.send(view, _deadline(view.nbytes))


def _deadline(count: int) -> float:
    """Until when so many bytes must have gone through."""
    return time.monotonic() + FRAME_TIMEOUT + count / LOWEST_RATE
