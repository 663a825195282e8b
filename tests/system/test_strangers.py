"""A hostile machine on the network: what it sends is refused, it is named and banned, and the node goes on."""

from __future__ import annotations

import filecmp
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.files import MIB, blake3_of, chunk_digests, make_model
from support.parameters import mostly_slow
from support.records import frame, manifest_of, raw_frame, record_of
from support.strangers import Stranger
from support.waiting import wait_until

from peatnet.errors import IntegrityError, NoSource
from peatnet.records import KeyPair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.nodes import Cluster, Node

# One node and one hostile process serve all these tests: they stay on one worker.
pytestmark = pytest.mark.xdist_group("strangers")

BLOB = "/peatnet/blob/1"
CATALOGUE = "/peatnet/catalogue/1"
RECORDS = "/peatnet/records/1"
PRESENCE = "/peatnet/presence/1"

FRIEND = KeyPair.from_seed(b"a publisher that is trusted.....")
HASH = bytes(range(32))
EXT = b"\xc7\x05\x01hello"  # a msgpack extension value


@pytest.fixture(scope="module")
def target(shared_cluster: Cluster) -> Node:
    """The node under attack; it trusts FRIEND."""
    node = shared_cluster.node("target").configure(give_up_after_s=1.0)
    return node.up("--trust", FRIEND.peer_id, "--fetch", "none")


@pytest.fixture(scope="module")
def process(shared_cluster: Cluster, target: Node) -> Stranger:
    stranger = Stranger("stranger", target.addr, shared_cluster.root / "logs")
    shared_cluster.own(stranger)
    return stranger


@pytest.fixture
def stranger(process: Stranger, target: Node) -> Iterator[Stranger]:
    """A hostile host that nobody has met yet; afterwards the node is still well."""
    process.become()
    wait_until(lambda: target.connected() == {process.peer_id}, what="the one before to be gone")
    yield process
    assert target.child is not None
    assert target.child.alive
    assert target.call("id") == {"peer_id": target.peer_id}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors", 3 * MIB)


def offences(node: Node, peer_id: str) -> list[str]:
    return [line for line in node.log().splitlines() if "offence" in line and peer_id in line]


def wait_offence(node: Node, peer_id: str, count: int = 1) -> None:
    wait_until(
        lambda: len(offences(node, peer_id)) >= count,
        what=f"{node.name} to log offence {count} of {peer_id}",
        timeout=15,
    )


# -- streams --------------------------------------------------------------------------------------

