"""TLS over a blocking socket, for the end that receives chunks: the ciphertext of many records comes by one system call.

The ssl module's own socket asks the kernel for each record by itself, twice: for its five-byte head, then for its at most
16 KiB. Here TLS works on two buffers in memory, and the socket is read and written in pieces of many records. What
that is worth is in docs/performance.md.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from typing import TYPE_CHECKING

from peatnet.errors import PeerLost
from peatnet.net.lanes.filling import fill

if TYPE_CHECKING:
    from typing_extensions import Buffer

# How often a thread that waits looks at the clock; what has a deadline may take that much longer.
LOOK_AT_CLOCK = 2.0
# Received at once: at first, and as soon as more than that is wanted in one go, as by an end that gets chunks.
LITTLE = 16 * 1024
MUCH = 256 * 1024
# Where so much is still to come, the thread is woken for no less: on a slow link it would be for every few packets. Of a chunk
# of 512 KiB, all but what may be here already.
WAKE_FOR = 496 * 1024
# Of what is still to come, so much may be here already: a record that is not whole yet.
UNFINISHED = 20 * 1024


class ReceivingTls:
    """The client's end of a TLS connection. For one thread; another one may shut the socket down.

    Args:
        sock: connected; stays the caller's, who closes it.
        context: for TLS.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._raw = memoryview(bytearray(LITTLE))
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._needs_more = True  # TLS has found no whole record in what came in
        self._overflows = False  # there was more than was taken last time
        self._wakes_for = 1  # bytes from which on the socket counts as readable

    def shake_hands(self, limit: float) -> None:
        """Do the handshake within ``limit`` seconds.

        Raises:
            PeerLost: it did not succeed.
        """
        deadline = time.monotonic() + limit
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._sock.settimeout(max(0.001, deadline - time.monotonic()))
                self._flush(deadline)
                self._take_in()
            except (ssl.SSLError, ValueError) as exc:
                raise PeerLost(f"no TLS: {exc}") from exc
            if time.monotonic() > deadline:
                raise PeerLost("no TLS: the peer takes too long")
        self._block()
        self._flush(deadline)

    def _block(self) -> None:
        """Let the kernel do the waiting: under the socket module's time limits each call is two, a poll before it."""
        seconds, part = divmod(LOOK_AT_CLOCK, 1.0)
        # socket(7): a struct timeval, native longs of seconds and microseconds.
        limit = struct.pack("@ll", int(seconds), int(1e6 * part))
        try:
            self._sock.settimeout(None)
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self._sock.setsockopt(socket.SOL_SOCKET, option, limit)
        except OSError as exc:
            raise PeerLost(f"the lane broke: {exc}") from exc

    def peer_certificate(self) -> bytes:
        """What the other end has shown, in DER; empty where that was nothing."""
        return self._tls.getpeercert(binary_form=True) or b""

    def pending(self) -> bool:
        """Whether there is something to read here, without the socket."""
        return (not self._needs_more and self._incoming.pending > 0) or self._tls.pending() > 0

    def fill(self, view: memoryview, deadline: float) -> None:
        """Read the next bytes until ``view`` is full.

        Args:
            view: what is filled.
            deadline: on time.monotonic's clock.

        Raises:
            PeerLost: the connection broke or ended, or the deadline has passed.
        """
        if view.nbytes > self._raw.nbytes == LITTLE:
            self._raw = memoryview(bytearray(MUCH))

        def wait(_wanted: ssl.SSLError, missing: int) -> None:
            self._needs_more = True
            self._wait_for_more(missing, deadline)

        fill(self._tls, view, wait)
        self._wake_for(1)

    def _wake_for(self, count: int) -> None:
        """Have the socket count as readable only with so many bytes; they must be on their way."""
        count = max(1, count)
        if count != self._wakes_for:
            self._wakes_for = count
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            except OSError as exc:
                raise PeerLost(f"the lane broke: {exc}") from exc

    def _wait_for_more(self, missing: int, deadline: float) -> None:
        if self._outgoing.pending:  # TLS has something to say of its own accord
            self._flush(deadline)
        # Where bytes come faster than they are used, they are there already, and are taken without another look.
        arrived = self._overflows and self._take_in(socket.MSG_DONTWAIT)
        while True:
            # Also where something came: records without data, or a byte at a time, must not hold the thread for ever.
            if time.monotonic() > deadline:
                raise PeerLost("the peer sends too slowly")
            if arrived:
                return
            self._wake_for(min(WAKE_FOR, missing - UNFINISHED))
            arrived = self._take_in_later()

    def _take_in_later(self) -> bool:
        """Wait for as many bytes as the socket is to wake us for, and take them in; False where they did not come for long."""
        if self._wakes_for == 1:
            return self._take_in()
        # Were it left to recv, that would take what is there first, and then wait for as much again.
        if not self._poll.poll(int(1000 * LOOK_AT_CLOCK)):
            return False
        return self._take_in(socket.MSG_DONTWAIT)

    def _take_in(self, flags: int = 0) -> bool:
        """Take in what the socket has; False where nothing came for as long as the socket waits.

        Raises:
            PeerLost: the connection broke or ended.
        """
        try:
            got = self._sock.recv_into(self._raw, 0, flags)
        except (TimeoutError, BlockingIOError):
            self._overflows = False
            return False
        except OSError as exc:
            raise PeerLost(f"the lane broke: {exc}") from exc
        if not got:
            raise PeerLost("the lane ended")
        self._incoming.write(self._raw[:got])
        self._overflows = got == self._raw.nbytes
        self._needs_more = False
        return True

    def send(self, data: Buffer, deadline: float) -> None:
        """Send all of it, at once: an end that receives sends requests.

        Args:
            data: what is sent.
            deadline: on time.monotonic's clock.

        Raises:
            PeerLost: the connection broke, or the deadline has passed.
        """
        try:
            self._tls.write(data)
        except (OSError, ValueError) as exc:
            raise PeerLost(f"the lane broke: {exc}") from exc
        self._flush(deadline)

    def _flush(self, deadline: float) -> None:
        """Send what TLS has made."""
        # A buffer in memory gives bytes only as a new object.
        view = memoryview(self._outgoing.read())
        position = 0
        while position < len(view):
            try:
                with contextlib.suppress(TimeoutError, BlockingIOError):
                    position += self._sock.send(view[position:])
            except OSError as exc:
                raise PeerLost(f"the lane broke: {exc}") from exc
            if position < len(view) and time.monotonic() > deadline:
                raise PeerLost("the peer takes bytes too slowly")
