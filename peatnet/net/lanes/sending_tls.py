"""TLS straight over a socket, for the end that sends chunks: each record goes from OpenSSL to the kernel without a copy.

The end that receives has :class:`peatnet.net.lanes.receiving_tls.ReceivingTls`, whose buffers in memory spare it two system
calls a record. Here they would spare one, and cost two copies of all that is sent (docs/performance.md).
"""

from __future__ import annotations

import math
import select
import ssl
import time
from typing import TYPE_CHECKING

from peatnet.errors import PeerLost
from peatnet.net.lanes.filling import fill

if TYPE_CHECKING:
    import socket

    from typing_extensions import Buffer

# Given to OpenSSL at once, which makes records of it. The interpreter is free meanwhile.
SEND_PIECE = 128 * 1024


class SendingTls:
    """The server's end of a TLS connection. For one thread; another one may shut the socket down.

    Args:
        sock: connected. It is of no use any more afterwards: the connection is ``self.sock``.
        context: for TLS.

    Raises:
        OSError, ValueError: the connection is gone already.

    Attributes:
        sock: the connection, to be polled, shut and closed by whoever made this. Nobody must call its own ``shutdown``,
            which takes TLS away from it before it ends; ``socket.socket.shutdown(sock, …)`` does not.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        # One that is gone fails here, while it still is the caller's: wrap_socket leaves it to the garbage collector.
        sock.getpeername()
        self.sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(self.sock, select.POLLIN)
        self._writable.register(self.sock, select.POLLOUT)

    def shake_hands(self, limit: float) -> None:
        """Do the handshake within ``limit`` seconds.

        Raises:
            PeerLost: it did not succeed.
        """
        try:
            self.sock.settimeout(limit)  # of the whole handshake, not of each step
            self.sock.do_handshake()
            self.sock.settimeout(0.0)
        except TimeoutError as exc:
            raise PeerLost("no TLS: the peer takes too long") from exc
        except (OSError, ValueError) as exc:
            raise PeerLost(f"no TLS: {exc}") from exc

    def peer_certificate(self) -> bytes:
        """What the other end has shown, in DER; empty where that was nothing."""
        return self.sock.getpeercert(binary_form=True) or b""

    def pending(self) -> bool:
        """Whether there is something to read here, without the socket."""
        return self.sock.pending() > 0

    def fill(self, view: memoryview, deadline: float) -> None:
        """Read the next bytes until ``view`` is full.

        Args:
            view: what is filled.
            deadline: on time.monotonic's clock.

        Raises:
            PeerLost: the connection broke or ended, or the deadline has passed.
        """

        def wait(wanted: ssl.SSLError, _missing: int) -> None:
            self._wait(wanted, deadline, "the peer sends too slowly")

        fill(self.sock, view, wait)

    def send(self, data: Buffer, deadline: float) -> None:
        """Send all of it.

        Args:
            data: what is sent.
            deadline: on time.monotonic's clock.

        Raises:
            PeerLost: the connection broke, or the deadline has passed.
        """
        view, position = memoryview(data), 0
        while position < view.nbytes:
            try:
                # After a wait the same bytes again, as OpenSSL has to have them. ``send`` could go on in plain text.
                position += self.sock.write(view[position : position + SEND_PIECE])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as exc:
                self._wait(exc, deadline, "the peer takes bytes too slowly")
            except (OSError, ValueError) as exc:
                raise PeerLost(f"the lane broke: {exc}") from exc

    def _wait(self, wanted: ssl.SSLError, deadline: float, slow: str) -> None:
        """Wait for what TLS wants of the socket.

        Raises:
            PeerLost: the deadline has passed; ``slow`` says what that means.
        """
        poll = self._readable if isinstance(wanted, ssl.SSLWantReadError) else self._writable
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(math.ceil(1000 * left)):
            raise PeerLost(slow)
