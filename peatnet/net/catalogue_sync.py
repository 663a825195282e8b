"""``/peatnet/catalogue/1``: two nodes find out what the other lacks, and send it.

Gossip announces and may lose messages; this exchange is what makes catalogues equal. One side asks:

    asker                                   answerer
    digest(d)                ->
                             <-             same                     both hold the same: done
                             <-             summary + slots          or: this is what I hold
    want + slots             ->
                             <-             records…, end            what the asker lacks
    records…, end            ->                                      what the answerer lacks
                             <-             end                      received, done

A slot entry is 32 bytes (see ``peatnet.records.summary``); records travel in batches, each with its length
before it. Everything is bounded in count, size and time.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from peatnet.errors import PeerLost, RemoteProtocolError
from peatnet.net.standing import Allowance
from peatnet.records import (
    MAX_ENVELOPE,
    SUMMARY_BYTES,
    Catalogue,
    Record,
    pack_summaries,
    unpack_summaries,
)
from peatnet.records.record import SLOT_BYTES

if TYPE_CHECKING:
    from peatnet.net.frames import Frame, FrameStream

# One exchange, whole. A catalogue of 10,000 records of 2 KiB is 20 MiB.
SESSION_TIMEOUT = 120.0
MAX_SLOTS = 100_000
# Exchanges that others may ask for at once, and that one peer may ask for over time: a summary of a large
# catalogue takes us longer to make than it takes to ask for.
MAX_ANSWERS = 16
ASK_RATE = 0.5
ASK_BURST = 8.0
MAX_ASKERS = 1024
# Batches are filled up to this, which leaves room for one more record within the payload bound.
BATCH_BYTES = 256 * 1024
MAX_BATCH = BATCH_BYTES + MAX_ENVELOPE + 4

_LENGTH = struct.Struct(">I")

Offer = Callable[[str, list[bytes]], Awaitable[None]]


class CatalogueSync:
    """Both sides of the exchange, on one node's catalogue.

    Args:
        catalogue: what this node holds; only read here.
        offer: takes (peer id, envelopes) that a peer sent: checks them, keeps them, counts offences.
    """

    def __init__(self, catalogue: Catalogue, offer: Offer) -> None:
        self._catalogue = catalogue
        self._offer = offer
        self._answering: set[str] = set()
        self._allowances: OrderedDict[str, Allowance] = OrderedDict()

    def is_answering(self, peer_id: str) -> bool:
        """Whether an exchange that this peer has begun is under way."""
        return peer_id in self._answering

    async def ask(self, frames: FrameStream) -> None:
        """Bring both catalogues together, as the side that opened the stream.

        Raises:
            PeerLost: the peer went away or took longer than SESSION_TIMEOUT seconds.
            RemoteProtocolError: it broke the protocol.
        """
        with _limit(frames):
            await frames.send({"t": "digest", "d": self._catalogue.digest()})
            kind, frame = await _receive(frames, MAX_SLOTS * SUMMARY_BYTES)
            if kind == "same":
                return
            _expect(frames, kind, "summary")
            theirs = unpack_summaries(await frames.read_payload(frame), limit=MAX_SLOTS)
            wanted = self._catalogue.wants(theirs)
            # What they lack is decided before their records change what we hold.
            known = {item.slot: (item.sequence, item.tie) for item in theirs}
            lacking = [
                item.slot
                for item in self._catalogue.summary()
                if known.get(item.slot, (-1, b"")) < (item.sequence, item.tie)
            ]
            await frames.send({"t": "want"}, b"".join(wanted))
            await self._take_records(frames, len(wanted))
            await self._send_records(frames, self._catalogue.by_slots(lacking))
            kind, _ = await _receive(frames, 0)
            _expect(frames, kind, "end")

    async def answer(self, frames: FrameStream) -> bool:
        """Bring both catalogues together, as the side that was asked.

        Returns:
            Whether it has; a peer that asks too often, or twice at once, is not answered.

        Raises:
            PeerLost: the peer went away or took longer than SESSION_TIMEOUT seconds.
            RemoteProtocolError: it broke the protocol.
        """
        peer_id = frames.peer_id
        if peer_id in self._answering or len(self._answering) >= MAX_ANSWERS:
            return False
        if not self._may_ask(peer_id):
            return False
        self._answering.add(peer_id)
        try:
            await self._answer(frames)
        finally:
            self._answering.discard(peer_id)
        return True

    def _may_ask(self, peer_id: str) -> bool:
        allowance = self._allowances.setdefault(peer_id, Allowance(ASK_RATE, ASK_BURST))
        self._allowances.move_to_end(peer_id)
        if len(self._allowances) > MAX_ASKERS:
            self._allowances.popitem(last=False)
        return allowance.take(trio.current_time())

    async def _answer(self, frames: FrameStream) -> None:
        with _limit(frames):
            kind, frame = await _receive(frames, 0)
            _expect(frames, kind, "digest")
            if frame.fields.binary("d", 32, 32) == self._catalogue.digest():
                await frames.send({"t": "same"})
                return
            await frames.send({"t": "summary"}, pack_summaries(self._catalogue.summary()))
            kind, frame = await _receive(frames, MAX_SLOTS * SLOT_BYTES)
            _expect(frames, kind, "want")
            slots = await frames.read_payload(frame)
            if len(slots) % SLOT_BYTES:
                raise RemoteProtocolError(f"{frames.peer_id}: {len(slots)} bytes of slots")
            wanted = (slots[at : at + SLOT_BYTES] for at in range(0, len(slots), SLOT_BYTES))
            await self._send_records(frames, self._catalogue.by_slots(wanted))
            await self._take_records(frames, MAX_SLOTS)
            await frames.send({"t": "end"})

    async def _send_records(self, frames: FrameStream, records: list[Record]) -> None:
        for batch in _batches(record.envelope for record in records):
            await frames.send({"t": "records"}, batch)
        await frames.send({"t": "end"})

    async def _take_records(self, frames: FrameStream, limit: int) -> None:
        count = 0
        while True:
            kind, frame = await _receive(frames, MAX_BATCH)
            if kind == "end":
                return
            _expect(frames, kind, "records")
            envelopes = list(_split(frames.peer_id, await frames.read_payload(frame)))
            count += len(envelopes)
            if not envelopes or count > limit:
                raise RemoteProtocolError(f"{frames.peer_id}: {count} records, not {limit} at most")
            await self._offer(frames.peer_id, envelopes)


@contextmanager
def _limit(frames: FrameStream) -> Iterator[None]:
    """Bound an exchange in time; running over is the peer's loss."""
    try:
        with trio.fail_after(SESSION_TIMEOUT):
            yield
    except trio.TooSlowError as exc:
        raise PeerLost(f"{frames.peer_id}: no catalogue in {SESSION_TIMEOUT:.0f} s") from exc


async def _receive(frames: FrameStream, max_payload: int) -> tuple[str, Frame]:
    frame = await frames.receive(max_payload=max_payload)
    return frame.fields.text("t", 16), frame


def _expect(frames: FrameStream, kind: str, expected: str) -> None:
    if kind != expected:
        raise RemoteProtocolError(f"{frames.peer_id}: {kind!r} where {expected!r} belongs")


def _batches(envelopes: Iterable[bytes]) -> Iterator[bytearray]:
    batch = bytearray()
    for envelope in envelopes:
        batch += _LENGTH.pack(len(envelope)) + envelope
        if len(batch) >= BATCH_BYTES:
            yield batch
            batch = bytearray()
    if batch:
        yield batch


def _split(peer_id: str, data: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        start = position + _LENGTH.size
        if start > len(data):
            raise RemoteProtocolError(f"{peer_id}: a batch of records that breaks off")
        (length,) = _LENGTH.unpack_from(data, position)
        position = start + length
        if not 0 < length <= MAX_ENVELOPE or position > len(data):
            raise RemoteProtocolError(f"{peer_id}: a record of {length} bytes in a batch")
        yield data[start:position]
