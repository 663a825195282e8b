"""The invariant of every decoder: whatever bytes come, a value or RemoteProtocolError, never anything else."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multiaddr import Multiaddr
from net_tools import MemoryStream, frames_over

from peatnet.blobs import MAX_CHUNK_SIZE, MAX_CHUNKS, MIN_CHUNK_SIZE, Hash
from peatnet.errors import PeerLost, RemoteProtocolError, UsageError
from peatnet.net.addresses import announced_by_peer, parse_dial_address, parse_listen_address
from peatnet.net.blob_messages import (
    MAX_MORE,
    MAX_TABLE_PIECE,
    ChunkReply,
    ChunkRequest,
    HaveReply,
    HaveRequest,
    More,
    Refusal,
    TableReply,
    TableRequest,
    decode_reply,
    decode_request,
    pack_indices,
    unpack_indices,
)
from peatnet.net.catalogue_sync import _batches, _split
from peatnet.net.presence import MAX_GAINED, MAX_PRESENCE, Presence
from peatnet.net.wire import MAX_HEADER, MAX_PAYLOAD, pack_prefix, unpack_map
from peatnet.records import MAX_ENVELOPE

if TYPE_CHECKING:
    from collections.abc import Callable

quick = settings(deadline=None, max_examples=60)

number = st.integers(0, 2**32 - 1)
blob = st.binary(min_size=32, max_size=32).map(Hash)
index = st.integers(0, MAX_CHUNKS - 1)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=20)
    | st.just(msgpack.ExtType(5, b"x"))
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner)
)
# Maps that look like ours in part: the right keys, and often the right types.
kinds = st.sampled_from(["have", "table", "get", "chunk", "more", "no", "digest", "want", "evil"])
near_misses = st.fixed_dictionaries(
    {},
    optional={
        "t": kinds | values,
        "i": number | values,
        "h": blob.map(bytes) | values,
        "c": index | values,
        "f": st.booleans() | index | values,
        "n": index | values,
        "w": st.booleans() | values,
        "p": st.integers(-1, 7) | values,
        "s": st.integers(0, 2**45) | values,
        "k": st.integers(0, MAX_CHUNK_SIZE + 1) | values,
        "x": blob.map(bytes) | values,
        "e": st.text(max_size=40) | values,
        "a": st.lists(st.binary(max_size=60), max_size=20) | values,
        "d": blob.map(bytes) | values,
        "g": st.lists(st.binary(max_size=33), max_size=70) | values,
    },
)
packed = st.binary(max_size=300) | near_misses.map(msgpack.packb)

DECODERS: dict[str, Callable[[bytes], Any]] = {
    "map": unpack_map,
    "request": lambda data: decode_request(unpack_map(data)),
    "reply": lambda data: decode_reply(unpack_map(data)),
    "presence": Presence.decode,
    "batch": lambda data: list(_split("peer", data)),
}


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS.keys())
@quick
@given(packed)
@example(b"")
@example(b"\xc1")
@example(b"\x91" * 5000)
@example(b"\x81\xa1t" * 2000)
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
@example(b"\xd6\xff\x00\x00\x00\x00")
@example(b"\x81\xa1t\xa1\xff")
@example(b"\x81\xc4\x01t\x01")
@example(b"\x81\x91\x01\x01")
def test_a_decoder_parses_or_says_remote_protocol_error(
    decode: Callable[[bytes], Any], data: bytes
) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode(data)


REQUESTS = st.one_of(
    st.builds(HaveRequest, number, blob, st.booleans(), st.integers(1, 5)),
    st.builds(TableRequest, number, blob, index, st.integers(1, MAX_TABLE_PIECE)),
    st.builds(ChunkRequest, number, blob, index),
)
REPLIES = st.one_of(
    st.builds(
        HaveReply,
        number,
        st.integers(1, MIN_CHUNK_SIZE * MAX_CHUNKS),
        st.sampled_from([MIN_CHUNK_SIZE, 2**20, MAX_CHUNK_SIZE]),
        blob,
        st.booleans(),
    ),
    st.builds(TableReply, number),
    st.builds(ChunkReply, number, index),
    st.builds(More, number, st.booleans()),
    st.builds(Refusal, number, st.sampled_from(["absent", "busy", "later"])),
)


@quick
@given(REQUESTS)
def test_requests_survive_the_wire(request: HaveRequest) -> None:
    assert decode_request(unpack_map(pack_prefix(request.header())[8:])) == request


@quick
@given(REPLIES)
def test_replies_survive_the_wire(reply: HaveReply) -> None:
    assert decode_reply(unpack_map(pack_prefix(reply.header())[8:])) == reply


def have_with(**fields: Any) -> HaveRequest:
    request = decode_request(
        unpack_map(msgpack.packb({"t": "have", "i": 7, "h": bytes(32), **fields}))
    )
    assert isinstance(request, HaveRequest)
    return request


def test_a_have_of_a_downloader_that_knows_nothing_of_watching() -> None:
    assert have_with() == HaveRequest(7, Hash(bytes(32)), watch=False, priority=3)
    assert have_with(w=True, p=5) == HaveRequest(7, Hash(bytes(32)), watch=True, priority=5)


@pytest.mark.parametrize(
    "fields", [{"w": 1}, {"w": None}, {"p": 0}, {"p": 6}, {"p": True}, {"p": None}, {"p": "1"}]
)
def test_a_field_that_may_be_missing_may_not_be_wrong(fields: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        have_with(**fields)


@quick
@given(st.lists(index, min_size=1, max_size=50))
def test_indices_survive_the_wire(indices: list[int]) -> None:
    assert unpack_indices(pack_indices(indices)) == tuple(indices)


@quick
@given(st.binary(max_size=64))
@example(bytes(4 * MAX_MORE + 4))
def test_indices_of_another_length_are_an_error(payload: bytes) -> None:
    if len(payload) % 4 or not 4 <= len(payload) <= 4 * MAX_MORE:
        with pytest.raises(RemoteProtocolError):
            unpack_indices(payload)
    else:
        assert pack_indices(unpack_indices(payload)) == payload


def test_every_message_fits_a_header() -> None:
    largest = HaveReply(2**32 - 1, 2**42, MAX_CHUNK_SIZE, Hash(bytes(32)), full=True)
    assert len(pack_prefix(largest.header())) < MAX_HEADER


@pytest.mark.parametrize("reason", ["", "two words", "new\nline", "\x1b[31m", "naïve", "a" * 33])
def test_a_refusal_cannot_write_into_our_log(reason: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_reply(unpack_map(msgpack.packb({"t": "no", "i": 1, "e": reason})))


@quick
@given(
    st.lists(st.sampled_from(["/ip4/192.0.2.1/tcp/7411", "/dns4/a.example/tcp/1"]), max_size=16),
    blob,
    st.lists(blob, max_size=MAX_GAINED),
)
def test_presence_survives_the_wire(addresses: list[str], digest: Hash, gained: list[Hash]) -> None:
    presence = Presence(addresses, bytes(digest), gained)
    assert len(presence.encode()) <= MAX_PRESENCE
    assert Presence.decode(presence.encode()) == presence


@quick
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20))
def test_batches_of_records_survive_the_wire(envelopes: list[bytes]) -> None:
    found = [item for batch in _batches(envelopes) for item in _split("peer", bytes(batch))]
    assert found == envelopes


@pytest.mark.parametrize(
    "batch",
    [
        b"\x00",
        struct.pack(">I", 0),
        struct.pack(">I", 2) + b"x",
        struct.pack(">I", MAX_ENVELOPE + 1) + bytes(MAX_ENVELOPE + 1),
        struct.pack(">I", 2**32 - 1),
    ],
)
def test_a_batch_whose_lengths_are_wrong(batch: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        list(_split("peer", batch))


@quick
@given(st.lists(st.binary(max_size=80), max_size=20))
@example([b"\x04\x7f\x00\x00\x01\x06\x00"])
@example([b"\xa5\x03\xff" * 9])
@example([b"\x35\x03a/b\x06\x00\x01"])
def test_announced_addresses_are_dialable_or_left_out(raw: list[bytes]) -> None:
    for text in announced_by_peer(raw):
        assert Multiaddr(text).to_bytes() in raw


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/192.0.2.1/tcp/7411",
        "/ip6/2001:db8::1/tcp/1",
        "/dns/a.example/tcp/65535",
        "/dns4/x/tcp/80",
        "/dns6/a-b.example/tcp/80",
    ],
)
def test_announced_addresses_are_read_as_multiaddr_writes_them(text: str) -> None:
    assert announced_by_peer([Multiaddr(text).to_bytes()]) == [text]


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/0.0.0.0/tcp/1",
        "/ip4/224.0.0.251/tcp/1",
        "/ip6/::/tcp/1",
        "/ip4/192.0.2.1/tcp/0",
        "/ip4/192.0.2.1/udp/1",
        "/ip4/192.0.2.1/tcp/1/ws",
        "/ip4/192.0.2.1",
        "/unix/tmp",
    ],
)
def test_announced_addresses_that_are_not_dialled(text: str) -> None:
    assert announced_by_peer([Multiaddr(text).to_bytes()]) == []


@pytest.mark.parametrize("name", ["a..b", "a-.b", "a.-b", "-a", "a.", "a" * 64, "x." + "a" * 64])
def test_announced_names_that_are_none(name: str) -> None:
    packed = b"\x36" + bytes([len(name)]) + name.encode() + b"\x06\x1c\xf4"
    assert announced_by_peer([packed]) == []


@quick
@given(st.text(max_size=60) | st.text("/ip46tcdns.p0123456789:", max_size=60))
@example("/ip4/1.2.3.4/tcp/1/p2p/12D3KooW")
@example("/ip4/1.2.3.4/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")
@example("/dns4//tcp/1")
@example("/ip4/1.2.3.4/tcp/99999")
@example("/ip6zone/x/ip6/::1/tcp/1")
def test_addresses_that_people_type(text: str) -> None:
    for parse in (parse_dial_address, parse_listen_address):
        with contextlib.suppress(UsageError):
            parse(text)


def test_what_is_wrong_with_an_address_is_said_once() -> None:
    for parse in (parse_dial_address, parse_listen_address):
        with pytest.raises(UsageError) as caught:
            parse("/ip4/300.1.1.1/tcp/1")
        assert caught.value.message.count("/ip4/300.1.1.1/tcp/1") == 1
        assert caught.value.message.endswith("base address '300.1.1.1' is not IPv4")


# Frames


def read_all(data: bytes, piece: int) -> list[bytes]:
    """The payloads of all frames in the data."""
    found: list[bytes] = []

    async def read() -> None:
        frames = frames_over(MemoryStream(data, piece=piece))
        with contextlib.suppress(PeerLost):
            while True:
                found.append(await frames.read_payload(await frames.receive()))

    trio.run(read)
    return found


@quick
@given(st.binary(max_size=200), st.integers(1, 9))
@example(struct.pack(">II", MAX_HEADER + 1, 0), 8)
@example(struct.pack(">II", 1, MAX_PAYLOAD + 1) + b"\x80", 8)
@example(struct.pack(">II", 0, 0), 8)
@example(struct.pack(">II", 2**32 - 1, 2**32 - 1), 8)
def test_frames_parse_or_say_remote_protocol_error(data: bytes, piece: int) -> None:
    with contextlib.suppress(RemoteProtocolError):
        read_all(data, piece)


@quick
@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(1, 64))
def test_frames_survive_the_wire_in_any_pieces(payloads: list[bytes], piece: int) -> None:
    data = b"".join(pack_prefix({"t": "x"}, len(payload)) + payload for payload in payloads)
    assert read_all(data, piece) == payloads
    # Where it breaks off, what was whole has come, and nothing else.
    assert read_all(data[:-1], piece) == payloads[:-1] if payloads else True
