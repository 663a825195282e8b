"""What gossipsub's peers ask of each other beside the messages, held within bounds.

py-libp2p 0.8.1 does all that one RPC asks for in one go, without a turn for anybody else, and for ever remembers each topic
that somebody has named. So 500 KB of grafts cost seconds, of prunes tens of megabytes for good, and of wishes for one
message again and again gigabytes at once; a prune that names other peers makes the node dial them. Here an RPC is cut
down to what an honest one may ask for, which is little: each of our topics once, and some messages.

And the mesh is kept still. py-libp2p's takes in more neighbors wherever their scores are no better than they should be, which
without weights are 0 for all, drops a third of them at once when they are too many, and may not ask any of those back for a
minute. Of a fleet that started together half had no neighbor left, and heard no gossip, until then.
"""

from __future__ import annotations

from collections import defaultdict, deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from libp2p.peer.id import ID

# Of each kind, what is looked at in one RPC; an honest one has no more than a message's neighbors.
MAX_ENTRIES = 1024
# Message ids in one RPC, offered or wished for, and the longest: author and number have 46 bytes.
MAX_IDS = 2048
MAX_ID = 64
# Messages that are sent for one RPC's wishes, in bytes of all.
MAX_ANSWER = 256 * 1024
# For how long a peer may keep itself out of our mesh, in seconds.
MAX_BACK_OFF = 3600


class GuardedRouter(GossipSub):
    """GossipSub that does what is asked of it within bounds.

    Args:
        topics: ours; nothing is done about others.
        settings: as GossipSub's.
    """

    def __init__(self, topics: Iterable[str], *settings: Any, **more: Any) -> None:
        self._topics = frozenset(topics)
        super().__init__(*settings, **more)
        # Bans are ours. Its scores have no weights, and would only take in neighbors that nobody needs.
        self.scorer = None
        # It notes when each message passed, for measurements that are switched off here; and only these would forget any of it.
        self.recent_message_deliveries = defaultdict(_nothing_noted)

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        """As in py-libp2p, with what is left of the RPC."""
        left = rpc_pb2.RPC(control=self._bounded(rpc.control))
        await super().handle_rpc(left, sender_peer_id)

    def _get_peers_to_send(
        self,
        topic_ids: Iterable[str],
        msg_forwarder: ID,
        origin: ID,
        msg_id: bytes | None = None,
    ) -> Iterable[ID]:
        # Who has too few neighbors as yet tells others, too. They would not hear of it later: who is a neighbor by the next
        # heartbeat is offered nothing of what went before.
        topics = list(topic_ids)
        peers = set(super()._get_peers_to_send(topics, msg_forwarder, origin, msg_id))
        for topic in topics:
            mesh = self.mesh.get(topic, set())
            heard = self.pubsub is not None and topic in self.pubsub.peer_topics
            if heard and len(mesh) < self.degree_low:
                missing = self.degree - len(mesh)
                peers.update(self._get_in_topic_gossipsub_peers_from_minus(topic, missing, mesh))
        return peers - {msg_forwarder, origin}

    def _select_peers_for_pruning(self, topic: str, num_to_prune: int) -> list[ID]:
        # Half of those above the bound at each heartbeat, any of them: their other ends count them too, and where all drop
        # theirs down to the degree at once, some are dropped by everybody.
        excess = max(0, len(self.mesh[topic]) - self.degree_high)
        return super()._select_peers_for_pruning(topic, min(num_to_prune, (excess + 1) // 2))

    def remove_peer(self, peer_id: ID) -> None:
        """As in py-libp2p, which remembers for ever who was kept out of the mesh."""
        super().remove_peer(peer_id)
        for peers in self.back_off.values():
            peers.pop(peer_id, None)

    def _bounded(self, control: rpc_pb2.ControlMessage) -> rpc_pb2.ControlMessage:
        """Each thing once. Without hints of other peers, and without what gossipsub 1.1 has not."""
        bounded = rpc_pb2.ControlMessage()
        for topic in {each.topicID for each in islice(control.graft, MAX_ENTRIES)} & self._topics:
            bounded.graft.add(topicID=topic)
        back_offs: dict[str, int] = {}
        for prune in islice(control.prune, MAX_ENTRIES):
            if prune.topicID in self._topics:
                back_offs[prune.topicID] = min(prune.backoff, MAX_BACK_OFF)
        for topic, back_off in back_offs.items():
            bounded.prune.add(topicID=topic, backoff=back_off)
        offered = _ids(control.ihave)
        by_topic: dict[str, list[bytes]] = {}
        for message_id, topic in offered.items():
            if topic in self._topics:
                by_topic.setdefault(topic, []).append(message_id)
        for topic, message_ids in by_topic.items():
            bounded.ihave.add(topicID=topic, messageIDs=message_ids)
        if wished := self._affordable(_ids(control.iwant)):
            bounded.iwant.add(messageIDs=wished)
        return bounded

    def _affordable(self, message_ids: Iterable[bytes]) -> list[bytes]:
        """Those that we have, as many as may be sent at once."""
        affordable: list[bytes] = []
        left = MAX_ANSWER
        for message_id in message_ids:
            message = self.mcache.get(message_id)
            if message is not None:
                left -= message.ByteSize()
                if left < 0:
                    break
                affordable.append(message_id)
        return affordable


def _nothing_noted() -> Any:
    return deque(maxlen=0)


def _ids(entries: Iterable[Any]) -> dict[bytes, str]:
    """The message ids of some entries, each once, with the topic that an entry gives, if any."""
    found: dict[bytes, str] = {}
    for entry in islice(entries, MAX_ENTRIES):
        topic = getattr(entry, "topicID", "")
        for message_id in islice(entry.messageIDs, MAX_IDS - len(found)):
            if len(message_id) <= MAX_ID:
                found[message_id] = topic
    return found
