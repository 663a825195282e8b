"""News, deferral and the upload gate on streams between real hosts."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio
from blob_kit import CHUNK, DATA, N_CHUNKS, SETTINGS, a_pair, answers, chunk_of, on, source_at
from net_tools import PATIENCE, host, offences_of, place, until

from peatnet.blobs import Hash
from peatnet.errors import NoSource
from peatnet.net import blob_server, turns, upload_gate
from peatnet.net.blob_messages import (
    ABSENT,
    ChunkReply,
    ChunkRequest,
    HaveReply,
    HaveRequest,
    More,
    Refusal,
    Reply,
    TableReply,
    TableRequest,
    decode_reply,
    unpack_indices,
)
from peatnet.net.blob_server import BlobServer
from peatnet.net.network import BLOB_PROTOCOL
from peatnet.net.upload_gate import UploadGate
from peatnet.swarm import SwarmSettings
from peatnet.swarm.window import USUAL
from peatnet.transfer import Download, DownloadSettings

if TYPE_CHECKING:
    from pathlib import Path

    from blob_kit import Pair
    from net_tools import Place

    from peatnet.blobs import PartialBlob
    from peatnet.net.frames import FrameStream
    from peatnet.net.host import Host


async def told(frames: FrameStream) -> tuple[Reply, bytes]:
    frame = await frames.receive()
    return decode_reply(frame.fields), await frames.read_payload(frame)


def begin(pair: Pair, holding: Place, *indices: int) -> PartialBlob:
    partial = holding.store.start_partial(pair.table, pair.info.hash)
    for index in indices:
        partial.write(index, chunk_of(pair.table, index))
    return partial


async def test_a_watcher_is_told_what_a_partial_holder_gains(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        holding = place(tmp_path / "partial")
        pair.holder.handle(BLOB_PROTOCOL, BlobServer(holding.store).serve)
        frames = await pair.stream()
        await frames.send(HaveRequest(4, pair.info.hash, watch=True).header())
        assert await told(frames) == (Refusal(4, ABSENT), b"")
        partial = begin(pair, holding, 0)
        assert await told(frames) == (pair.have(number=4, full=False), b"\x01\x00")
        await trio.to_thread.run_sync(partial.write, 5, chunk_of(pair.table, 5))
        reply, payload = await told(frames)
        assert (reply, unpack_indices(payload)) == (More(4, full=False), (5,))
        for index in partial.missing():
            partial.write(index, chunk_of(pair.table, index))
        while reply != More(4, full=True):
            reply, payload = await told(frames)
        await frames.send(ChunkRequest(9, pair.info.hash, 1).header())
        assert await told(frames) == (ChunkReply(9, 1), chunk_of(pair.table, 1))
        await frames.reset()
        partial.close()


async def test_two_downloaders_get_a_blob_out_of_its_source_about_once(tmp_path: Path) -> None:
    """Each gets from the source what the other one has not got, and the rest from the other.

    The source is held back, so that there is time for news of the first chunks before it has sent the last.
    """
    data = random.Random(9).randbytes(64 * CHUNK)
    (tmp_path / "more").write_bytes(data)
    async with a_pair(tmp_path) as pair, host() as third, trio.open_nursery() as nursery:
        info = pair.holding.store.add_file(tmp_path / "more", chunk_size=CHUNK)
        gate = UploadGate(rate=40 * CHUNK)
        nursery.start_soon(gate.run)
        pair.holder.handle(BLOB_PROTOCOL, BlobServer(pair.holding.store, gate).serve)
        await third.connect(pair.holder.peer_id, pair.holder.listening)
        await third.connect(pair.taker.peer_id, pair.taker.listening)
        await until(lambda: len(third.connected) == 2 and third.peer_id in pair.taker.connected)
        places = {pair.taker: pair.taking, third: place(tmp_path / "third")}
        for taker, taking in places.items():
            taker.handle(BLOB_PROTOCOL, BlobServer(taking.store).serve)

        async def fetch(taker: Host, other: Host) -> None:
            download = Download(
                places[taker].store,
                info.hash,
                info.table,
                sha256=None,
                rng=random.Random(taker.peer_id),
                settings=SETTINGS,
            )
            for holder in (pair.holder, other):
                download.add_source(source_at(taker, holder, pair.faults))
            assert (await download.run()).path.read_bytes() == data

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as fetching:
                fetching.start_soon(fetch, pair.taker, third)
                fetching.start_soon(fetch, third, pair.taker)
        assert pair.faults == []
        assert len(data) <= gate.sent_bytes <= 1.5 * len(data)
        nursery.cancel_scope.cancel()


async def test_one_who_says_later_to_everything_holds_nobody_up(tmp_path: Path) -> None:
    asked: list[int] = []

    def later(_: Pair, request: ChunkRequest) -> tuple[Reply, bytes]:
        asked.append(request.index)
        return Refusal(request.number, "later"), b""

    async with a_pair(tmp_path) as pair, host() as good:
        pair.holder.handle(BLOB_PROTOCOL, answers(pair, on(ChunkRequest, later)))
        good.handle(BLOB_PROTOCOL, BlobServer(pair.holding.store).serve)
        await pair.taker.connect(good.peer_id, good.listening)
        info = await pair.fetch(source_at(pair.taker, good, pair.faults))
        assert info.path.read_bytes() == DATA
        assert (pair.faults, pair.bans) == ([], [])


async def test_one_who_says_later_for_ever_is_given_up(tmp_path: Path) -> None:
    asked: list[int] = []

    def later(_: Pair, request: ChunkRequest) -> tuple[Reply, bytes]:
        asked.append(request.index)
        return Refusal(request.number, "later"), b""

    settings = DownloadSettings(swarm=SwarmSettings(defer=0.05, rest=0.05), give_up_after=0.5)
    async with a_pair(tmp_path) as pair:
        pair.holder.handle(BLOB_PROTOCOL, answers(pair, on(ChunkRequest, later)))
        with pytest.raises(NoSource):
            await pair.fetch(settings=settings)
        # Each chunk is put off once. From then on it has failed, and after a few failures that is that.
        assert len(asked) < 10 * N_CHUNKS
        assert (pair.faults, pair.bans) == ([], [])


async def test_one_who_reads_nothing_does_not_keep_the_others_from_being_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PLACE_PATIENCE", 0.1)
    async with a_pair(tmp_path) as pair, host() as lazy:
        # More than the buffers on the way take.
        (tmp_path / "big").write_bytes(random.Random(8).randbytes(64 * CHUNK))
        big = pair.holding.store.add_file(tmp_path / "big", chunk_size=16 * CHUNK)
        await lazy.connect(pair.holder.peer_id, pair.holder.listening)
        for _ in range(8):
            frames = await lazy.open_stream(pair.holder.peer_id, BLOB_PROTOCOL)
            for index in range(4):
                await frames.send(ChunkRequest(index, big.hash, index).header())
        info = await pair.fetch()
        assert info.path.read_bytes() == DATA


async def test_one_who_asks_more_than_is_read_is_left_waiting(tmp_path: Path) -> None:
    """Requests beyond a bound are not even read, and others are served all the same."""
    async with a_pair(tmp_path) as pair:
        frames = await pair.stream()

        async def flood() -> None:
            for _ in range(100):
                for index in range(N_CHUNKS):
                    await frames.send(ChunkRequest(index, pair.info.hash, index).header())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            info = await pair.fetch()
            nursery.cancel_scope.cancel()
        assert info.path.read_bytes() == DATA
        await frames.reset()


async def test_one_stream_watches_one_blob(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        frames = await pair.stream()
        for number in range(20):
            blob = Hash.of(bytes([number]))
            await frames.send(HaveRequest(number, blob, watch=True).header())
            assert await told(frames) == (Refusal(number, ABSENT), b"")
        waiting = pair.holding.store._shelf.wakers._waiting
        assert list(waiting) == [Hash.of(bytes([19]))]
        await frames.reset()
        await until(lambda: not waiting)


async def test_a_priority_that_is_none_is_an_offence(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        offences = offences_of(pair.holder)
        frames = await pair.stream()
        await frames.send({**HaveRequest(0, pair.info.hash).header(), "p": 6})
        await until(lambda: offences)


async def test_questions_have_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_server, "QUESTION_BURST", 3.0)
    monkeypatch.setattr(blob_server, "QUESTION_RATE", 0.001)
    async with a_pair(tmp_path) as pair:
        frames = await pair.stream()
        for number in range(4):
            await frames.send(HaveRequest(number, pair.info.hash).header())
        for number in range(3):
            reply, _ = await told(frames)
            assert isinstance(reply, HaveReply)
            assert reply.number == number
        with trio.move_on_after(0.1) as waited:
            await told(frames)
        assert waited.cancelled_caught
        await frames.reset()


async def test_a_long_piece_of_a_table_waits_for_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_gate, "WAITS_FROM", 32 * N_CHUNKS)
    async with a_pair(tmp_path) as pair:
        ahead = [
            pair.gate.submit(pair.info.hash, 0, "ahead", 3, CHUNK, lambda: None)
            for _ in range(USUAL)
        ]
        frames = await pair.stream()
        await frames.send(TableRequest(1, pair.info.hash, 0, N_CHUNKS).header())
        await until(lambda: pair.gate._uploads.waiting)
        for each in ahead:
            each.withdraw()
        assert await told(frames) == (TableReply(1), pair.table.digests)
        await until(lambda: pair.gate.sent_bytes == 32 * N_CHUNKS)
        # One that is shorter does not wait, but counts.
        await frames.send(TableRequest(2, pair.info.hash, 1, N_CHUNKS).header())
        assert await told(frames) == (TableReply(2), pair.table.digests[32:])
        assert pair.gate.sent_bytes == 32 * (2 * N_CHUNKS - 1)
        await frames.reset()


async def test_what_a_peer_is_answered_counts_whatever_it_comes_over(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        holding = place(tmp_path / "partial")
        pair.holder.handle(BLOB_PROTOCOL, BlobServer(holding.store, pair.gate).serve)
        partial = begin(pair, holding, 1)
        first, second = await pair.stream(), await pair.stream()
        bitmap = -(-N_CHUNKS // 8)
        for frames in (first, second):
            await frames.send(HaveRequest(0, pair.info.hash).header())
            assert len((await told(frames))[1]) == bitmap
        assert pair.gate.sent_bytes == 2 * bitmap
        # As much as it gets in an hour and more, elsewhere.
        pair.gate.charge(pair.taker.peer_id, 2**30)
        for frames in (first, second):
            await frames.send(HaveRequest(1, pair.info.hash).header())
            with trio.move_on_after(0.1) as waited:
                await told(frames)
            assert waited.cancelled_caught
            await frames.reset()
        partial.abandon()
