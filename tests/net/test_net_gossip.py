"""Gossip between real nodes: what is good spreads, what is bad costs the one who forwards it."""

from __future__ import annotations

import contextlib
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.utils.varint import encode_varint_prefixed
from net_tools import PATIENCE, host, network, offences_of, place, two_networks, until, withdrawal

from peatnet.blobs import Hash
from peatnet.net import gossip, gossip_reader
from peatnet.net.gossip import MAX_LATE, MAX_LATE_RECORD, PRESENCE_TOPIC, RECORDS_TOPIC
from peatnet.net.presence import MAX_PRESENCE
from peatnet.net.standing import Offence
from peatnet.records import MAX_ENVELOPE, KeyPair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from libp2p.abc import INetStream
    from libp2p.crypto.keys import KeyPair as LibraryKeys
    from net_tools import Place

    from peatnet.net.host import Host
    from peatnet.net.network import Network

MALFORMED, BAD_RECORD, FLOOD = (
    Offence.MALFORMED.value,
    Offence.BAD_RECORD.value,
    Offence.FLOOD.value,
)
STRANGER = KeyPair.from_seed(bytes(32))


def pubsub_of(net: Network) -> Any:
    assert net._gossip is not None
    return net._gossip._pubsub


def hears(net: Network, other: Place) -> bool:
    """Whether the other one is known to listen to both topics."""
    topics, peer = pubsub_of(net).peer_topics, ID.from_base58(other.peer_id)
    return all(peer in topics.get(topic, ()) for topic in (RECORDS_TOPIC, PRESENCE_TOPIC))


@asynccontextmanager
async def meshed(root: Path) -> AsyncIterator[tuple[Place, Place, Network, Network]]:
    """Two nodes that hear each other's gossip."""
    first, second = place(root / "first"), place(root / "second")
    async with two_networks(first, second) as (one, two):
        await until(lambda: hears(one, second) and hears(two, first))
        yield first, second, one, two


async def test_a_record_spreads_at_once(tmp_path: Path) -> None:
    async with meshed(tmp_path) as (first, second, one, _):
        await one.announce(await first.publish("a@1"))
        await until(second.ledger.catalogue.records)
        assert second.ledger.catalogue == first.ledger.catalogue


async def test_presence_tells_addresses_and_blobs(tmp_path: Path) -> None:
    async with meshed(tmp_path) as (first, _, one, two):
        gained: list[tuple[str, Hash]] = []
        two.on_gained.append(lambda peer, blob: gained.append((peer, blob)))
        one.announce_blob(Hash(bytes(32)))
        await until(lambda: gained)
        assert gained == [(first.peer_id, Hash(bytes(32)))]
        known = two.dialer.known()[first.peer_id]
        assert one.addrs == [f"{address}/p2p/{first.peer_id}" for address in known]


GOOD_PRESENCE = {"a": [], "d": bytes(32), "g": []}
BAD_MESSAGES: dict[str, tuple[str, bytes, str]] = {
    "a record of garbage": (RECORDS_TOPIC, b"garbage", BAD_RECORD),
    "an empty record": (RECORDS_TOPIC, b"", BAD_RECORD),
    "a forged record": (RECORDS_TOPIC, withdrawal(STRANGER, "a@1")[:-1] + b"x", BAD_RECORD),
    "a record too large": (RECORDS_TOPIC, bytes(MAX_ENVELOPE + 1), MALFORMED),
    "a presence of garbage": (PRESENCE_TOPIC, b"\xc1", MALFORMED),
    "an empty presence": (PRESENCE_TOPIC, b"", MALFORMED),
    "a presence too large": (PRESENCE_TOPIC, bytes(MAX_PRESENCE + 1), MALFORMED),
    "a presence without a digest": (PRESENCE_TOPIC, msgpack.packb({"a": [], "g": []}), MALFORMED),
    "too many addresses": (
        PRESENCE_TOPIC,
        msgpack.packb(GOOD_PRESENCE | {"a": [b"\x04\x7f\0\0\1\6\0\1"] * 17}),
        MALFORMED,
    ),
    "too many blobs": (
        PRESENCE_TOPIC,
        msgpack.packb(GOOD_PRESENCE | {"g": [bytes(32)] * 65}),
        MALFORMED,
    ),
    "addresses as text": (
        PRESENCE_TOPIC,
        msgpack.packb(GOOD_PRESENCE | {"a": ["/ip4/127.0.0.1/tcp/1"]}),
        MALFORMED,
    ),
}