MALFORMED_STREAMS = {
    "blob: no map": (BLOB, frame([1, 2])),
    "blob: no msgpack": (BLOB, raw_frame(b"\xc1\xc1")),
    "blob: breaks off": (BLOB, raw_frame(b"\x83\xa1t\xa4have")),
    "blob: data after the map": (BLOB, raw_frame(b"\x80\x80")),
    "blob: an extension type": (BLOB, raw_frame(b"\x81\xa1t" + EXT)),
    "blob: nested without end": (BLOB, raw_frame(b"\x91" * 4000)),
    "blob: keys that are no text": (BLOB, frame({1: 2})),
    "blob: unknown type": (BLOB, frame({"t": "evil", "i": 1, "h": HASH})),
    "blob: type is a number": (BLOB, frame({"t": 7, "i": 1, "h": HASH})),
    "blob: a header too long": (BLOB, b"\x00\x00\x10\x01\x00\x00\x00\x00"),
    "blob: a header of 4 GiB": (BLOB, b"\xff\xff\xff\xff\x00\x00\x00\x00"),
    "blob: a request with a payload": (BLOB, frame({"t": "have", "i": 1, "h": HASH}, b"x")),
    "blob: a payload of 4 GiB": (BLOB, b"\x00\x00\x00\x01\xff\xff\xff\xff\x80"),
    "have: no hash": (BLOB, frame({"t": "have", "i": 1})),
    "have: a short hash": (BLOB, frame({"t": "have", "i": 1, "h": HASH[:31]})),
    "have: the hash as text": (BLOB, frame({"t": "have", "i": 1, "h": HASH.hex()})),
    "have: a negative number": (BLOB, frame({"t": "have", "i": -1, "h": HASH})),
    "have: a number too large": (BLOB, frame({"t": "have", "i": 2**32, "h": HASH})),
    "have: true for a number": (BLOB, frame({"t": "have", "i": True, "h": HASH})),
    "table: no count": (BLOB, frame({"t": "table", "i": 1, "h": HASH, "f": 0})),
    "table: none asked for": (BLOB, frame({"t": "table", "i": 1, "h": HASH, "f": 0, "n": 0})),
    "table: too many": (BLOB, frame({"t": "table", "i": 1, "h": HASH, "f": 0, "n": 2**20})),
    "table: far out": (BLOB, frame({"t": "table", "i": 1, "h": HASH, "f": 2**40, "n": 1})),
    "get: no index": (BLOB, frame({"t": "get", "i": 1, "h": HASH})),
    "get: far out": (BLOB, frame({"t": "get", "i": 1, "h": HASH, "c": 2**20})),
    "get: a fraction": (BLOB, frame({"t": "get", "i": 1, "h": HASH, "c": 0.5})),
    "catalogue: no map": (CATALOGUE, frame("digest")),
    "catalogue: no msgpack": (CATALOGUE, raw_frame(b"\xc1")),
    "catalogue: unknown type": (CATALOGUE, frame({"t": "evil"})),
    "catalogue: out of turn": (CATALOGUE, frame({"t": "records"}, b"\0\0\0\1x")),
    "digest: none": (CATALOGUE, frame({"t": "digest"})),
    "digest: short": (CATALOGUE, frame({"t": "digest", "d": HASH[:31]})),
    "digest: text": (CATALOGUE, frame({"t": "digest", "d": "x" * 32})),
    "digest: with a payload": (CATALOGUE, frame({"t": "digest", "d": HASH}, b"x")),
    "want: a broken slot": (
        CATALOGUE,
        frame({"t": "digest", "d": HASH}) + frame({"t": "want"}, bytes(17)),
    ),
    "want: too much": (
        CATALOGUE,
        frame({"t": "digest", "d": HASH})
        + b"\x00\x00\x00\x08\x00\x20\x00\x00"
        + b"\x81\xa1t\xa4want",
    ),
    "records: a batch that breaks off": (
        CATALOGUE,
        frame({"t": "digest", "d": HASH})
        + frame({"t": "want"})
        + frame({"t": "records"}, b"\x00\x00\x00\x09abc"),
    ),
    "records: of no length": (
        CATALOGUE,
        frame({"t": "digest", "d": HASH})
        + frame({"t": "want"})
        + frame({"t": "records"}, bytes(4)),
    ),
    "records: an empty batch": (
        CATALOGUE,
        frame({"t": "digest", "d": HASH}) + frame({"t": "want"}) + frame({"t": "records"}),
    ),
    "records: too many bytes": (
        CATALOGUE,
        frame({"t": "digest", "d": HASH})
        + frame({"t": "want"})
        + b"\x00\x00\x00\x0b\x00\x80\x00\x00"
        + b"\x81\xa1t\xa7records",
    ),
    "records: garbage": (
        CATALOGUE,
        frame({"t": "digest", "d": HASH})
        + frame({"t": "want"})
        + frame({"t": "records"}, b"\x00\x00\x00\x03abc")
        + frame({"t": "end"}),
    ),
}


@pytest.mark.parametrize(
    ("protocol", "data"), MALFORMED_STREAMS.values(), ids=MALFORMED_STREAMS.keys()
)
def test_a_malformed_message_on_a_stream(
    target: Node, stranger: Stranger, protocol: str, data: bytes
) -> None:
    answer = stranger.stream(protocol, data)
    assert answer.get("ended"), answer
    wait_offence(target, stranger.peer_id)


