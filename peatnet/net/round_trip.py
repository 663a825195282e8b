"""How far the other end of a TCP connection is, as the kernel has measured it.

The kernel answers packets itself, so that is the network's time alone, however busy the programs at both ends are.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Protocol

# Of the lowest round trip of the last minutes, in microseconds, in Linux's ``struct tcp_info`` (linux/tcp.h: tcpi_min_rtt,
# since 4.6). Before anything was measured it is the largest number that there is.
_MIN_RTT = struct.Struct("=I")
_OFFSET = 148
_UNKNOWN = 0xFFFF_FFFF


class Asked(Protocol):
    """What is asked for it: a socket of the standard library's, or of trio's."""

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes:
        """As in ``socket``."""
        ...


def least_round_trip(sock: Asked) -> float:
    """Seconds that a packet and its answer took at least of late; 0 where that is not known, as on other systems."""
    if not sys.platform.startswith("linux"):
        return 0.0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _OFFSET + _MIN_RTT.size)
    except OSError:
        return 0.0  # the connection is gone, which whoever reads it finds out
    if len(info) < _OFFSET + _MIN_RTT.size:
        return 0.0
    (microseconds,) = _MIN_RTT.unpack_from(info, _OFFSET)
    return 0.0 if microseconds == _UNKNOWN else microseconds / 1e6


def nearest(*round_trips: float) -> float:
    """The least of several round trips to one peer, of those that are known; 0 where none is."""
    return min((seconds for seconds in round_trips if seconds > 0), default=0.0)