@pytest.mark.parametrize(("topic", "data", "kind"), BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
async def test_a_bad_message_is_the_forwarders_offence(
    tmp_path: Path, topic: str, data: bytes, kind: str
) -> None:
    async with meshed(tmp_path) as (_, second, one, two):
        offences = offences_of(two._host)
        with trio.fail_after(PATIENCE):
            while not offences:  # gossip may lose a message
                await pubsub_of(one).publish(topic, data)
                with trio.move_on_after(1):
                    await until(lambda: offences)
        assert {found for found, _ in offences} == {kind}  # gossipsub may bring it twice
        assert second.ledger.catalogue.records() == []


def message(keys: KeyPair, **changes: Any) -> rpc_pb2.Message:
    peer_id = ID.from_base58(keys.peer_id).to_bytes()
    fields = {
        "data": withdrawal(STRANGER, "a@1"),
        "topicIDs": [RECORDS_TOPIC],
        "from_id": peer_id,
        "seqno": secrets.token_bytes(8),
        "signature": bytes(64),
    }
    return rpc_pb2.Message(**(fields | changes))


def rpc(found: rpc_pb2.Message) -> bytes:
    """As it goes over a gossip stream."""
    packed = rpc_pb2.RPC(publish=[found]).SerializeToString()
    return encode_varint_prefixed(packed)


async def gossip_stream(one: Host, peer_id: str) -> INetStream:
    """A stream to somebody's gossip, beside the one that there may be."""
    return await one.libp2p.new_stream(ID.from_base58(peer_id), [TProtocol("/meshsub/1.1.0")])


async def say(one: Network, other: Place, messages: Iterable[rpc_pb2.Message]) -> None:
    """Write to the other one's gossip until it has had enough and cuts the line."""
    stream = await gossip_stream(one._host, other.peer_id)
    with contextlib.suppress(BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError):
        for each in messages:
            await stream.write(rpc(each))


BAD_ENVELOPES: dict[str, dict[str, Any]] = {
    "a wrong signature": {},
    "no signature": {"signature": b""},
    "no author": {"from_id": b""},
    "an author of garbage": {"from_id": b"\xff" * 40},
    "a key of garbage": {"from_id": b"\x12\x20" + bytes(32), "key": b"\xff\xff"},
    "an author of many bytes": {"from_id": bytes(200_000)},
    "a number of many bytes": {"seqno": bytes(100_000)},
    "a topic of another's beside ours": {"topicIDs": [RECORDS_TOPIC, "other"]},
    "our topic again and again": {"topicIDs": [RECORDS_TOPIC] * 1000},
}


@pytest.mark.parametrize("changes", BAD_ENVELOPES.values(), ids=BAD_ENVELOPES.keys())
async def test_a_message_whose_author_is_not_proved(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    async with meshed(tmp_path) as (first, second, one, two):
        offences = offences_of(two._host)
        bad = message(STRANGER, **changes)
        pubsub_of(one).router.send_rpc(ID.from_base58(second.peer_id), rpc_pb2.RPC(publish=[bad]))
        await until(lambda: offences)
        assert offences[0][0] == MALFORMED
        # The node, and its gossip, go on.
        assert second.ledger.catalogue.records() == []
        await one.announce(await first.publish("b@1"))
        await until(second.ledger.catalogue.records)


async def test_our_own_error_is_nobodys_offence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with meshed(tmp_path) as (first, second, one, two):
        offences = offences_of(two._host)
        judges = pubsub_of(two).judges
        real, failed = judges[RECORDS_TOPIC], trio.Event()

        async def fail(_forwarder: ID, _message: rpc_pb2.Message) -> bool:
            await trio.lowlevel.checkpoint()
            failed.set()
            raise KeyError("a bug")

        judges[RECORDS_TOPIC] = fail
        await one.announce(await first.publish("a@1"))
        with trio.fail_after(PATIENCE):
            await failed.wait()
        judges[RECORDS_TOPIC] = real
        await one.announce(await first.publish("b@1"))
        await until(lambda: len(second.ledger.catalogue) == 2)  # an exchange brings the first
        assert offences == []


async def test_bytes_that_are_no_protobuf(tmp_path: Path) -> None:
    async with meshed(tmp_path) as (first, second, one, two):
        offences = offences_of(two._host)
        stream = await one._host.libp2p.new_stream(
            ID.from_base58(second.peer_id),
            ["/meshsub/1.1.0"],  # type: ignore[list-item]  # TProtocol is a NewType of str
        )
        await stream.write(b"\x05\xff\xff\xff\xff\xff")
        await until(lambda: offences)
        await stream.reset()
        await one.announce(await first.publish("b@1"))
        await until(second.ledger.catalogue.records)


async def test_too_much_is_dropped_and_far_too_much_is_an_offence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "NEWS_RATE", 1e-9)
    monkeypatch.setattr(gossip, "NEWS_BURST", 2.0)
    monkeypatch.setattr(gossip, "FLOOD_RATE", 1e-9)
    monkeypatch.setattr(gossip, "FLOOD_BURST", 40.0)
    async with meshed(tmp_path) as (_, second, one, two):
        offences = offences_of(two._host)
        forged = [message(STRANGER, data=bytes([number])) for number in range(60)]
        await say(one, second, forged)
        await until(lambda: any(kind == FLOOD for kind, _ in offences))
        # At most the first two were looked at: none of the others below a flood counts.
        assert len([kind for kind, _ in offences if kind != FLOOD]) <= 2
        assert second.ledger.catalogue.records() == []


async def test_a_flood_in_one_rpc_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "FLOOD_RATE", 1e-9)
    monkeypatch.setattr(gossip, "FLOOD_BURST", 40.0)
    async with meshed(tmp_path) as (first, second, one, two):
        offences = offences_of(two._host)
        packed = rpc_pb2.RPC(publish=[rpc_pb2.Message()] * 3000).SerializeToString()
        stream = await gossip_stream(one._host, second.peer_id)
        await stream.write(encode_varint_prefixed(packed))
        await until(lambda: first.peer_id in two.banned() and not two.connected)
        assert len(offences) < 100


