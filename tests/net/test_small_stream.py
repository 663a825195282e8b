"""Many small blobs over one stream: what comes, what is left out, and peers that break the protocol."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from blob_kit import CHUNK, DATA, a_pair, source_at
from net_tools import PATIENCE

from peatnet.blobs import Bitmap, Hash
from peatnet.errors import IntegrityError, NoSource, PeerLost, RemoteProtocolError
from peatnet.net import small_server, small_stream
from peatnet.net.small_stream import (
    ASK_BYTES,
    MAX_ASKED,
    MAX_BLOB,
    MAX_BYTES,
    SMALL_PROTOCOL,
    Wanted,
    ask_frame,
    busy_header,
    give_header,
)

if TYPE_CHECKING:
    from pathlib import Path

    from blob_kit import Pair

    from peatnet.net.frames import FrameStream

COUNT = MAX_ASKED + 22
NOBODYS = Wanted(Hash(bytes(32)), 100)
ALL_OF_ONE, NONE_OF_ONE = Bitmap.full(1), Bitmap(1)


def hold(pair: Pair, root: Path) -> list[tuple[Wanted, bytes]]:
    """Small blobs that the holder has: more than fit into one ask, by number and by size."""
    found = []
    for number in range(COUNT):
        data = random.Random(number).randbytes(100 + 113 * number)
        path = root / f"small-{number}"
        path.write_bytes(data)
        info = pair.holding.store.add_file(path)
        found.append((Wanted(info.hash, info.size), data))
    assert sum(len(data) for _, data in found) > 2 * ASK_BYTES
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


async def test_what_is_not_there_is_left_out_and_the_rest_comes(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        blobs = hold(pair, tmp_path)
        mixed = [each for wanted, _ in blobs for each in (NOBODYS, wanted)]
        got = await ask(pair, mixed)
        assert got == {2 * number + 1: data for number, (_, data) in enumerate(blobs)}
        assert await ask(pair, [NOBODYS] * (2 * MAX_ASKED + 1)) == {}
        assert pair.faults == []


async def test_another_size_is_as_good_as_not_there_and_accuses_nobody(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        ((wanted, data), *_) = hold(pair, tmp_path)
        sizes = [Wanted(wanted.blob, wanted.size + more) for more in (-1, 0, 1)]
        assert await ask(pair, sizes) == {1: data}
        assert pair.faults == []


async def test_a_blob_of_several_chunks_comes_whole(tmp_path: Path) -> None:
    path, data = tmp_path / "small", DATA[: 2 * CHUNK + 9]
    path.write_bytes(data)
    async with a_pair(tmp_path) as pair:
        info = pair.holding.store.add_file(path, chunk_size=CHUNK)
        assert await ask(pair, [Wanted(info.hash, info.size)]) == {0: data}


async def test_a_blob_that_is_gone_from_the_disk_is_left_out(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        blobs = hold(pair, tmp_path)
        gone = pair.holding.store.info(blobs[3][0].blob)
        assert gone is not None
        gone.path.unlink()
        got = await ask(pair, [wanted for wanted, _ in blobs])
        assert got == {number: data for number, (_, data) in enumerate(blobs) if number != 3}
        assert pair.faults == []


async def test_a_limit_lets_them_come_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_stream, "PACE_PATIENCE", 0.0)
    let_through = trio.Semaphore(2)

    async def pace() -> None:
        await let_through.acquire()

    got: list[int] = []

    def take(number: int, _data: bytes) -> None:
        # The limit lets one more through for each that has come: so each ask is for what it has let through.
        got.append(number)
        let_through.release()

    async with a_pair(tmp_path) as pair:
        wanted = [each for each, _ in hold(pair, tmp_path)[:9]]
        with trio.fail_after(PATIENCE):
            await pair.source().small(wanted, pace, take)
        assert got == list(range(9))


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


LIES: dict[str, tuple[dict[str, Any], bytes]] = {
    "another message": ({"t": "chunk", "i": 0, "c": 0}, bytes(100)),
    "more bytes than were asked for": (give_header(ALL_OF_ONE), bytes(101)),
    "fewer bytes than it says": (give_header(ALL_OF_ONE), bytes(99)),
    "bytes of nothing": (give_header(NONE_OF_ONE), bytes(100)),
    "more blobs than were asked for": ({"t": "give", "g": b"\x03"}, bytes(100)),
    "a bitmap that is too long": ({"t": "give", "g": bytes(2)}, b""),
    "no bitmap": ({"t": "give"}, b""),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_peer_that_breaks_the_protocol(
    tmp_path: Path, lie: tuple[dict[str, Any], bytes]
) -> None:
    async def serve(frames: FrameStream) -> None:
        await frames.read_payload(await frames.receive())
        await frames.send(*lie)
        await trio.sleep_forever()

    async with a_pair(tmp_path) as pair:
        pair.holder.handle(SMALL_PROTOCOL, serve)
        with pytest.raises(RemoteProtocolError):
            await ask(pair, [NOBODYS])
        assert len(pair.faults) == 1


@pytest.mark.parametrize("busy", [True, False])
async def test_a_peer_that_is_busy_or_goes_away(tmp_path: Path, *, busy: bool) -> None:
    async def serve(frames: FrameStream) -> None:
        await frames.receive()
        if busy:
            await frames.send(busy_header())
        else:
            await frames.reset()

    async with a_pair(tmp_path) as pair:
        pair.holder.handle(SMALL_PROTOCOL, serve)
        with pytest.raises(NoSource):
            await ask(pair, [NOBODYS] * COUNT)
        assert pair.faults == []


async def test_a_peer_that_does_not_speak_it(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        source = source_at(pair.taker, pair.holder, pair.faults, "/peatnet/small/0")
        with pytest.raises(NoSource), trio.fail_after(PATIENCE):
            await source.small([NOBODYS], trio.lowlevel.checkpoint, lambda _number, _data: None)
        assert pair.faults == []


async def test_a_source_without_such_streams(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        source = source_at(pair.taker, pair.holder, pair.faults, None)
        with pytest.raises(NoSource):
            await source.small([NOBODYS], trio.lowlevel.checkpoint, lambda _number, _data: None)


BAD_ASKS: dict[str, tuple[dict[str, Any], bytes]] = {
    "another message": ({"t": "get"}, ask_frame([NOBODYS])[1]),
    "nothing": ask_frame([]),
    "a part of an entry": ({"t": "ask"}, ask_frame([NOBODYS])[1][:-1]),
    "an empty blob": ask_frame([Wanted(NOBODYS.blob, 0)]),
    "a large blob": ask_frame([Wanted(NOBODYS.blob, MAX_BLOB + 1)]),
    "too many bytes": ask_frame([Wanted(NOBODYS.blob, MAX_BLOB)] * (MAX_BYTES // MAX_BLOB + 1)),
    "too many blobs": ask_frame([NOBODYS] * (MAX_ASKED + 1)),
}


@pytest.mark.parametrize("bad", BAD_ASKS.values(), ids=BAD_ASKS.keys())
async def test_an_ask_that_is_none_ends_the_stream(
    tmp_path: Path, bad: tuple[dict[str, Any], bytes]
) -> None:
    async with a_pair(tmp_path) as pair:
        frames = await pair.taker.open_stream(pair.holder.peer_id, SMALL_PROTOCOL)
        await frames.send(*bad)
        with pytest.raises(PeerLost), trio.fail_after(PATIENCE):
            await frames.receive()
        await frames.reset()


async def test_streams_of_one_peer_are_bounded_and_free_again(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        most = small_server.MAX_STREAMS_PER_PEER
        streams = [
            await pair.taker.open_stream(pair.holder.peer_id, SMALL_PROTOCOL)
            for _ in range(most + 1)
        ]
        with trio.fail_after(PATIENCE):
            for frames in streams:
                await frames.send(*ask_frame([NOBODYS]))
                kind = (await frames.receive()).fields.text("t", 16)
                assert kind == ("no" if frames is streams[-1] else "give")
            for frames in streams:
                await frames.reset()
            blobs = hold(pair, tmp_path)
            while True:
                # The holder hears of the ends in its own time.
                try:
                    got = await ask(pair, [wanted for wanted, _ in blobs])
                except NoSource:
                    await trio.sleep(0.01)
                else:
                    break
        assert len(got) == COUNT
