"""What gossip keeps of messages that have passed and of peers that have gone: nothing that grows with time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_varint_prefixed
from net_tools import host, network, place, two_networks, until

from peatnet.net.gossip import LARGEST, RECORDS_TOPIC

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.net.network import Network

# RPCs that ask for nothing: as much to deal with as a peer may bring in about two seconds, in a few KB.
IDLE = 1500


def pubsub_of(net: Network) -> Any:
    assert net._gossip is not None
    return net._gossip._pubsub


async def test_when_each_message_passed_is_not_noted(tmp_path: Path) -> None:
    first, second = place(tmp_path / "first"), place(tmp_path / "second")
    async with two_networks(first, second) as (one, two):
        for number in range(5):
            await one.announce(await first.publish(f"{number}@1"))
        await until(lambda: len(second.ledger.catalogue) == 5)
        for net in (one, two):
            noted = pubsub_of(net).router.recent_message_deliveries
            assert noted  # py-libp2p still asks for it
            assert not any(noted.values())


def rpc(**fields: Any) -> bytes:
    """As it goes over a gossip stream."""
    return encode_varint_prefixed(rpc_pb2.RPC(**fields).SerializeToString())


SUBSCRIPTIONS = rpc(
    subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic) for topic in LARGEST]
)
GRAFT = rpc(
    control=rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID=each) for each in LARGEST])
)
PRUNE = rpc(
    control=rpc_pb2.ControlMessage(
        prune=[rpc_pb2.ControlPrune(topicID=each, backoff=3600) for each in LARGEST]
    )
)
LAST_WORDS = {
    "it subscribes": SUBSCRIPTIONS,
    "it comes into the mesh": GRAFT,
    "it leaves the mesh": PRUNE,
}


@pytest.mark.parametrize("last_words", LAST_WORDS.values(), ids=LAST_WORDS.keys())
async def test_what_is_read_of_a_peer_after_it_has_gone(tmp_path: Path, last_words: bytes) -> None:
    async with network(place(tmp_path / "here")) as net, host() as other:
        pubsub, here = pubsub_of(net), ID.from_base58(net._host.peer_id)
        await other.connect(net._host.peer_id, net._host.listening)
        await until(lambda: net.connected)
        stream = await other.libp2p.new_stream(here, [TProtocol("/meshsub/1.1.0")])
        idle = rpc(control=rpc_pb2.ControlMessage())
        await stream.write(idle * IDLE + last_words)
        await until(lambda: pubsub._readers)
        await trio.sleep(0.1)  # so that it has come, but not been dealt with
        await other.disconnect(net._host.peer_id)
        await until(lambda: not net.connected)
        assert pubsub._readers
        await until(lambda: not pubsub._readers)
        router = pubsub.router
        assert not any(pubsub.peer_topics.values())
        assert not pubsub._peer_subscription_count
        assert not any(router.mesh.values())
        assert not any(router.back_off.values())
        assert not router.graft_flood_tracking


async def test_what_a_peer_does_while_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(place(tmp_path / "here")) as net, host() as other:
        pubsub, here = pubsub_of(net), ID.from_base58(net._host.peer_id)
        router, at_work, go = pubsub.router, trio.Event(), trio.Event()
        handle_rpc = router.handle_rpc

        async def slowly(*what: Any) -> None:
            at_work.set()
            await go.wait()
            await handle_rpc(*what)

        monkeypatch.setattr(router, "handle_rpc", slowly)
        await other.connect(net._host.peer_id, net._host.listening)
        await until(lambda: net.connected)
        stream = await other.libp2p.new_stream(here, [TProtocol("/meshsub/1.1.0")])
        await stream.write(GRAFT)
        await at_work.wait()
        await other.disconnect(net._host.peer_id)
        await until(lambda: not net.connected and not pubsub.peers)
        go.set()
        await until(lambda: not pubsub._readers)
        assert not router.mesh[RECORDS_TOPIC]
