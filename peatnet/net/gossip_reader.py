"""Reads what peers say by gossip: RPC after RPC, each for what it costs us, and no faster than it is dealt with.

py-libp2p's own reader takes whatever comes, and starts a task for each message: an RPC of a byte costs as much as one that says
something, and thousands of tasks may be at work at once. Here each RPC is paid for (see ``effort``), and of the messages of one
peer, and of all, so many are judged at a time. The next one waits, and with it the RPC that has brought it and the
stream of that: nothing is dropped for that reason, and the peer's own window holds it back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from peatnet.net.effort import ASKING, NAMED, RPC
from peatnet.net.peer_places import PeerPlaces
from peatnet.net.read_ahead import ReadAhead

if TYPE_CHECKING:
    import trio
    from libp2p.abc import INetStream
    from libp2p.peer.id import ID

    from peatnet.net.effort import Effort

# A whole RPC may carry several messages; gossipsub's control messages are small.
MAX_RPC = 512 * 1024
# Read of one stream at once, at the most.
READ_SIZE = 64 * 1024
# Messages that are judged at once, of one peer and in all.
MAX_JUDGED_PER_PEER = 32
MAX_JUDGED = 256

Judge = Callable[["ID", "rpc_pb2.Message"], Awaitable[None]]


class Desk:
    """Where messages are judged, each in a task of its own, so many at once.

    Args:
        nursery: whose tasks they are.
        judge: takes (forwarder, message); raises nothing.
    """

    def __init__(self, nursery: trio.Nursery, judge: Judge) -> None:
        self._nursery = nursery
        self._judge = judge
        self._places = PeerPlaces(MAX_JUDGED_PER_PEER, MAX_JUDGED)

    async def bring(self, forwarder: ID, message: rpc_pb2.Message) -> None:
        """Have a message judged soon; waits where too many are judged already."""
        name = str(forwarder)
        await self._places.take(name)
        self._nursery.start_soon(self._judge_one, name, forwarder, message)

    async def _judge_one(self, name: str, forwarder: ID, message: rpc_pb2.Message) -> None:
        try:
            await self._judge(forwarder, message)
        finally:
            self._places.give_back(name)


class RpcStream:
    """A peer's RPCs.

    Args:
        stream: on which they come; only this object reads from it.
        effort: what the peer may make us do.
    """

    def __init__(self, stream: INetStream, effort: Effort) -> None:
        self._ahead = ReadAhead(stream, READ_SIZE)
        self._effort = effort

    async def receive(self) -> rpc_pb2.RPC:
        """The next one, once it may be dealt with.

        Raises:
            BaseLibp2pError: the stream has ended, or brings an RPC that is too large.
            DecodeError: of protobuf's, or whatever else garbage causes.
        """
        data = await read_varint_prefixed_bytes_limited(self._ahead, MAX_RPC)
        rpc = rpc_pb2.RPC.FromString(data)
        await self._effort.spend(cost_of_rpc(rpc))
        return rpc


def cost_of_rpc(rpc: rpc_pb2.RPC) -> float:
    """What it takes us to deal with an RPC, but for the messages in it."""
    if not rpc.HasField("control"):
        return RPC + NAMED * len(rpc.subscriptions)
    asked = rpc.control
    with_ids: list[Any] = [*asked.ihave, *asked.iwant]
    named = len(rpc.subscriptions) + len(asked.graft) + len(asked.prune) + len(with_ids)
    named += sum(len(entry.messageIDs) for entry in with_ids)
    return RPC + ASKING + NAMED * named
