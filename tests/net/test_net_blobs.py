"""``/peatnet/blob/1`` between real hosts: honest holders, holders that lie, and downloaders that do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import trio
from blob_kit import (
    CHUNK,
    DATA,
    N_CHUNKS,
    Pair,
    a_pair,
    answers,
    chunk_of,
    on,
)
from blob_lies import LIES, RAW_LIES
from net_tools import PATIENCE, place, until

from peatnet.blobs import Hash
from peatnet.errors import NoSource, PeatnetError, PeerLost, RemoteProtocolError
from peatnet.net import blob_server, peer_source, stream_fetch
from peatnet.net.blob_messages import (
    ChunkReply,
    ChunkRequest,
    HaveRequest,
    Refusal,
    Reply,
    Request,
    TableReply,
    TableRequest,
    decode_reply,
)
from peatnet.net.blob_server import BlobServer
from peatnet.net.network import BLOB_PROTOCOL

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.net.frames import FrameStream

# Honest holders


async def test_a_blob_comes_whole(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        assert await pair.source().table(pair.info.hash) == pair.table
        info = await pair.fetch()
        assert info.path.read_bytes() == DATA
        assert (pair.faults, pair.bans) == ([], [])


async def test_only_who_has_verified_the_whole_vouches_for_a_table(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        given = await pair.source().given_table(pair.info.hash)
        assert given == (pair.table, True)
        other = Hash(bytes(32))  # of which somebody gave the holder the table of another blob
        with pair.holding.store.start_partial(pair.table, other) as partial:
            for index in range(N_CHUNKS):
                partial.write(index, chunk_of(pair.table, index))
            assert await pair.source().given_table(other) == (pair.table, False)


async def test_a_table_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_source, "MAX_TABLE_PIECE", 5)
    async with a_pair(tmp_path) as pair:
        assert await pair.source().table(pair.info.hash) == pair.table
        assert await pair.source().table(Hash(bytes(32))) is None


async def test_a_partial_holder_gives_what_it_has_and_what_it_gains(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        holding = place(tmp_path / "partial")
        partial = holding.store.start_partial(pair.table, pair.info.hash)

        def put(index: int) -> None:
            offset = pair.table.offset_of(index)
            partial.write(index, DATA[offset : offset + pair.table.length_of(index)])

        for index in range(0, N_CHUNKS, 2):
            put(index)
        pair.holder.handle(BLOB_PROTOCOL, BlobServer(holding.store).serve)
        async with trio.open_nursery() as nursery:

            async def gain() -> None:
                await until(lambda: pair.taking.store.partial(pair.info.hash) is not None)
                taken = pair.taking.store.partial(pair.info.hash)
                assert taken is not None
                await until(lambda: taken.has(0))
                for index in range(1, N_CHUNKS, 2):
                    put(index)

            nursery.start_soon(gain)
            info = await pair.fetch()
        partial.close()
        assert info.path.read_bytes() == DATA
        assert pair.faults == []


async def test_a_holder_with_other_chunks_is_no_use_but_no_liar(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        holding = place(tmp_path / "other")
        holding.store.add_file(tmp_path / "data", chunk_size=2 * CHUNK)
        pair.holder.handle(BLOB_PROTOCOL, BlobServer(holding.store).serve)
        with pytest.raises(NoSource):
            await pair.fetch()
        assert (pair.faults, pair.bans) == ([], [])


async def test_a_download_that_is_cancelled_leaves_the_connection_whole(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        for pause in (0.0, 0.002, 0.005, 0.01, 0.02, 0.05):
            with trio.move_on_after(pause):
                await pair.fetch()
        info = await pair.fetch()
        assert info.path.read_bytes() == DATA
        network: Any = pair.taker.libp2p.get_network()
        (connection,) = network.get_connections()
        await until(lambda: not connection.muxed_conn.streams)


# Holders that lie


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_holder_that_breaks_the_protocol_answers_for_it(tmp_path: Path, lie: Any) -> None:
    async with a_pair(tmp_path) as pair:
        pair.holder.handle(BLOB_PROTOCOL, answers(pair, lie))
        await pair.fetch_until(lambda: pair.faults)
        assert len(pair.faults) == 1, pair.faults


@pytest.mark.parametrize("data", RAW_LIES.values(), ids=RAW_LIES.keys())
async def test_a_holder_that_sends_garbage_answers_for_it(tmp_path: Path, data: bytes) -> None:
    async def serve(frames: FrameStream) -> None:
        await frames.receive()
        await frames._stream.write(data)
        await trio.sleep_forever()

    async with a_pair(tmp_path) as pair:
        pair.holder.handle(BLOB_PROTOCOL, serve)
        with pytest.raises(RemoteProtocolError):
            await pair.source().table(pair.info.hash)
        await pair.fetch_until(lambda: pair.faults)
        assert len(pair.faults) == 1


async def test_corrupt_chunks_are_a_ban(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        lie = on(ChunkRequest, lambda _, r: (ChunkReply(r.number, r.index), bytes(CHUNK)))
        pair.holder.handle(BLOB_PROTOCOL, answers(pair, lie))
        await pair.fetch_until(lambda: pair.bans)
        assert pair.bans == [f"peer:{pair.holder.peer_id}"]


TABLE_LIES: dict[str, Any] = {
    "another table": on(TableRequest, lambda p, r: (TableReply(r.number), bytes(32 * N_CHUNKS))),
    "a table too short": on(TableRequest, lambda _, r: (TableReply(r.number), bytes(32))),
    "a table too long": on(TableRequest, lambda _, r: (TableReply(r.number), bytes(32 * 99))),
    "another number": on(TableRequest, lambda p, _: (TableReply(77), p.table.digests)),
    "a chunk": on(TableRequest, lambda p, _: (ChunkReply(1, 0), chunk_of(p.table, 0))),
    "a refusal of nothing": on(TableRequest, lambda *_: (Refusal(77, "absent"), b"")),
    "a bitmap of any length": on(HaveRequest, lambda p, _: (p.have(full=False), bytes(10**6))),
    "a refusal of another question": on(HaveRequest, lambda *_: (Refusal(5, "absent"), b"")),
}


@pytest.mark.parametrize("lie", TABLE_LIES.values(), ids=TABLE_LIES.keys())
async def test_a_table_that_does_not_fit_the_question(tmp_path: Path, lie: Any) -> None:
    async with a_pair(tmp_path) as pair:
        pair.holder.handle(BLOB_PROTOCOL, answers(pair, lie))
        with pytest.raises(RemoteProtocolError):
            await pair.source().table(pair.info.hash)


async def test_a_holder_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_source, "TABLE_TIMEOUT", 0.2)
    monkeypatch.setattr(stream_fetch, "STALL_TIMEOUT", 0.2)

    async def serve(frames: FrameStream) -> None:
        await trio.sleep_forever()

    async with a_pair(tmp_path) as pair:
        pair.holder.handle(BLOB_PROTOCOL, serve)
        with pytest.raises(PeerLost):
            await pair.source().table(pair.info.hash)
        with pytest.raises(NoSource):
            await pair.fetch()
        assert pair.faults == []


# Downloaders that lie


async def test_requests_in_a_row_are_all_answered(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        frames = await pair.stream()
        blob = pair.info.hash
        requests: list[Request] = [
            ChunkRequest(5, blob, N_CHUNKS - 1),
            ChunkRequest(6, blob, N_CHUNKS),
            ChunkRequest(7, Hash(bytes(32)), 0),
            TableRequest(8, blob, N_CHUNKS - 1, 100),
            TableRequest(9, blob, N_CHUNKS + 100, 1),
            HaveRequest(10, blob),
        ]
        for request in requests:
            await frames.send(request.header())
        found = []
        for _ in requests:
            frame = await frames.receive()
            found.append((decode_reply(frame.fields), await frames.read_payload(frame)))
        await frames.reset()
        found.sort(key=lambda answer: answer[0].number)  # chunks may be overtaken
        assert found == [
            (ChunkReply(5, N_CHUNKS - 1), DATA[-777:]),
            (Refusal(6, "absent"), b""),
            (Refusal(7, "absent"), b""),
            (TableReply(8), pair.table.digests[-32:]),
            (TableReply(9), b""),
            (pair.have(number=10), b""),
        ]


async def test_a_peer_has_only_so_many_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_server, "MAX_STREAMS_PER_PEER", 2)
    async with a_pair(tmp_path) as pair:
        held = [await asked(pair) for _ in range(2)]
        refused = await pair.stream()
        assert await answer_to(refused, HaveRequest(3, pair.info.hash)) == Refusal(3, "busy")
        with pytest.raises(NoSource):
            await pair.fetch()
        assert pair.faults == []
        for frames in [*held, refused]:
            await frames.reset()
        await until_served(pair)


async def test_idle_streams_give_way_when_all_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_server, "MAX_STREAMS", 2)
    monkeypatch.setattr(blob_server, "GIVES_WAY_AFTER", math.inf)
    async with a_pair(tmp_path) as pair:
        oldest, other = await asked(pair), await asked(pair)
        refused = await pair.stream()
        assert await answer_to(refused, HaveRequest(3, pair.info.hash)) == Refusal(3, "busy")
        monkeypatch.setattr(blob_server, "GIVES_WAY_AFTER", 0.0)
        await asked(pair)
        with pytest.raises(PeerLost):
            await oldest.receive()
        assert await answer_to(other, HaveRequest(4, pair.info.hash)) == pair.have(number=4)


async def answer_to(frames: FrameStream, request: HaveRequest) -> Reply:
    await frames.send(request.header())
    return decode_reply((await frames.receive()).fields)


async def asked(pair: Pair) -> FrameStream:
    """A stream that is being served."""
    frames = await pair.stream()
    assert await answer_to(frames, HaveRequest(1, pair.info.hash)) == pair.have(number=1)
    return frames


async def until_served(pair: Pair) -> None:
    with trio.fail_after(PATIENCE):
        while True:
            frames = await pair.stream()
            reply = await answer_to(frames, HaveRequest(1, pair.info.hash))
            await frames.reset()
            if reply == pair.have(number=1):
                return


async def test_a_stream_that_asks_nothing_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_server, "IDLE_TIMEOUT", 0.1)
    async with a_pair(tmp_path) as pair:
        frames = await pair.stream()
        with pytest.raises(PeerLost):
            await frames.receive()


async def test_readers_are_closed_when_a_downloader_goes(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        frames = await asked(pair)
        await frames.reset()
        await until(lambda: _removable(pair))


def _removable(pair: Pair) -> bool:
    try:
        pair.holding.store.remove(pair.info.hash, force=True)
    except PeatnetError:
        return False
    return True
