"""What one RPC of gossipsub's may ask for, however often it does."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any

import trio
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2

from peatnet.net import gossip_control
from peatnet.net.gossip_control import GuardedRouter

if TYPE_CHECKING:
    import pytest

TOPICS = ("/one", "/two")
PEER = ID(b"\x00\x24\x08\x01\x12\x20" + bytes(32))


class Router(GuardedRouter):
    """Writes down what it says to whom, and whom it would dial."""

    def __init__(self) -> None:
        super().__init__(TOPICS, ["/meshsub/1.1.0"], 4, 3, 6)
        self.mesh = {topic: set() for topic in TOPICS}
        self.said: list[Any] = []
        self.dialled: list[Any] = []
        self.pubsub = self  # type: ignore[assignment]  # as much of one as is asked for
        self.peer_topics: dict[str, set[ID]] = {}
        self.seen_messages: Any = self

    def has(self, _message_id: bytes) -> bool:
        return False

    def send_rpc(self, _peer: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:  # noqa: FBT001, FBT002  # as py-libp2p has it
        self.said.append(rpc)

    async def emit_control_message(self, control_msg: rpc_pb2.ControlMessage, to_peer: ID) -> None:
        await trio.lowlevel.checkpoint()
        self.said.append(control_msg)

    async def _do_px(self, px_peers: list[rpc_pb2.PeerInfo]) -> None:
        await trio.lowlevel.checkpoint()
        self.dialled += px_peers


async def ask(router: Router, **kinds: Any) -> None:
    await router.handle_rpc(rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**kinds)), PEER)


def message(data: bytes) -> rpc_pb2.Message:
    return rpc_pb2.Message(
        from_id=PEER.to_bytes(), seqno=secrets.token_bytes(8), data=data, topicIDs=["/one"]
    )


async def test_topics_of_others_leave_nothing_behind() -> None:
    router = Router()
    await ask(router, prune=[rpc_pb2.ControlPrune(topicID=str(each)) for each in range(100)])
    await ask(router, graft=[rpc_pb2.ControlGraft(topicID=str(each)) for each in range(100)])
    await ask(
        router,
        ihave=[rpc_pb2.ControlIHave(topicID=str(each), messageIDs=[b"id"]) for each in range(100)],
    )
    assert not router.back_off
    assert not router.graft_flood_tracking
    assert not router.ihave_message_limits
    assert router.said == []


def test_who_has_too_few_neighbors_tells_others_too() -> None:
    router = Router()
    peers = [ID(secrets.token_bytes(38)) for _ in range(10)]
    router.peer_topics = {"/one": set(peers)}
    router.peer_protocol = dict.fromkeys(peers, PROTOCOL_ID_V11)
    for neighbors in range(7):
        router.mesh["/one"] = set(peers[:neighbors])
        told = set(router._get_peers_to_send(["/one"], PEER, PEER))
        assert told >= router.mesh["/one"]
        assert len(told) == (4 if neighbors < 3 else neighbors)
        forwarder, origin = peers[0], peers[1]
        passed_on = router._get_peers_to_send(["/one"], forwarder, origin)
        assert not set(passed_on) & {forwarder, origin}


async def test_of_neighbors_that_are_too_many_half_are_dropped_at_once() -> None:
    router = Router()
    peers = {ID(secrets.token_bytes(38)) for _ in range(20)}
    counts = [len(peers)]
    while True:
        router.mesh["/one"] = set(peers)
        dropped = router._select_peers_for_pruning("/one", len(peers) - router.degree)
        if not dropped:
            break
        assert set(dropped) <= peers
        peers -= set(dropped)
        counts.append(len(peers))
    assert counts == [20, 13, 9, 7, 6]


async def test_two_nodes_drop_different_neighbors() -> None:
    peers = {ID(secrets.token_bytes(38)) for _ in range(40)}

    def dropped() -> frozenset[ID]:
        router = Router()
        router.mesh["/one"] = set(peers)
        return frozenset(router._select_peers_for_pruning("/one", 36))

    assert len({dropped() for _ in range(8)}) > 1


async def test_what_is_asked_for_again_and_again_is_done_once() -> None:
    router = Router()
    await ask(router, prune=[rpc_pb2.ControlPrune(topicID="/one", backoff=2**63)] * 50)
    assert router.back_off["/one"].keys() == {PEER}
    await ask(router, graft=[rpc_pb2.ControlGraft(topicID=topic) for topic in TOPICS] * 50)
    assert router.mesh == {"/one": set(), "/two": {PEER}}  # it has left the first
    assert Counter(each.prune[0].topicID for each in router.said) == {"/one": 1}


async def test_who_is_gone_is_forgotten() -> None:
    router = Router()
    await ask(router, prune=[rpc_pb2.ControlPrune(topicID="/one")])
    router.remove_peer(PEER)
    assert router.back_off == {"/one": {}}


async def test_nobody_is_dialled_because_of_a_prune() -> None:
    router = Router()
    other = rpc_pb2.PeerInfo(peerID=b"other")
    await ask(router, prune=[rpc_pb2.ControlPrune(topicID="/one", peers=[other])])
    assert router.dialled == []


async def test_a_message_is_sent_once_however_often_it_is_wished_for() -> None:
    router = Router()
    found = message(bytes(1000))
    router.mcache.put(found)
    message_id = found.from_id + found.seqno
    await ask(router, iwant=[rpc_pb2.ControlIWant(messageIDs=[message_id] * 100)] * 3)
    (answer,) = router.said
    assert list(answer.publish) == [found]


async def test_an_answer_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip_control, "MAX_ANSWER", 5000)
    router = Router()
    found = [message(bytes(1000)) for _ in range(20)]
    for each in found:
        router.mcache.put(each)
    wished = [each.from_id + each.seqno for each in found]
    await ask(router, iwant=[rpc_pb2.ControlIWant(messageIDs=wished)])
    (answer,) = router.said
    assert list(answer.publish) == found[:4]


async def test_of_what_is_offered_so_much_is_wished_for() -> None:
    router = Router()
    ids = [number.to_bytes(46, "big") for number in range(gossip_control.MAX_IDS + 100)]
    offers = [
        rpc_pb2.ControlIHave(topicID="/one", messageIDs=[bytes(gossip_control.MAX_ID + 1), *ids]),
        rpc_pb2.ControlIHave(topicID="/one", messageIDs=ids),
    ]
    await ask(router, ihave=offers)
    (answer,) = router.said
    wished = list(answer.iwant[0].messageIDs)
    assert set(wished) <= set(ids)
    assert len(wished) == gossip_control.MAX_IDS - 1  # the one that is too long was looked at
