"""docs/protocol.md says what the code does: its examples in hex, its numbers, and the recipe it gives for a record.

``python tests/test_protocol_doc.py`` prints all examples, for whoever changes the wire and then the page.
"""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgpack
import pytest
import trio
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peatnet.blobs import Bitmap, ChunkTable, Database, Hash, Store
from peatnet.models import ModelStatus
from peatnet.net.blob_messages import (
    ChunkRequest,
    HaveReply,
    HaveRequest,
    More,
    Refusal,
    TableRequest,
    pack_indices,
)
from peatnet.net.blob_server import BlobServer
from peatnet.net.catalogue_sync import CatalogueSync
from peatnet.net.frames import FrameStream
from peatnet.net.gossip import PRESENCE_TOPIC, RECORDS_TOPIC, STATUS_TOPIC
from peatnet.net.lanes import LANE_PROTOCOL
from peatnet.net.lanes.messages import OK, LaneOffer, LaneRequest, NoLane, TicketFrame
from peatnet.net.network import BLOB_PROTOCOL, CATALOGUE_PROTOCOL
from peatnet.net.node_status import (
    CommandOutcome,
    CommandReport,
    HardwareReport,
    ModelReport,
    NodeStatus,
)
from peatnet.net.presence import Presence
from peatnet.net.small_stream import Wanted, ask_frame, give_header
from peatnet.net.standing import POINTS
from peatnet.net.wire import PREFIX, pack_prefix
from peatnet.records import (
    Catalogue,
    KeyPair,
    RecordType,
    Withdrawal,
    open_record,
    pack_summaries,
    sign_record,
)
from peatnet.records.envelope import signing_input

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from libp2p.abc import INetStream

PAGE = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"

SEED = bytes(range(32))
KEY = "yolov8n@8.0.0"
SEQUENCE = 1_767_225_600_000_000
BLOB = bytes(index % 251 for index in range(70_000))
CHUNK_SIZE = 65_536
STATUS = NodeStatus(
    "pi-4",
    ("/ip4/192.0.2.7/tcp/7411",),
    HardwareReport(
        os="Debian",
        arch="aarch64",
        cpu="BCM2711",
        cores=4,
        ram_mb=3796,
        free_disk_mb=21_500,
        execution_providers=("cpu",),
    ),
    (
        ModelReport(
            "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB",
            "yolov8n",
            "8.0.1",
            ModelStatus.DOWNLOADING,
            0.25,
            wanted=True,
            rate=900_000,
            left_s=11,
        ),
    ),
    (CommandReport("roll-out-7", "yolov8n@8.0.1", CommandOutcome.RUNNING, "downloading"),),
)


class Wire:
    """Two ends of a libp2p stream, in memory, that write down what each side sends."""

    def __init__(self) -> None:
        self.sent: dict[str, list[bytes]] = {"asker": [], "answerer": []}
        forth, back = (trio.open_memory_channel[bytes](1000) for _ in range(2))
        self.ends = {
            "asker": _End(forth[0], back[1], self.sent["asker"]),
            "answerer": _End(back[0], forth[1], self.sent["answerer"]),
        }

    def frames(self, side: str) -> FrameStream:
        return FrameStream(cast("INetStream", self.ends[side]), f"the {side}'s peer")

    async def run(self, *sides: Callable[[], Coroutine[Any, Any, object]]) -> None:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for side in sides:
                    nursery.start_soon(side)

    def frames_of(self, side: str) -> list[bytes]:
        """What this side sent, cut into frames."""
        data, found = b"".join(self.sent[side]), []
        while data:
            length = PREFIX.size + sum(PREFIX.unpack_from(data))
            found.append(data[:length])
            data = data[length:]
        return found


class _End:
    def __init__(
        self,
        send: trio.MemorySendChannel[bytes],
        receive: trio.MemoryReceiveChannel[bytes],
        log: list[bytes],
    ) -> None:
        self._send, self._receive, self._log = send, receive, log
        self._rest = b""

    async def read(self, limit: int) -> bytes:
        if not self._rest:
            try:
                self._rest = await self._receive.receive()
            except trio.EndOfChannel:
                return b""
        data, self._rest = self._rest[:limit], self._rest[limit:]
        return data

    async def write(self, data: bytes) -> None:
        self._log.append(bytes(data))
        await self._send.send(bytes(data))

    async def close(self) -> None:
        await self._send.aclose()

    reset = close