def test_valid_requests_are_no_offence(target: Node, stranger: Stranger) -> None:
    """The messages above are refused for what is wrong with them, not for their frame."""
    asked = frame({"t": "have", "i": 7, "h": HASH, "later": "unknown keys are ignored"})
    answer = stranger.stream(BLOB, asked, wait=1)
    assert answer == {"reply": frame({"t": "no", "i": 7, "e": "absent"}), "ended": False}
    answer = stranger.stream(CATALOGUE, frame({"t": "digest", "d": HASH}), wait=1)
    assert answer["reply"][8:].startswith(b"\x81\xa1t\xa7summary")
    assert offences(target, stranger.peer_id) == []


def test_a_third_malformed_message_is_a_ban(target: Node, stranger: Stranger) -> None:
    for count in (1, 2, 3):
        stranger.stream(BLOB, frame({"t": "evil"}))
        wait_offence(target, stranger.peer_id, count)
    target.wait_log("banned", stranger.peer_id)
    wait_until(lambda: stranger.peer_id in target.banned())
    wait_until(lambda: not stranger.connected)
    stranger.ask(do="reconnect")
    wait_until(lambda: not stranger.connected)


@pytest.mark.parametrize("protocol", ["/meshsub/1.1.0", "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"])
def test_garbage_on_a_protocol_of_libp2p(target: Node, stranger: Stranger, protocol: str) -> None:
    stranger.stream(protocol, b"\x05\xff\xff\xff\xff\xff" + bytes(100), wait=1)
    stranger.stream(protocol, b"\xff" * 5000, wait=1)


def test_a_stream_that_stalls_holds_nothing_up(target: Node, stranger: Stranger) -> None:
    answer = stranger.stream(BLOB, b"\x00\x00", wait=1)
    assert answer == {"reply": b"", "ended": False}


# -- gossip ---------------------------------------------------------------------------------------

MALFORMED_GOSSIP = {
    "record: garbage": (RECORDS, b"\x00\x01\x02"),
    "record: nothing": (RECORDS, b""),
    "record: breaks off": (RECORDS, record_of(FRIEND, {"model_id": "a", "version": "1"})[:-1]),
    "record: goes on": (RECORDS, record_of(FRIEND, {"model_id": "a", "version": "1"}) + b"x"),
    "record: oversized": (RECORDS, bytes(61 * 1024)),
    "record: no manifest": (RECORDS, record_of(FRIEND, {"model_id": "a", "version": "1"})),
    "presence: garbage": (PRESENCE, b"\xc1"),
    "presence: nothing": (PRESENCE, b""),
    "presence: no map": (PRESENCE, b"\x93\x01\x02\x03"),
    "presence: fields missing": (PRESENCE, b"\x80"),
    "presence: nested without end": (PRESENCE, b"\x91" * 5000),
    "presence: oversized": (PRESENCE, b"\x81\xa1x\xc5\x4e\x20" + bytes(20_000)),
}


@pytest.mark.parametrize(("topic", "data"), MALFORMED_GOSSIP.values(), ids=MALFORMED_GOSSIP.keys())
def test_malformed_gossip(target: Node, stranger: Stranger, topic: str, data: bytes) -> None:
    stranger.publish(topic, data)
    wait_offence(target, stranger.peer_id)


BAD_MANIFESTS: dict[str, dict[str, Any]] = {
    "model_id leaves its folder": {"model_id": "../../etc/cron.d/x"},
    "model_id is absolute": {"model_id": "/etc/passwd"},
    "model_id is hidden": {"model_id": ".ssh"},
    "version leaves its folder": {"version": "../1"},
    "a size below zero": {"size_bytes": -1},
    "a hash that is a path": {"blob_hash": "../" * 21 + "x"},
    "a hash too short": {"blob_hash": "ab"},
    "a chunk size of one byte": {
        "metadata": {"peatnet": {"chunk_size": 1, "table_hash": "00" * 32}}
    },
    "a url that is a file": {"download_url": "file:///etc/passwd"},
}


