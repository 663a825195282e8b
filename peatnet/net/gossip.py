"""Gossip: three topics on gossipsub, and the guards that py-libp2p's pubsub needs.

Messages are judged before they are forwarded: what is malformed, forged or stale goes no further, and the one
who forwarded it answers for it. py-libp2p's own queues drop silently and its rate limit does so too; it is
switched off, and forwarders and authors have allowances here instead. What is over an allowance is dropped; only
a forwarder who goes far beyond it, as no honest one does, offends. What gossip loses, anti-entropy brings.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import IOException, MessageTooLarge
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.stream.exceptions import StreamError, StreamReset
from libp2p.peer.id import ID
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.validators import signature_validator
from libp2p.tools.anyio_service import background_trio_service

from peatnet.errors import PeatnetError, RemoteProtocolError
from peatnet.log import get_logger
from peatnet.net.gossip_control import GuardedRouter
from peatnet.net.gossip_reader import MAX_RPC, Desk, RpcStream
from peatnet.net.node_status import MAX_STATUS, NodeStatus
from peatnet.net.presence import MAX_PRESENCE, Presence
from peatnet.net.quick_lock import spare_turns
from peatnet.net.remembered import Allowances, Newest
from peatnet.net.sender_records import spare_sender_records
from peatnet.net.standing import Allowance, Offence
from peatnet.records import MAX_ENVELOPE

if TYPE_CHECKING:
    from libp2p.abc import INetStream
    from libp2p.pubsub.pb import rpc_pb2
    from libp2p.pubsub.rpc_queue import RpcQueue

    from peatnet.net.host import Host

RECORDS_TOPIC = "/peatnet/records/1"
PRESENCE_TOPIC = "/peatnet/presence/1"
STATUS_TOPIC = "/peatnet/status/1"

# Each holds so much while it comes. One is enough; who opens another has lost the first, and may not know it.
MAX_STREAMS_PER_PEER = 4
# News a second from one forwarder, over all topics, and the burst it may have. A fleet of 100 nodes that
# all say hello at once stays below it.
NEWS_RATE = 100.0
NEWS_BURST = 500.0
# All that one forwarder sends, repetitions included, as many as a mesh makes. Beyond this it floods.
FLOOD_RATE = 1000.0
FLOOD_BURST = 5000.0
# What we pass on, from all forwarders together: half of that, or our neighbors would take us for the one who floods.
PASS_RATE = FLOOD_RATE / 2
PASS_BURST = FLOOD_BURST / 2
# What one node may say of itself. It keeps to half of that.
PRESENCE_RATE = 1.0
PRESENCE_BURST = 20.0
STATUS_RATE = 2.0
STATUS_BURST = 20.0
# Subscriptions that one peer announces or takes back, on average a second, and the burst: three at each beginning.
CHANGE_RATE = 1.0
CHANGE_BURST = 60.0
# Time for a judgement, in which a record goes to disk.
JUDGE_TIMEOUT = 5.0
# What a sequence number has, as gossipsub says.
SEQNO_BYTES = 8
# Mesh neighbors: how many one wants, has at the least, and at the most. Each sends every message, so nearly all copies
# but the first cost a millisecond for nothing; what fewer neighbors lose, anti-entropy brings.
DEGREE, DEGREE_LOW, DEGREE_HIGH = 4, 3, 6
# For how long, in seconds, who was dropped from a mesh is not taken back. The default, a minute, is long for a node that was dropped
# by all.
BACK_OFF = 10

# The largest data of each topic's messages; and what is around it, of which an honest message has less than 200 bytes:
# author, number and key are remembered.
LARGEST = {RECORDS_TOPIC: MAX_ENVELOPE, PRESENCE_TOPIC: MAX_PRESENCE, STATUS_TOPIC: MAX_STATUS}
MAX_AROUND = 1024
# By how much an author's number may be smaller than the greatest we have heard of on a topic. Of records many come together, by several
# ways; what a node says of itself comes in order.
MAX_LATE_RECORD, MAX_LATE = 1024, 64

log = get_logger(__name__)

Judge = Callable[["ID", "rpc_pb2.Message"], Awaitable[bool]]
JudgeRecord = Callable[[str, bytes], Awaitable[bool]]
TakePresence = Callable[[str, Presence], None]
TakeStatus = Callable[[str, int, NodeStatus], None]


class _GuardedPubsub(Pubsub):
    """Pubsub in which a stranger's garbage ends a stream, not the node."""

    def __init__(
        self, host: Host, router: GuardedRouter, counter: int, nursery: trio.Nursery
    ) -> None:
        self._peatnet_host = host
        self._all = Allowances(FLOOD_RATE, FLOOD_BURST)
        self._desk = Desk(nursery, self.push_msg)
        self._news = Allowances(NEWS_RATE, NEWS_BURST)
        self._newest = Newest()
        self._changes = Allowances(CHANGE_RATE, CHANGE_BURST)
        self._passes = Allowance(PASS_RATE, PASS_BURST)
        self._readers: dict[ID, list[trio.CancelScope]] = {}
        self.judges: dict[str, Judge] = {}
        super().__init__(
            host.libp2p,
            router,
            strict_signing=True,
            max_inbound_rpc_size=MAX_RPC,
            allowed_topics=set(LARGEST),
        )
        # It starts at whole seconds, so a node restarted soon after a burst would repeat sequence numbers,
        # and its next messages would be taken for duplicates. Nor may it fall when the clock is set back: the
        # newest status of a node is the one with the greatest number.
        self.counter = max(time.time_ns(), counter)

    def is_peer_blacklisted(self, peer_id: ID) -> bool:
        # Unlike py-libp2p's own list, bans end.
        return self._peatnet_host.is_banned(str(peer_id))

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        # In the place of py-libp2p's, which verifies each signature once more and has two tasks for each judgement. Nothing
        # but cancellation comes out: it would end the node.
        forwarder = str(msg_forwarder)
        ours = forwarder == self._peatnet_host.peer_id
        try:
            if not ours and not self._admit(forwarder, msg):
                return
        except Exception as exc:  # noqa: BLE001  # malformed keys and ids raise whatever they like
            reason = f"malformed gossip message: {type(exc).__name__}"
            self._peatnet_host.offend(forwarder, Offence.MALFORMED, reason)
            return
        try:
            if ours or await self._judge(msg_forwarder, msg):
                self._mark_msg_seen(msg)
                if ours or self._passes.take(trio.current_time()):
                    await self.router.publish(msg_forwarder, msg)
        except (
            BaseLibp2pError,
            OSError,
            trio.BrokenResourceError,
            trio.ClosedResourceError,
        ) as exc:
            log.debug("gossip not forwarded", error=repr(exc))
        except Exception:  # our bug, not the forwarder's fault
            log.exception("gossip failed")

    async def _judge(self, forwarder: ID, msg: rpc_pb2.Message) -> bool:
        """Whether it may pass on; of several copies that are judged at the same time one may."""
        verdict = False
        with trio.move_on_after(JUDGE_TIMEOUT):
            verdict = await self.judges[msg.topicIDs[0]](forwarder, msg)
        if self._is_msg_seen(msg):
            return False
        if not verdict:
            self._mark_msg_seen(msg)  # another copy would be judged alike
        return verdict

    def _admit(self, forwarder: str, msg: rpc_pb2.Message) -> bool:
        """What is known without a judgement; and what depends on the forwarder, as the verdict, kept for all, must not."""
        host = self._peatnet_host
        if reason := _malformed(msg):  # before anything is made of it
            host.offend(forwarder, Offence.MALFORMED, reason)
            return False
        author = str(ID(msg.from_id))
        if (
            any(host.is_banned(peer_id) for peer_id in (forwarder, author))
            or author == host.peer_id  # we did not say that, or know it
            or self._is_msg_seen(msg)
            or not self._news.take(forwarder)
        ):
            return False
        if not signature_validator(msg):
            host.offend(forwarder, Offence.MALFORMED, "gossip with a bad signature")
            return False
        # Once we have forgotten that we have seen it, it could be sent round again; and of what an author says of itself, it
        # would use up what it may say now.
        topic = msg.topicIDs[0]
        late = MAX_LATE_RECORD if topic == RECORDS_TOPIC else MAX_LATE
        if self._newest.is_replay(topic + author, int.from_bytes(msg.seqno), late):
            self._mark_msg_seen(msg)
            return False
        return True

    def handle_subscription(self, origin_id: ID, sub_message: rpc_pb2.RPC.SubOpts) -> None:
        # Each that is new gets three tasks of py-libp2p's, for each of which all tasks are looked through.
        if self._changes.take(str(origin_id)):
            super().handle_subscription(origin_id, sub_message)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        if peer_id not in self.peers:
            # We could not write to it. It may have put itself into our mesh all the same, where nobody would look for it:
            # some such peers, and we would tell our news to nobody else.
            self.router.remove_peer(peer_id)
        super()._handle_dead_peer(peer_id)

    async def handle_sending_messages(
        self, peer_id: ID, stream: INetStream, queue: RpcQueue
    ) -> None:
        spare_turns(stream)
        await super().handle_sending_messages(peer_id, stream, queue)

    async def continuously_read_stream(self, stream: INetStream) -> None:
        peer_id = stream.muxed_conn.peer_id
        readers = self._readers.setdefault(peer_id, [])
        with trio.CancelScope() as scope:
            readers.append(scope)
            if len(readers) > MAX_STREAMS_PER_PEER:
                readers.pop(0).cancel()
            try:
                await self._read_stream(stream)
            finally:
                if scope in readers:
                    readers.remove(scope)
                    if not readers:
                        del self._readers[peer_id]
                if not self._peer_is_connected(peer_id):
                    # It was forgotten when it left; what it had said before was read on, and may have been dealt with since.
                    self._handle_dead_peer(peer_id)
        if scope.cancelled_caught:
            await stream.reset()

    async def _read_stream(self, stream: INetStream) -> None:
        peer_id = stream.muxed_conn.peer_id
        rpcs = RpcStream(stream, self._peatnet_host.efforts.of(str(peer_id)))
        try:
            while True:
                await self._take(peer_id, await rpcs.receive())
        except MessageTooLarge:
            await stream.reset()
            self._handle_dead_peer(peer_id)
        except (StreamError, IOException, RawConnError) as exc:
            log.debug("gossip stream ended", peer=str(peer_id), end=repr(exc))
        except (BaseLibp2pError, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise  # the caller's case: the stream is gone
        except Exception as exc:  # noqa: BLE001  # protobuf's DecodeError and whatever else garbage causes
            reason = f"malformed gossip: {type(exc).__name__}"
            self._peatnet_host.offend(str(peer_id), Offence.MALFORMED, reason)
            await stream.reset()

    def _admits_one_more(self, peer_id: ID) -> bool:
        """Count a message, whatever it is; False where there are too many, which is an offence.

        Raises:
            StreamReset: the peer is banned, and nothing more of what it has sent is looked at.
        """
        name, host = str(peer_id), self._peatnet_host
        if self._all.take(name):
            return True
        host.offend(name, Offence.FLOOD, "far more gossip than allowed")
        if host.is_banned(name):
            raise StreamReset(f"{name} is banned")
        return False

    async def _take(self, peer_id: ID, rpc: rpc_pb2.RPC) -> None:
        for message in rpc.publish:
            # Most messages are repetitions, and a task for each would take longer than all else does about it.
            if (
                self._admits_one_more(peer_id)
                and self._is_subscribed_to_msg(message)
                and not self._is_msg_seen(message)
            ):
                await self._desk.bring(peer_id, message)
        if not self._peer_is_connected(peer_id):
            return  # its messages count all the same; but nobody would take it out of our topics and meshes again
        if len(rpc.subscriptions) <= self.max_subscriptions_per_rpc:
            for subscription in rpc.subscriptions:
                self.handle_subscription(peer_id, subscription)
        if rpc.HasField("control"):
            await self.router.handle_rpc(rpc, peer_id)


def _malformed(msg: rpc_pb2.Message) -> str | None:
    """What is wrong with a message, of what can be told by looking at its lengths."""
    if len(msg.topicIDs) != 1:
        return f"gossip on {len(msg.topicIDs)} topics"
    if len(msg.seqno) != SEQNO_BYTES:
        return f"gossip with a number of {len(msg.seqno)} bytes"
    size, data_size = msg.ByteSize(), len(msg.data)
    if data_size > LARGEST[msg.topicIDs[0]] or size - data_size > MAX_AROUND:
        return f"gossip of {size} bytes, {data_size} of them data"
    return None


class Gossip:
    """Our topics. Made by :func:`open_gossip`."""

    def __init__(
        self,
        host: Host,
        pubsub: Pubsub,
        judge_record: JudgeRecord,
        take_presence: TakePresence,
        take_status: TakeStatus,
    ) -> None:
        self._host = host
        self._pubsub = pubsub
        self._judge_record = judge_record
        self._take_presence = take_presence
        self._take_status = take_status
        self._authors = Allowances(PRESENCE_RATE, PRESENCE_BURST)
        self._status_authors = Allowances(STATUS_RATE, STATUS_BURST)

    async def publish_record(self, envelope: bytes) -> None:
        """Announce a record to the mesh. That nobody hears it is no error: anti-entropy delivers."""
        await self._pubsub.publish(RECORDS_TOPIC, envelope)

    async def publish_presence(self, presence: Presence) -> None:
        """Tell the mesh about ourselves."""
        await self._pubsub.publish(PRESENCE_TOPIC, presence.encode())

    async def publish_status(self, status: NodeStatus) -> None:
        """Tell the mesh how we are; the status must be bounded."""
        await self._pubsub.publish(STATUS_TOPIC, status.encode())

    async def judge_record_message(self, forwarder: ID, message: rpc_pb2.Message) -> bool:
        """Of a record: True lets the message pass on."""
        try:
            return await self._judge_record(str(forwarder), message.data)
        except PeatnetError as exc:
            log.error("record not kept", reason=exc.message)  # noqa: TRY400  # our disk, one line is enough
            return False

    async def judge_presence_message(self, forwarder: ID, message: rpc_pb2.Message) -> bool:
        """Of a presence: True lets the message pass on."""
        peer_id = str(forwarder)
        # Strict signing has proved that this peer wrote it.
        author = str(ID(message.from_id))
        if not self._authors.take(author):
            return False
        try:
            presence = Presence.decode(message.data)
        except RemoteProtocolError as exc:
            self._host.offend(peer_id, Offence.MALFORMED, f"presence: {exc.message}")
            return False
        self._take_presence(author, presence)
        return True

    async def judge_status_message(self, forwarder: ID, message: rpc_pb2.Message) -> bool:
        """Of a node's status: True lets the message pass on."""
        peer_id = str(forwarder)
        author = str(ID(message.from_id))
        if not self._status_authors.take(author):
            return False
        try:
            status = NodeStatus.decode(message.data)
        except RemoteProtocolError as exc:
            self._host.offend(peer_id, Offence.MALFORMED, f"status: {exc.message}")
            return False
        self._take_status(author, int.from_bytes(message.seqno), status)
        return True


@asynccontextmanager
async def open_gossip(
    host: Host,
    judge_record: JudgeRecord,
    take_presence: TakePresence,
    take_status: TakeStatus,
    counter: int = 0,
) -> AsyncIterator[Gossip]:
    """Run gossip on a host for as long as the context lasts.

    Args:
        host: a running host.
        judge_record: takes (forwarder, envelope); returns whether it may pass on.
        take_presence: takes (sender, presence).
        take_status: takes (sender, sequence number, status).
        counter: where our sequence numbers begin at the least.
    """
    spare_sender_records()
    router = GuardedRouter(
        LARGEST,
        # Not 1.2: its IDONTWANT, an RPC to each mesh neighbor for each message, costs more than the small messages
        # that it saves.
        ["/meshsub/1.1.0"],
        degree=DEGREE,
        degree_low=DEGREE_LOW,
        degree_high=DEGREE_HIGH,
        adaptive_gossip_enabled=False,
        heartbeat_interval=1,  # the default is 120 s
        prune_back_off=BACK_OFF,
        spam_protection_enabled=False,
    )
    async with AsyncExitStack() as stack:
        # Around pubsub, and ended when that has ended, which takes a while.
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        pubsub = _GuardedPubsub(host, router, counter, nursery)
        gossip = Gossip(host, pubsub, judge_record, take_presence, take_status)
        pubsub.judges = {
            RECORDS_TOPIC: gossip.judge_record_message,
            PRESENCE_TOPIC: gossip.judge_presence_message,
            STATUS_TOPIC: gossip.judge_status_message,
        }
        await stack.enter_async_context(background_trio_service(pubsub))
        await stack.enter_async_context(background_trio_service(router))
        await pubsub.wait_until_ready()
        for topic in LARGEST:
            await pubsub.subscribe(topic)  # to be in its mesh; the judges see every message
        yield gossip