def catalogue_examples(envelope: bytes) -> dict[str, bytes]:
    """An empty catalogue asks one that holds a record; then both are the same."""
    full, empty = Catalogue(), Catalogue()
    full.offer(open_record(envelope))

    async def offer(_peer: str, envelopes: list[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        for each in envelopes:
            empty.offer(open_record(each))

    async def exchange() -> Wire:
        wire = Wire()
        asker, answerer = CatalogueSync(empty, offer), CatalogueSync(full, offer)
        await wire.run(
            lambda: asker.ask(wire.frames("asker")),
            lambda: answerer.answer(wire.frames("answerer")),
        )
        return wire

    first, second = trio.run(exchange), trio.run(exchange)
    assert empty == full
    digest, want, asker_end = first.frames_of("asker")
    summary, records, answerer_end, last_end = first.frames_of("answerer")
    assert asker_end == answerer_end == last_end
    (same,) = second.frames_of("answerer")
    return {
        "catalogue-digest": digest,
        "catalogue-summary": summary,
        "catalogue-want": want,
        "catalogue-records": records[: len(records) - len(envelope)],
        "catalogue-end": asker_end,
        "catalogue-same": same,
    }


def blob_examples() -> dict[str, bytes]:
    """A holder of a blob of two chunks is asked what it has, for the table, for a chunk, for something else."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "blob")
        file.write_bytes(BLOB)
        database = Database.open(Path(folder, "peatnet.db"))
        try:
            info = Store.open(Path(folder), database).add_file(file, chunk_size=CHUNK_SIZE)
            requests = [
                HaveRequest(0, info.hash),
                TableRequest(1, info.hash, 0, 2),
                ChunkRequest(2, info.hash, 1),
                HaveRequest(0, Hash(bytes(32))),
            ]
            wire = trio.run(ask_blobs, Store.open(Path(folder), database), requests)
        finally:
            database.close()
    have, table, chunk, absent = wire.frames_of("answerer")
    ask_have, ask_table, ask_chunk, _ = wire.frames_of("asker")
    assert table.endswith(info.table.digests)
    assert chunk.endswith(BLOB[CHUNK_SIZE:])
    partial = HaveReply(0, info.size, CHUNK_SIZE, info.table.table_hash, full=False).header()
    return {
        "blob-hash": info.hash,
        "chunk-digests": info.table.digests,
        "table-hash": info.table.table_hash,
        "have-request": ask_have,
        "have-reply": have,
        "have-partial-reply": pack_prefix(partial, 1) + b"\x02",
        "have-watch-request": pack_prefix(
            HaveRequest(0, info.hash, watch=True, priority=1).header()
        ),
        "more": pack_prefix(More(0, full=False).header(), 4) + pack_indices([0]),
        "more-full": pack_prefix(More(0, full=True).header()),
        "table-request": ask_table,
        "table-reply": table,
        "get-request": ask_chunk,
        "chunk-reply": chunk[: len(chunk) - len(BLOB) + CHUNK_SIZE],
        "no-reply": absent,
    }


def small_examples() -> dict[str, bytes]:
    """An ask for two small blobs, of which the holder has the second."""
    data = b"small"
    wanted = [Wanted(Hash(bytes(32)), 16_384), Wanted(Hash.of(data), len(data))]
    given = Bitmap(2)
    given.set(1)
    header, payload = ask_frame(wanted)
    return {
        "small-ask": pack_prefix(header, len(payload)) + payload,
        "small-give": pack_prefix(give_header(given), len(data)) + data,
    }


def lane_examples() -> dict[str, bytes]:
    """A lane is asked for, given or refused, and opened."""
    ticket, fingerprint = bytes(range(32)), bytes(range(224, 256))
    offer = LaneOffer(7412, ["/ip4/192.0.2.7/tcp/7412"], fingerprint, [ticket], 10)
    return {
        "lane-request": pack_prefix(LaneRequest(1).header()),
        "lane-offer": pack_prefix(offer.header()),
        "lane-refusal": pack_prefix(NoLane("off").header()),
        "lane-ticket": pack_prefix(TicketFrame(ticket).header()),
        "lane-ok": pack_prefix(OK),
    }


async def ask_blobs(store: Store, requests: list[Any]) -> Wire:
    wire = Wire()

    async def ask() -> None:
        frames = wire.frames("asker")
        for request in requests:
            await frames.send(request.header())
            await frames.read_payload(await frames.receive())
        nursery.cancel_scope.cancel()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(BlobServer(store).serve, wire.frames("answerer"))
            nursery.start_soon(ask)
    return wire


@cache
def examples() -> dict[str, bytes]:
    """Every example of the page, by the name that the comment above it gives."""
    keys = KeyPair.from_seed(SEED)
    body = Withdrawal(model_id="yolov8n", version="8.0.0", reason="wrong labels").to_json().encode()
    record = sign_record(keys, RecordType.WITHDRAWAL, KEY, SEQUENCE, body)
    catalogue = Catalogue()
    empty = catalogue.digest()
    catalogue.offer(record)
    payload_type = RecordType.WITHDRAWAL.payload_type
    payload: bytes = msgpack.packb({"k": KEY, "s": SEQUENCE, "b": body})
    presence = Presence(["/ip4/192.0.2.7/tcp/7411"], empty, [Hash.of(BLOB)])
    return {
        "public-key": keys.public.raw,
        "peer-id": keys.peer_id.to_bytes(),
        "payload": payload,
        "signing-input": signing_input(payload_type, payload),
        "envelope": record.envelope,
        "record-id": record.id,
        "slot": record.slot,
        "digest-empty": empty,
        "digest-one": catalogue.digest(),
        "summary": pack_summaries(catalogue.summary()),
        "presence": presence.encode(),
        "status": STATUS.encode(),
        "refusal-busy": pack_prefix(Refusal(0, "busy").header()),
        **catalogue_examples(record.envelope),
        **blob_examples(),
        **small_examples(),
        **lane_examples(),
    }


def page_examples() -> dict[str, str]:
    """The hex of each example on the page: comments behind # and all spaces are left out."""
    blocks = re.findall(
        r"<!-- example: ([\w-]+) -->\n+```text\n(.*?)```", PAGE.read_text(), re.DOTALL
    )
    assert len({name for name, _ in blocks}) == len(blocks)
    return {
        name: "".join("".join(line.partition("#")[0].split()) for line in block.splitlines())
        for name, block in blocks
    }


def test_every_example_is_what_the_code_sends() -> None:
    assert page_examples() == {name: data.hex() for name, data in examples().items()}


def test_the_examples_are_about_what_the_page_says() -> None:
    text = PAGE.read_text()
    keys = KeyPair.from_seed(SEED)
    for said in (str(keys.peer_id), KEY, str(SEQUENCE), "i mod 251", f"{len(BLOB):,}"):
        assert said in text
    for name in (
        RECORDS_TOPIC,
        PRESENCE_TOPIC,
        STATUS_TOPIC,
        BLOB_PROTOCOL,
        CATALOGUE_PROTOCOL,
        LANE_PROTOCOL,
    ):
        assert f"`{name}`" in text
    for kind in RecordType:
        assert f"`{kind.payload_type.decode()}`" in text


def test_a_record_made_by_the_recipe_of_the_page_alone() -> None:
    """Steps 1 to 6 of the page, without a line of peatnet's own code, give the same bytes."""

    def behind_length(data: bytes) -> bytes:
        length, out = len(data), b""
        while length > 0x7F:
            out += bytes([length & 0x7F | 0x80])
            length >>= 7
        return out + bytes([length]) + data

    private = Ed25519PrivateKey.from_private_bytes(SEED)
    public = private.public_key().public_bytes_raw()
    body = b'{"model_id":"yolov8n","version":"8.0.0","reason":"wrong labels"}'
    payload = (
        bytes([0x83, 0xA1])
        + b"k"
        + bytes([0xA0 + len(KEY)])
        + KEY.encode()
        + bytes([0xA1])
        + b"s"
        + bytes([0xCF])
        + SEQUENCE.to_bytes(8, "big")
        + bytes([0xA1])
        + b"b"
        + bytes([0xC4, len(body)])
        + body
    )
    payload_type = b"/peatnet/withdrawal/1"
    signed = b"".join(map(behind_length, (b"peatnet-record", payload_type, payload)))
    envelope = b"".join(
        bytes([tag]) + behind_length(value)
        for tag, value in (
            (0x0A, b"\x08\x01\x12\x20" + public),
            (0x12, payload_type),
            (0x1A, payload),
            (0x2A, private.sign(signed)),
        )
    )
    assert envelope == examples()["envelope"]
    slot = blake3(
        public + b"manifest\0" + KEY.encode(), derive_key_context="peatnet record slot v1"
    )
    assert slot.digest(length=16) == examples()["slot"]
    stretched = blake3(
        blake3(envelope).digest(), derive_key_context="peatnet catalogue digest v1"
    ).digest(length=512)
    assert blake3(stretched).digest() == examples()["digest-one"]
    assert blake3(bytes(512)).digest() == examples()["digest-empty"]


def test_a_chunk_table_made_by_the_recipe_of_the_page_alone() -> None:
    digests = b"".join(
        blake3(BLOB[start : start + CHUNK_SIZE]).digest() for start in (0, CHUNK_SIZE)
    )
    assert digests == examples()["chunk-digests"]
    assert blake3(digests).digest() == examples()["table-hash"]
    assert blake3(BLOB).digest() == examples()["blob-hash"]
    assert ChunkTable(len(BLOB), CHUNK_SIZE, digests).table_hash == examples()["table-hash"]


def test_every_number_is_the_code_s() -> None:
    rows = re.findall(
        r"^\| [^|]+ \| ([\d,.]+)[^|]* \| `([\w.]+)` \|$", PAGE.read_text(), re.MULTILINE
    )
    assert len(rows) > 25
    for said, where in rows:
        module, _, name = where.rpartition(".")
        value = importlib.import_module(f"peatnet.{module}")
        assert float(said.replace(",", "")) == float(getattr(value, name)), where


def test_every_offence_has_its_points() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert {name: float(points) for name, points in rows} == {
        offence.name: points for offence, points in POINTS.items()
    }


@pytest.mark.parametrize("name", ["have-reply", "table-reply"])
def test_a_frame_s_lengths_add_up(name: str) -> None:
    frame = examples()[name]
    assert sum(PREFIX.unpack_from(frame)) + PREFIX.size == len(frame)


if __name__ == "__main__":
    for name, data in examples().items():
        sys.stdout.write(f"{name}: {data.hex(' ')}\n")
