"""Many blobs of one chunk over one stream: what comes, what is refused, and peers that break the protocol."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from blob_kit import CHUNK, DATA, a_pair
from net_tools import PATIENCE

from peatnet.blobs import Hash
from peatnet.errors import IntegrityError, NoSource, RemoteProtocolError
from peatnet.net.blob_messages import (
    ChunkReply,
    HaveReply,
    Refusal,
    TableReply,
    decode_request,
)
from peatnet.net.network import BLOB_PROTOCOL
from peatnet.net.small_stream import PIPELINE, Wanted

if TYPE_CHECKING:
    from pathlib import Path

    from blob_kit import Pair

    from peatnet.net.frames import FrameStream

COUNT = 3 * PIPELINE
NOBODYS = Wanted(Hash(bytes(32)), 100)


def hold(pair: Pair, root: Path) -> list[tuple[Wanted, bytes]]:
    """Small blobs that the holder has."""
    found = []
    for number in range(COUNT):
        data = random.Random(number).randbytes(100 + 613 * number)
        path = root / f"small-{number}"
        path.write_bytes(data)
        info = pair.holding.store.add_file(path, chunk_size=CHUNK)
        found.append((Wanted(info.hash, info.size), data))
    return found


async def ask(pair: Pair, wanted: list[Wanted]) -> dict[int, bytes]:
    got: dict[int, bytes] = {}
    with trio.fail_after(PATIENCE):
        await pair.source().small(wanted, trio.lowlevel.checkpoint, got.__setitem__)
    return got


async def test_all_come_over_one_stream(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        blobs = hold(pair, tmp_path)
        got = await ask(pair, [wanted for wanted, _ in blobs])
        assert got == {number: data for number, (_, data) in enumerate(blobs)}
        assert pair.gate.sent_bytes == sum(len(data) for _, data in blobs)
        assert pair.faults == []
        assert await ask(pair, []) == {}


async def test_what_is_not_there_is_refused_and_the_rest_comes(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        blobs = hold(pair, tmp_path)
        mixed = [each for wanted, _ in blobs for each in (NOBODYS, wanted)]
        got = await ask(pair, mixed)
        assert got == {2 * number + 1: data for number, (_, data) in enumerate(blobs)}


async def test_a_blob_cut_into_other_chunks_is_as_good_as_a_refusal(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        blobs = hold(pair, tmp_path)
        in_chunks = Wanted(pair.info.hash, len(DATA))
        got = await ask(pair, [in_chunks, *(wanted for wanted, _ in blobs)])
        assert got == {number + 1: data for number, (_, data) in enumerate(blobs)}
        assert pair.faults == []


async def test_more_bytes_than_the_blob_has_end_it_and_accuse_nobody(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        with pytest.raises(NoSource):
            await ask(pair, [Wanted(pair.info.hash, CHUNK - 1)])
        assert pair.faults == []


async def test_what_take_raises_ends_it(tmp_path: Path) -> None:
    def refuse(_number: int, _data: bytes) -> None:
        raise IntegrityError("wrong")

    async with a_pair(tmp_path) as pair:
        blobs = hold(pair, tmp_path)
        wanted = [wanted for wanted, _ in blobs]
        with pytest.raises(IntegrityError), trio.fail_after(PATIENCE):
            await pair.source().small(wanted, trio.lowlevel.checkpoint, refuse)
        assert pair.faults == []
        assert len(await ask(pair, wanted)) == COUNT


LIES: dict[str, list[tuple[Any, bytes]]] = {
    "another number": [(ChunkReply(1, 0), bytes(100))],
    "another chunk": [(ChunkReply(0, 1), bytes(100))],
    "a refusal of nothing": [(Refusal(7, "absent"), b"")],
    "a table": [(TableReply(0), bytes(32))],
    "what it has": [(HaveReply(0, 100, CHUNK, Hash(bytes(32)), full=True), b"")],
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_peer_that_breaks_the_protocol(
    tmp_path: Path, lie: list[tuple[Any, bytes]]
) -> None:
    async def serve(frames: FrameStream) -> None:
        decode_request((await frames.receive()).fields)
        for reply, payload in lie:
            await frames.send(reply.header(), payload)
        await trio.sleep_forever()

    async with a_pair(tmp_path) as pair:
        pair.holder.handle(BLOB_PROTOCOL, serve)
        with pytest.raises(RemoteProtocolError):
            await ask(pair, [NOBODYS])
        assert len(pair.faults) == 1


async def test_a_peer_that_goes_away(tmp_path: Path) -> None:
    async def serve(frames: FrameStream) -> None:
        await frames.receive()
        await frames.reset()

    async with a_pair(tmp_path) as pair:
        pair.holder.handle(BLOB_PROTOCOL, serve)
        with pytest.raises(NoSource):
            await ask(pair, [NOBODYS] * COUNT)
        assert pair.faults == []