@pytest.mark.parametrize("changes", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS.keys())
def test_a_hostile_manifest_well_signed(
    target: Node, stranger: Stranger, model: Path, changes: dict[str, Any]
) -> None:
    before = target.models()
    stranger.publish(RECORDS, record_of(FRIEND, manifest_of(model, "a") | changes))
    wait_offence(target, stranger.peer_id)
    assert target.models() == before


# -- records --------------------------------------------------------------------------------------


def test_a_bad_signature(target: Node, stranger: Stranger, model: Path) -> None:
    good = record_of(FRIEND, manifest_of(model, "forged"))
    stranger.publish(RECORDS, good[:-1] + bytes([good[-1] ^ 1]))
    wait_offence(target, stranger.peer_id)
    assert target.model("forged") is None
    # By way of the catalogue it fares no better.
    forged = good.replace(b"forged", b"forget")
    batch = len(forged).to_bytes(4, "big") + forged
    stranger.stream(
        CATALOGUE,
        frame({"t": "digest", "d": HASH})
        + frame({"t": "want"})
        + frame({"t": "records"}, batch)
        + frame({"t": "end"}),
    )
    wait_offence(target, stranger.peer_id, 2)
    assert target.model("forget") is None


def test_a_replayed_older_record_changes_nothing(
    target: Node, stranger: Stranger, model: Path
) -> None:
    older = record_of(FRIEND, manifest_of(model, "moving", name="older"), sequence=10)
    newer = record_of(FRIEND, manifest_of(model, "moving", name="newer"), sequence=11)
    stranger.publish(RECORDS, newer)
    assert target.wait_model("moving")["trusted"]
    stranger.publish(RECORDS, older)
    marker = record_of(FRIEND, manifest_of(model, "marker"))
    stranger.publish(RECORDS, marker)
    target.wait_model("marker")  # gossip is in order: the older one has been judged by now
    assert target.call("show", reference="moving")["name"] == "newer"
    stranger.stream(
        CATALOGUE,
        frame({"t": "digest", "d": HASH})
        + frame({"t": "want"})
        + frame({"t": "records"}, len(older).to_bytes(4, "big") + older)
        + frame({"t": "end"}),
        wait=1,
    )
    assert target.call("show", reference="moving")["name"] == "newer"
    # Passing on what has been overtaken is no offence: an honest node may not know yet.
    assert offences(target, stranger.peer_id) == []


def test_a_record_of_somebody_unknown_is_shown_and_left_alone(
    target: Node, stranger: Stranger, model: Path
) -> None:
    nobody = KeyPair.from_seed(b"a publisher that is not trusted.")
    stranger.publish(RECORDS, record_of(nobody, manifest_of(model, "flyer")))
    view = target.wait_model("flyer")
    assert (view["trusted"], view["publisher"]) == (False, nobody.peer_id)
    assert (view["status"], view["local_path"]) == ("available", None)


# -- a holder that lies ---------------------------------------------------------------------------


def replies(model: Path, **changes: Any) -> dict[str, tuple[dict[str, Any], bytes]]:
    """What an honest holder of the model answers on /peatnet/blob/1, with some answers changed."""
    digests = b"".join(chunk_digests(model))
    table_hash = manifest_of(model, "x")["metadata"]["peatnet"]["table_hash"]
    have: dict[str, Any] = {
        "t": "have",
        "i": "@i",
        "s": model.stat().st_size,
        "k": MIB,
        "x": {"hex": table_hash},
    }
    honest: dict[str, tuple[dict[str, Any], bytes]] = {
        "have": (have | {"f": True}, b""),
        "table": ({"t": "table", "i": "@i"}, digests),
        "get": ({"t": "chunk", "i": "@i", "c": "@c"}, model.read_bytes()[:MIB]),
    }
    return honest | changes


