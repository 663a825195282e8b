"""Downloads that end otherwise: given up, refused, cut off; and what is left of them."""

from __future__ import annotations

import gc
import hashlib
import weakref
from typing import TYPE_CHECKING

import pytest
import trio
from transfer_support import CHUNK, MemorySource, World, make_data, table_of

from peatnet.blobs import Store
from peatnet.errors import (
    DiskFull,
    HttpSourceError,
    IntegrityError,
    LocalProtocolError,
    NoSource,
    RemoteProtocolError,
)
from peatnet.swarm import Tier
from peatnet.transfer import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

    from peatnet.transfer import SourceLink


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, make_data(12))
    yield made
    made.close()


# Nothing to be had.


async def test_no_source_at_all(world: World, autojump_clock: MockClock) -> None:
    download = world.download(give_up_after=30)
    began = trio.current_time()
    with pytest.raises(NoSource, match="12 of 12 chunks") as caught:
        await download.run()
    assert trio.current_time() - began == pytest.approx(30, abs=0.01)
    assert caught.value.hint
    assert download.progress.stage is Stage.STOPPED
    assert not download.add_source(MemorySource("peer:late", world.data))
    await download.changed()  # there will be none: it returns


async def test_what_a_lost_source_had_in_use_is_let_go_while_others_go_on(
    world: World, autojump_clock: MockClock
) -> None:
    class Buffer:
        pass

    buffers: list[weakref.ref[Buffer]] = []

    class Leaving(MemorySource):
        async def run(self, link: SourceLink) -> None:
            buffer = Buffer()
            buffers.append(weakref.ref(buffer))
            try:
                await super().run(link)
            except NoSource as exc:
                raise NoSource(f"{buffer}: gone") from exc

    lost = Leaving("peer:lost", world.data, vanish_after=0)
    download = world.download(lost, MemorySource("peer:slow", world.data, delay=60.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(download.run)
        while not buffers or lost.name in download.progress.alive:
            await download.changed()
        await trio.sleep(1)
        gc.collect()
        assert download.progress.stage is Stage.FETCHING
        assert [buffer() for buffer in buffers] == [None]
        nursery.cancel_scope.cancel()


async def test_a_source_that_comes_late_is_in_time(world: World, autojump_clock: MockClock) -> None:
    download = world.download(give_up_after=30)

    async def come_late() -> None:
        while download.progress.stage is not Stage.FETCHING:
            await download.changed()
        await trio.sleep(29)
        download.add_source(MemorySource("peer:late", world.data))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_late)
        await download.run()
    assert world.store.info(world.hash) is not None


async def test_it_can_wait_for_ever(world: World, autojump_clock: MockClock) -> None:
    download = world.download(give_up_after=float("inf"))
    with trio.move_on_after(100_000) as scope:
        await download.run()
    assert scope.cancelled_caught


async def test_a_source_that_has_nothing_for_us_is_no_source(
    world: World, autojump_clock: MockClock
) -> None:
    download = world.download(
        MemorySource("peer:empty", world.data, has=set()),
        MemorySource("peer:some", world.data, has={0, 1}),
    )
    with pytest.raises(NoSource, match="10 of 12 chunks"):
        await download.run()
    (partial,) = world.store.partials()
    assert partial.verified_bytes == 2 * CHUNK


async def test_a_silent_source_is_dropped_in_the_end(
    world: World, autojump_clock: MockClock
) -> None:
    silent = MemorySource("peer:silent", world.data, swallow=set(range(12)))
    with pytest.raises(NoSource, match=r"peer:silent: .*no answer in time"):
        await world.download(silent).run()


async def test_http_alone_that_failed_is_not_waited_for(
    world: World, autojump_clock: MockClock
) -> None:
    class NotFound(MemorySource):
        async def run(self, link: SourceLink) -> None:
            link.has(None)
            await link.next_request()
            raise HttpSourceError(f"{self.name}: HTTP 404", hint="look at the URL")

    source = NotFound("http:x", world.data, tier=Tier.HTTP)
    download = world.download(source, give_up_after=1000, tiers=frozenset({Tier.HTTP}))
    began = trio.current_time()
    with pytest.raises(HttpSourceError, match="404") as caught:
        await download.run()
    assert caught.value.hint == "look at the URL"
    assert trio.current_time() - began < 10


async def test_only_corrupt_sources(world: World, autojump_clock: MockClock) -> None:
    liars = [MemorySource(f"peer:{k}", world.data, corrupt=set(range(12))) for k in range(5)]
    with pytest.raises(IntegrityError, match="and 2 more"):
        await world.download(*liars).run()
    assert len(world.bans) == 5
    (partial,) = world.store.partials()
    assert partial.verified_bytes == 0


# A whole that is wrong.


async def test_the_whole_has_another_hash(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World(tmp_path, make_data(4))
    other = make_data(4, seed=2)
    world.table = table_of(other)
    download = world.download(MemorySource("peer:a", other))
    with pytest.raises(IntegrityError, match="BLAKE3"):
        await download.run()
    assert world.store.partials() == []
    assert world.store.info(world.hash) is None
    world.close()


async def test_the_whole_has_another_sha256(world: World, autojump_clock: MockClock) -> None:
    wrong = hashlib.sha256(b"something else").hexdigest()
    download = world.download(MemorySource("peer:a", world.data), sha256=wrong)
    with pytest.raises(IntegrityError, match=wrong):
        await download.run()
    assert world.store.partials() == []
    assert world.store.info(world.hash) is None
    # The bytes were right: with the right manifest they come.
    await world.download(MemorySource("peer:a", world.data)).run()
    assert world.store.info(world.hash) is not None


# Full disks.


async def test_no_room_is_said_before_the_first_byte(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = World(tmp_path, make_data(4))
    world.store.close()
    world.store = Store.open(tmp_path, world.database, quota=CHUNK)
    source = MemorySource("peer:a", world.data)
    with pytest.raises(DiskFull):
        await world.download(source).run()
    assert source.runs == 0
    world.close()


async def test_what_a_cancellation_stirs_up_in_a_source_is_no_news(
    world: World, autojump_clock: MockClock
) -> None:
    class Startled(MemorySource):
        async def run(self, link: SourceLink) -> None:
            async def startle() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    raise NoSource("startled")

            link.has(None)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(startle)
                nursery.start_soon(trio.sleep_forever)

    download = world.download(Startled("peer:a", world.data), Startled("peer:b", world.data))
    with trio.move_on_after(1) as scope:
        await download.run()
    assert scope.cancelled_caught
    # Nor when it is the end of the download that cancels them.
    honest = MemorySource("peer:c", world.data)
    await world.download(Startled("peer:a", world.data), honest).run()
    assert world.store.info(world.hash) is not None


# Sources that use their link wrongly.


class Misuse(MemorySource):
    what = ""

    async def run(self, link: SourceLink) -> None:
        assert link.poll_request() is None
        if self.what == "short bitmap":
            link.has(b"\xff")
        elif self.what == "padding":
            link.has(b"\xff\xff")
        elif self.what == "index":
            link.gained([0, 12])
        elif self.what == "arrived":
            link.has(None)
            link.arrived(await link.next_request())


@pytest.mark.parametrize("what", ["short bitmap", "padding", "index"])
async def test_nonsense_from_a_peer_loses_the_peer(
    world: World, autojump_clock: MockClock, what: str
) -> None:
    source = Misuse("peer:a", world.data)
    source.what = what
    with pytest.raises(NoSource, match="peer:a: "):
        await world.download(source).run()


async def test_an_arrival_that_was_not_written_is_a_bug(
    world: World, autojump_clock: MockClock
) -> None:
    source = Misuse("peer:a", world.data)
    source.what = "arrived"
    with pytest.raises(LocalProtocolError, match="not written"):
        await world.download(source).run()


async def test_reports_after_the_end_are_ignored(world: World, autojump_clock: MockClock) -> None:
    source = MemorySource("peer:a", world.data, delay=1.0, pipeline=1)
    other = MemorySource("peer:b", world.data, delay=1.0, pipeline=1)
    download = world.download(source, other)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(download.run)
        while not source.delivered:
            await download.changed()
        link = source.link
        assert link is not None
        download.remove_source("peer:a")
        missing = next(index for index in range(12) if link.wants(index))
        assert link.cancelled(missing)
        link.has(None)
        link.gained([missing])
        link.failed(missing, "too late")
        link.corrupt(missing)
        # A chunk that is on disk counts all the same.
        link.write(missing, world.data[missing * CHUNK : missing * CHUNK + CHUNK])
        before = download.progress.verified_bytes
        link.arrived(missing)
        assert download.progress.verified_bytes > before
        with pytest.raises(RemoteProtocolError):
            link.has(b"")
    assert world.bans == []
    assert missing not in other.delivered