@pytest.mark.parametrize(("each", "total", "expected"), [(3, 100, 3), (100, 4, 4)])
async def test_of_many_messages_so_many_are_judged_at_once_and_the_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: int, total: int, expected: int
) -> None:
    monkeypatch.setattr(gossip_reader, "MAX_JUDGED_PER_PEER", each)
    monkeypatch.setattr(gossip_reader, "MAX_JUDGED", total)
    author = create_new_key_pair(bytes(32))
    async with meshed(tmp_path) as (first, second, one, two):
        await until(lambda: len(pubsub_of(two)._readers) == 1)
        at_work, most, judged, go = 0, 0, 0, trio.Event()

        async def judge(_forwarder: ID, _message: rpc_pb2.Message) -> bool:
            nonlocal at_work, most, judged
            at_work += 1
            most = max(most, at_work)
            await go.wait()
            at_work -= 1
            judged += 1
            return False

        pubsub_of(two).judges[RECORDS_TOPIC] = judge
        said = [signed(author, number, RECORDS_TOPIC, b"") for number in range(1, 21)]
        packed = rpc_pb2.RPC(publish=said).SerializeToString()
        streams = [await gossip_stream(one._host, second.peer_id) for _ in range(2)]
        await streams[0].write(encode_varint_prefixed(packed))
        await until(lambda: at_work == expected)
        await streams[1].write(encode_varint_prefixed(packed))
        # What is said without being judged still comes through, from others and on other streams.
        topics = pubsub_of(two).peer_topics
        leave = rpc_pb2.RPC()
        leave.subscriptions.add(subscribe=False, topicid=PRESENCE_TOPIC)
        third = await gossip_stream(one._host, second.peer_id)
        await third.write(encode_varint_prefixed(leave.SerializeToString()))
        await until(lambda: ID.from_base58(first.peer_id) not in topics.get(PRESENCE_TOPIC, ()))
        assert at_work == most == expected
        go.set()
        await until(lambda: judged >= 20)  # nothing was dropped
        assert most <= expected


async def test_a_node_through_which_others_flood_does_not_pass_it_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "PASS_RATE", 1e-9)
    monkeypatch.setattr(gossip, "PASS_BURST", 2.0)
    async with meshed(tmp_path) as (first, second, one, two):
        router, passed = pubsub_of(two).router, []
        publish = router.publish

        async def noting(forwarder: ID, found: rpc_pb2.Message) -> None:
            passed.append(str(forwarder))
            await publish(forwarder, found)

        router.publish = noting
        for number in range(5):
            await one.announce(await first.publish(f"{number}@1"))
        await until(lambda: len(second.ledger.catalogue) == 5)
        await two.announce(await second.publish("own@1"))
        await until(lambda: second.peer_id in passed)
        assert passed.count(first.peer_id) <= 2


