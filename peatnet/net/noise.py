"""Noise as py-libp2p has it, over sockets that are read ahead.

py-libp2p reads each Noise message in two steps, its length and its body, and each step is a system call with
all of trio's scheduling around it. Here what has arrived is taken off the socket at once, and most
steps are served from memory. What was read ahead is bounded; nothing else changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from libp2p.io.abc import ReadWriteCloser
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.transport import Transport

if TYPE_CHECKING:
    from libp2p.abc import IRawConnection, ISecureConn
    from libp2p.peer.id import ID

# What one system call may bring, and so the most that is read ahead of one connection.
READ_SIZE = 256 * 1024


class ReadAhead(ReadWriteCloser):
    """A byte stream that is read in large pieces.

    Args:
        stream: the stream below; only this object reads from it.
    """

    def __init__(self, stream: ReadWriteCloser) -> None:
        self._stream = stream
        self._ahead = memoryview(b"")

    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` bytes, from memory where there are any; empty at the end of the stream."""
        if not self._ahead:
            data = await self._stream.read(READ_SIZE)
            if n is None or len(data) <= n:
                return data
            self._ahead = memoryview(data)
        end = len(self._ahead) if n is None else n
        piece, self._ahead = self._ahead[:end], self._ahead[end:]
        return bytes(piece)

    async def write(self, data: bytes) -> None:
        """As the stream below."""
        await self._stream.write(data)

    async def close(self) -> None:
        """As the stream below; what was read ahead is dropped."""
        self._ahead = memoryview(b"")
        await self._stream.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """As the stream below."""
        return self._stream.get_remote_address()


class NoiseTransport(Transport):
    """Noise over connections that are read ahead."""

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Handshake as the listener."""
        return await super().secure_inbound(_reading_ahead(conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """Handshake as the dialer, with the peer that is expected."""
        return await super().secure_outbound(_reading_ahead(conn), peer_id)


def _reading_ahead(conn: IRawConnection) -> IRawConnection:
    if isinstance(conn, RawConnection):
        conn.stream = ReadAhead(conn.stream)
    return conn
