"""What a peer may make us do with next to nothing of its own, and how it is slowed down beyond that.

A frame of yamux's has 12 bytes at the least, an RPC of gossip's one. Taking each of them is some microseconds of Python, so a few
MB/s of them fill a core. So each peer has an allowance of effort, for all its connections together, and also over a reconnection.
What is cheap to send and costly to take is paid from it, by what it costs us and not by how long it is; bytes in bulk cost
nearly nothing. Identities are cheap as well, so all peers at one address have such an allowance together, of a few peers', and a
connection that comes from there is paid from it before it is answered. Who has used it up is not punished: what it sends is not read for a moment. So it waits at its own end of the
line, and nobody else does.

The unit is what a window update takes, the cheapest frame: some 6 us, where a core of the machine that this was measured on has nothing
else to do. The others' costs are in proportion, so RATE is a tenth of such a core, about (bench/strangers.py), and BURST a second of that. Of
honest peers none came near, as was counted here while benchmarks ran: within a second at most 520 units in a fleet of nine that fetches one file, 730 where 32 nodes come together, 1,300 for
1,000 small blobs, 1,900 for a file over a stream as fast as that goes, 2,500 for 200 transfers one after the other; and all had 9,700 of BURST left
at any time. Peers with plain py-libp2p, which send a window update for nearly every read, are below half of RATE at their fastest.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_SYN,
    HEADER_SIZE,
    TYPE_DATA,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
)

from peatnet.net.remembered import MAX_REMEMBERED, Allowances

if TYPE_CHECKING:
    from peatnet.net.standing import Allowance

RATE = 10_000.0  # a second
BURST = 10_000.0
# So many times as much for all peers at one address.
AT_ADDRESS = 4.0
# Who is over it waits for no less, in seconds: a wait is not for nothing either.
SHORTEST_WAIT = 0.02

# A message of Noise's, and a frame of yamux's that carries data: the less the more it carries, half of it with so many bytes.
DATA = 1.0
HALF_AT = 512
# From so many bytes on it costs nothing: that is bulk, and what it takes us is a matter of its bytes.
BULK = 16 * 1024
# Any other one, and one that makes us answer.
CONTROL = 1.0
PING = 5.0
# A connection that is accepted: negotiation, Noise and its signatures.
CONNECTION = 400.0
# Each stream that a peer opens: its tasks, its negotiation, an answer, and the end of it all.
STREAM = 100.0
# A frame of our own protocols, on a stream that the peer has opened; see `frames`.
MESSAGE = 5.0
# A gossip RPC; what one costs more that asks for something; and each topic or message that it names. Messages have allowances of
# their own.
RPC = 1.0
ASKING = 15.0
NAMED = 0.25

_HEADER = struct.Struct(YAMUX_HEADER_FORMAT)


class Effort:
    """What one peer may make us do.

    Args:
        allowance: its own.
        address: that of all peers where it is, if that is known.
    """

    __slots__ = ("_address", "_allowance")

    def __init__(self, allowance: Allowance, address: Allowance | None) -> None:
        self._allowance = allowance
        self._address = address

    def owe(self, cost: float) -> float:
        """Note what was done for the peer; returns for how many seconds nothing more is to be done for it."""
        now = trio.current_time()
        seconds = self._allowance.owe(cost, now)
        if self._address is not None:
            seconds = max(seconds, self._address.owe(cost, now))
        return seconds if seconds >= SHORTEST_WAIT else 0.0

    async def spend(self, cost: float) -> None:
        """Note what is done for the peer, and wait until it may be. A checkpoint only where it has to be waited for."""
        if seconds := self.owe(cost):
            await trio.sleep(seconds)


class Efforts:
    """What each of all peers may make us do, and each address that they come from.

    An address is an IP address, or of IPv6 the network of 2**64 that one party has.
    """

    def __init__(self) -> None:
        self._peers = Allowances(RATE, BURST)
        self._addresses = Allowances(AT_ADDRESS * RATE, AT_ADDRESS * BURST)
        self._places: OrderedDict[str, str] = OrderedDict()  # where a peer was met last

    def met(self, peer_id: str, address: str) -> None:
        """Note where a peer is."""
        self._places[peer_id] = address
        self._places.move_to_end(peer_id)
        if len(self._places) > MAX_REMEMBERED:
            self._places.popitem(last=False)

    def of(self, peer_id: str) -> Effort:
        """That of one peer; each time the same as long as it is remembered."""
        address = self._places.get(peer_id)
        shared = self._addresses.of(address) if address is not None else None
        return Effort(self._peers.of(peer_id), shared)

    async def answer(self, address: str) -> None:
        """Wait until a connection from there is to be answered. A checkpoint only where it has to be waited for."""
        seconds = self._addresses.of(address).owe(CONNECTION, trio.current_time())
        if seconds >= SHORTEST_WAIT:
            await trio.sleep(seconds)


def cost_of_data(length: int) -> float:
    """What it costs to take so many bytes at once."""
    return DATA * HALF_AT / (HALF_AT + length) if length < BULK else 0.0


def cost_of_frame(header: bytes) -> float:
    """What a frame of yamux's costs us. One that breaks off is the last one."""
    if len(header) < HEADER_SIZE:
        return 0.0
    length: int
    _, kind, flags, _, length = _HEADER.unpack(header)
    if kind == TYPE_DATA:
        return cost_of_data(length) + (STREAM if flags & FLAG_SYN else 0.0)
    if flags & FLAG_SYN:
        return PING if kind == TYPE_PING else STREAM
    return CONTROL