HAVE = {"t": "have", "i": "@i", "s": 3 * MIB, "k": MIB, "x": {"hex": "00" * 32}, "f": True}

LIES = {
    "have: without a size": {"have": ({"t": "have", "i": "@i", "k": MIB, "f": True}, b"")},
    "have: a chunk size of no bytes": {"have": (HAVE | {"k": 0}, b"")},
    "have: a size without end": {"have": (HAVE | {"s": 2**63}, b"")},
    "have: another size": {"have": (HAVE | {"s": 5 * MIB}, b"")},
    "have: a bitmap too long": {"have": (HAVE | {"f": False}, bytes(100))},
    "have: unknown answer": {"have": ({"t": "evil", "i": "@i"}, b"")},
    "have: a refusal without a reason": {"have": ({"t": "no", "i": "@i"}, b"")},
    "table: another one": {"table": ({"t": "table", "i": "@i"}, bytes(96))},
    "table: too short": {"table": ({"t": "table", "i": "@i"}, bytes(64))},
    "table: a fraction of a hash": {"table": ({"t": "table", "i": "@i"}, bytes(95))},
    "table: no number": {"table": ({"t": "table"}, bytes(96))},
    "chunk: too short": {"get": ({"t": "chunk", "i": "@i", "c": "@c"}, b"x")},
    "chunk: no index": {"get": ({"t": "chunk", "i": "@i"}, bytes(MIB))},
    "chunk: one that nobody asked for": {"get": ({"t": "chunk", "i": "@i", "c": 999}, bytes(MIB))},
}


@pytest.mark.parametrize(
    "lie",
    # Lies of these kinds are told within one process, too: tests/net/blob_lies.py, of tables test_net_blobs.py, and any
    # fields at all test_net_wire.py.
    mostly_slow(
        LIES,
        "have: a chunk size of no bytes",
        "have: another size",
        "table: another one",
        "chunk: too short",
    ),
)
def test_a_holder_that_lies(
    target: Node, stranger: Stranger, model: Path, lie: dict[str, Any]
) -> None:
    stranger.serve(**replies(model, **lie))
    stranger.publish(RECORDS, record_of(FRIEND, manifest_of(model, "lied")))
    target.wait_model("lied")
    ran = target.run("get", "lied", "--source", "peers")
    ran.failed(NoSource)
    wait_offence(target, stranger.peer_id)
    view = target.model("lied")
    assert view is not None
    assert (view["local_path"], view["status"] in {"ready", "loaded"}) == (None, False)


def test_a_holder_of_corrupt_chunks_is_banned_at_once_and_named(
    target: Node, stranger: Stranger, model: Path
) -> None:
    corrupt = ({"t": "chunk", "i": "@i", "c": "@c"}, bytes(MIB))
    stranger.serve(**replies(model, get=corrupt))
    stranger.publish(RECORDS, record_of(FRIEND, manifest_of(model, "corrupt")))
    target.wait_model("corrupt")
    target.run("get", "corrupt", "--source", "peers").failed(IntegrityError)
    wait_until(lambda: stranger.peer_id in target.banned())
    banned = [line for line in target.log().splitlines() if "banned" in line]
    assert any(stranger.peer_id in line for line in banned)
    assert not target.blob_file(blake3_of(model)).exists()


def test_after_all_that_an_honest_node_delivers(
    target: Node, shared_cluster: Cluster, process: Stranger, model: Path
) -> None:
    honest = shared_cluster.up("honest", "--peer", target.addr)
    honest.json("publish", model, "--id", "honest")
    target.wait_model("honest")
    got = target.json("get", "honest", "--source", "peers")
    assert got["bytes_by_source"] == {f"peer:{honest.peer_id}": model.stat().st_size}
    assert filecmp.cmp(got["path"], model, shallow=False)
    # The manifests that strangers brought were about this file: they are ready now as well.
    assert json.dumps(target.models()).count('"ready"') >= 1
    honest.stop()
    target.stop()