async def test_repetitions_count_as_talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "FLOOD_RATE", 1e-9)
    monkeypatch.setattr(gossip, "FLOOD_BURST", 40.0)
    async with meshed(tmp_path) as (_, second, one, two):
        offences = offences_of(two._host)
        receiver, repeated = pubsub_of(two), message(STRANGER)
        receiver._mark_msg_seen(repeated)
        await say(one, second, [repeated] * 60)
        await until(lambda: offences)
        assert {kind for kind, _ in offences} == {FLOOD}


async def test_who_comes_and_goes_all_the_time_is_not_followed(tmp_path: Path) -> None:
    """Each coming would get three tasks, and each task a look at all others: seconds, for one RPC."""
    async with meshed(tmp_path) as (first, second, one, two):
        pubsub, peer = pubsub_of(two), ID.from_base58(first.peer_id)
        packed = rpc_pb2.RPC()
        for number in range(3000):
            packed.subscriptions.add(subscribe=bool(number % 2), topicid=RECORDS_TOPIC)
        before = pubsub.manager.stats.tasks.total_count
        stream = await gossip_stream(one._host, second.peer_id)
        await stream.write(encode_varint_prefixed(packed.SerializeToString()))
        await until(lambda: pubsub._changes._each[first.peer_id]._tokens < 1)
        assert pubsub.manager.stats.tasks.total_count - before <= 2 * gossip.CHANGE_BURST
        assert peer in pubsub.peers


async def test_of_many_gossip_streams_the_newest_are_read(tmp_path: Path) -> None:
    async with meshed(tmp_path) as (first, second, one, two):
        streams = [
            await gossip_stream(one._host, second.peer_id)
            for _ in range(gossip.MAX_STREAMS_PER_PEER + 1)  # and the one that gossip itself has
        ]
        with trio.fail_after(PATIENCE), pytest.raises(StreamError):
            await streams[0].read(1)
        readers = pubsub_of(two)._readers
        assert len(readers[ID.from_base58(first.peer_id)]) == gossip.MAX_STREAMS_PER_PEER


async def test_who_is_gone_is_in_no_mesh(tmp_path: Path) -> None:
    """Also one that lets nobody write to it, and is no peer of pubsub's."""
    first = place(tmp_path / "first")
    async with network(first) as one, host() as stranger:
        peer = ID.from_base58(stranger.peer_id)
        await stranger.connect(first.peer_id, one._host.listening)
        graft = rpc_pb2.RPC(
            control=rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID=RECORDS_TOPIC)])
        )
        stream = await gossip_stream(stranger, first.peer_id)
        await stream.write(encode_varint_prefixed(graft.SerializeToString()))
        pubsub = pubsub_of(one)
        await until(lambda: peer in pubsub.router.mesh[RECORDS_TOPIC])
        assert peer not in pubsub.peers
        await stranger.disconnect(first.peer_id)
        await until(lambda: peer not in pubsub.router.mesh[RECORDS_TOPIC])


async def test_one_who_talks_of_itself_all_the_time_is_not_listened_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "PRESENCE_RATE", 1e-9)
    monkeypatch.setattr(gossip, "PRESENCE_BURST", 6.0)
    async with meshed(tmp_path) as (first, second, one, two):
        offences = offences_of(two._host)
        heard: list[Hash] = []
        two.on_gained.append(lambda _, blob: heard.append(blob))
        for number in range(12):
            packed = msgpack.packb(GOOD_PRESENCE | {"g": [bytes([number]) * 32]})
            await pubsub_of(one).publish(PRESENCE_TOPIC, packed)
        await until(lambda: heard)
        await one.announce(await first.publish("after@1"))  # the others have been judged by then
        await until(second.ledger.catalogue.records)
        assert len(heard) <= 6
        assert offences == []


def signed(
    keys: LibraryKeys, number: int, topic: str, data: bytes, width: int = 8
) -> rpc_pb2.Message:
    """A message as its author makes it."""
    made = rpc_pb2.Message(
        data=data,
        topicIDs=[topic],
        from_id=ID.from_pubkey(keys.public_key).to_bytes(),
        seqno=number.to_bytes(width),
    )
    made.signature = keys.private_key.sign(
        PUBSUB_SIGNING_PREFIX.encode() + made.SerializeToString()
    )
    return made


