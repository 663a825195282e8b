"""Noise as py-libp2p has it, over sockets that are read ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.transport import Transport

from peatnet.net.read_ahead import ReadAhead
from peatnet.net.tcp import QuickTcp

if TYPE_CHECKING:
    from libp2p.abc import IRawConnection, ISecureConn
    from libp2p.peer.id import ID

# What one system call may bring, and so the most that is read ahead of one connection.
READ_SIZE = 256 * 1024


class NoiseTransport(Transport):
    """Noise over connections that are read ahead."""

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Handshake as the listener."""
        quick = _reading_ahead(conn)
        return _on_top_of(quick, await super().secure_inbound(conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """Handshake as the dialer, with the peer that is expected."""
        quick = _reading_ahead(conn)
        return _on_top_of(quick, await super().secure_outbound(conn, peer_id))


def tcp_below(conn: ISecureConn) -> QuickTcp | None:
    """The connection that an encrypted one is made of; None where it is no TCP."""
    found = vars(conn).get("tcp")
    return found if isinstance(found, QuickTcp) else None


def _on_top_of(quick: QuickTcp | None, conn: ISecureConn) -> ISecureConn:
    vars(conn)["tcp"] = quick
    return conn


def _reading_ahead(conn: IRawConnection) -> QuickTcp | None:
    if not isinstance(conn, RawConnection):
        return None
    stream = conn.stream
    # One task reads, and one writes; see `muxer`.
    quick = QuickTcp(stream) if isinstance(stream, TrioTCPStream) else None
    conn.stream = ReadAhead(quick or stream, READ_SIZE)
    return quick
