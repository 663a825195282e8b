"""TCP connections of py-libp2p's, read and written with one system call each where that will do.

trio tries a system call, waits when it cannot be done yet, tries again, and gives all other tasks their turn in any case. Most
of what goes over these connections are single small messages: there the first try to read is in vain, and a message that
is to be written goes into the kernel's buffer at once.
"""

from __future__ import annotations

import os
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

import trio
from libp2p.io.abc import ReadWriteCloser

from peatnet.net.round_trip import least_round_trip

if TYPE_CHECKING:
    from libp2p.io.trio import TrioTCPStream

# Who has just brought so much is likely to have more by now.
MUCH = 16 * 1024
# A connection whose socket has not taken one message within this time is given up.
WRITE_TIMEOUT = 20.0


def remote_address(stream: TrioTCPStream) -> tuple[str, int] | None:
    """Where the other end is; None where the connection has ended. py-libp2p knows that of IPv4 only."""
    try:
        host, port, *_ = stream.stream.socket.getpeername()
    except OSError:
        return None
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        host = str(address.ipv4_mapped)  # on a socket that takes both
    return host, port


def party(host: str) -> str:
    """Whose an IP address is: of IPv6, whoever has one has 2**64."""
    address = ip_address(host)
    return host if address.version == 4 else str(IPv6Network((int(address) >> 64 << 64, 64)))


class QuickTcp(ReadWriteCloser):
    """One connection. For one reader and one writer, who gives way to other tasks by itself.

    Args:
        stream: the connection; what cannot be done at once is left to it, and so are all errors.
    """

    def __init__(self, stream: TrioTCPStream) -> None:
        self._stream = stream
        self._socket = stream.stream.socket
        self._much = False
        self._remote: tuple[str, int] | None = None

    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` bytes when there are any; empty at the end of the stream. Always a checkpoint."""
        if self._much:
            await trio.lowlevel.checkpoint()
        else:
            fd = self._socket.fileno()
            if fd < 0:
                await trio.lowlevel.checkpoint()
                return b""  # closed here
            try:
                await trio.lowlevel.wait_readable(fd)
            except trio.ClosedResourceError:
                return b""
        try:
            data = os.read(self._socket.fileno(), n if n is not None else MUCH)
        except OSError:
            data = await self._stream.read(n)
        self._much = len(data) >= MUCH
        return data

    async def write(self, data: bytes) -> None:
        """Write all of it; a checkpoint only where it has to be waited for.

        Raises:
            TooSlowError: the peer has not taken it within WRITE_TIMEOUT seconds.
        """
        try:
            written = os.write(self._socket.fileno(), data)
        except OSError:
            written = 0
        if written < len(data):
            with trio.fail_after(WRITE_TIMEOUT):
                await self._stream.write(data[written:])

    def round_trip(self) -> float:
        """Seconds that a packet and its answer took at least of late; 0 where that is not known."""
        return least_round_trip(self._socket)

    async def close(self) -> None:
        """As py-libp2p's."""
        await self._stream.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Where the other end is, or was."""
        self._remote = self._remote or remote_address(self._stream)
        return self._remote