async def test_a_replay_costs_its_author_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "PRESENCE_RATE", 1e-9)
    monkeypatch.setattr(gossip, "PRESENCE_BURST", 2.0)
    author, forwarder = create_new_key_pair(bytes(32)), ID.from_base58(STRANGER.peer_id)
    async with network(place(tmp_path / "first")) as one:
        heard: list[int] = []
        assert one._gossip is not None
        one._gossip._take_presence = lambda _, presence: heard.append(presence.digest[0])

        async def says(number: int) -> None:
            packed = msgpack.packb(GOOD_PRESENCE | {"d": bytes([number % 100]) * 32})
            said = signed(author, number, PRESENCE_TOPIC, packed)
            await pubsub_of(one).push_msg(forwarder, said)

        await says(1001)
        for number in range(30):
            await says(1000 - MAX_LATE - number)
        assert heard == [1]
        await says(1002)
        await says(1003)  # its allowance is used up by the two
        assert heard == [1, 2]


@pytest.mark.parametrize("width", [7, 9])
async def test_a_number_has_eight_bytes(tmp_path: Path, width: int) -> None:
    author, forwarder = create_new_key_pair(bytes(32)), ID.from_base58(STRANGER.peer_id)
    first = place(tmp_path / "first")
    async with network(first) as one:
        offences = offences_of(one._host)
        said = signed(author, 1, RECORDS_TOPIC, withdrawal(STRANGER, "a@1"), width)
        await pubsub_of(one).push_msg(forwarder, said)
        assert [kind for kind, _ in offences] == [MALFORMED]
        assert first.ledger.catalogue.records() == []


async def test_one_who_comes_a_little_late_is_heard(tmp_path: Path) -> None:
    author, forwarder = create_new_key_pair(bytes(32)), ID.from_base58(STRANGER.peer_id)
    first = place(tmp_path / "first")
    async with network(first) as one:
        for number in (5000, 5000 - MAX_LATE_RECORD, 4999 - MAX_LATE_RECORD):
            record = withdrawal(STRANGER, f"{number}@1")
            await pubsub_of(one).push_msg(forwarder, signed(author, number, RECORDS_TOPIC, record))
        keys = {record.key for record in first.ledger.catalogue.records()}
        assert keys == {"5000@1", f"{5000 - MAX_LATE_RECORD}@1"}


async def test_a_banned_peers_gossip_returns_when_the_ban_has_ended(tmp_path: Path) -> None:
    async with meshed(tmp_path) as (first, second, one, two):
        two.offend(first.peer_id, Offence.CORRUPT_CHUNK, "chunk 7")
        assert list(two.banned()) == [first.peer_id]
        await until(lambda: not one.connected and not two.connected)
        await first.publish("during@1")
        assert second.ledger.catalogue.records() == []
        two._host.standing._entries[first.peer_id].banned_until = trio.current_time()
        await two._host.connect(first.peer_id, one._host.listening)
        await until(lambda: len(second.ledger.catalogue) == 1)
        await until(
            lambda: (
                ID.from_base58(second.peer_id)
                in pubsub_of(one).peer_topics.get(RECORDS_TOPIC, set())
            )
        )
        await one.announce(await first.publish("after@1"))
        await until(lambda: len(second.ledger.catalogue) == 2)


async def test_a_node_that_comes_back_is_heard_again(tmp_path: Path) -> None:
    first, second = place(tmp_path / "first"), place(tmp_path / "second")
    async with network(first) as one:
        port = one.addrs[0].split("/")[4]
        async with network(second, one.addrs[0]) as two:
            await until(lambda: two.connected)
    async with network(second, f"/ip4/127.0.0.1/tcp/{port}/p2p/{first.peer_id}") as two:
        await until(lambda: two.dialer._targets[first.peer_id].failures)
        assert not two.connected
        async with network(first, listen=f"/ip4/127.0.0.1/tcp/{port}") as one:
            await until(lambda: first.peer_id in two.connected)
            await until(
                lambda: (
                    ID.from_base58(second.peer_id)
                    in pubsub_of(one).peer_topics.get(RECORDS_TOPIC, set())
                )
            )
            await one.announce(await first.publish("again@1"))
            await until(second.ledger.catalogue.records)
