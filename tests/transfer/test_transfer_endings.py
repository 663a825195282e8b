"""Downloads that end otherwise: given up, refused, cut off; and what is left of them."""

from __future__ import annotations

import hashlib
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from transfer_support import CHUNK, MemorySource, World, bitmap_of, make_data, table_of

from peatnet.blobs import Database, Store
from peatnet.errors import (
    DiskFull,
    HttpSourceError,
    IntegrityError,
    LocalProtocolError,
    NoSource,
    RemoteProtocolError,
    StorageError,
)
from peatnet.swarm import Tier
from peatnet.transfer import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

    from peatnet.transfer import SourceLink


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


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """Writes beyond the limit fail with EFBIG, as on a disk that breaks: nothing can be reserved against it."""
    limit = 6 * CHUNK
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("threaded", [False, True])
async def test_a_write_that_fails_ends_the_download(
    world: World, file_size_limit: int, *, threaded: bool
) -> None:
    class Limited(MemorySource):
        async def run(self, link: SourceLink) -> None:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, hard))
            await super().run(link)

    source = Limited("peer:a", world.data, threaded=threaded, delay=0.0)
    download = world.download(source)
    with pytest.raises((DiskFull, StorageError)):
        await download.run()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert download.progress.stage is Stage.STOPPED
    kept = download.progress.verified_bytes
    # With the disk well again, it goes on from what it had.
    again = world.download(MemorySource("peer:a", world.data, threaded=True, delay=0.0))
    await again.run()
    assert again.progress.recovered_bytes == kept
    assert sum(again.progress.bytes_by_source.values()) == len(world.data) - kept


# Cut off, and resumed.


async def test_resume_fetches_nothing_twice(world: World, autojump_clock: MockClock) -> None:
    first = MemorySource("peer:a", world.data)
    download = world.download(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(download.run)
        while len(first.delivered) < 5:
            await download.changed()
        nursery.cancel_scope.cancel()
    assert download.progress.stage is Stage.STOPPED
    had = set(first.delivered)
    assert len(had) == 5
    world.store.close()
    world.database.close()

    # As after a restart: another store object, nothing in memory.
    world.database = Database.open(world.root / "peatnet.db")
    world.store = Store.open(world.root, world.database)
    second = MemorySource("peer:b", world.data)
    resumed = world.download(second)
    await resumed.run()
    assert set(second.asked) == set(range(12)) - had
    assert resumed.progress.recovered_bytes == sum(world.table.length_of(each) for each in had)
    assert world.store.info(world.hash) is not None


# On the real clock: a virtual one runs ahead of the threads that flush.


@pytest.mark.parametrize("flush_bytes", [CHUNK, 1024 * CHUNK])
async def test_what_arrived_is_made_durable_while_the_rest_is_awaited(
    world: World, flush_bytes: int
) -> None:
    source = MemorySource("peer:a", world.data, has=set(range(11)), delay=0.0)
    download = world.download(source, flush_bytes=flush_bytes, hash_step=CHUNK)
    have_file = world.root / "partial" / f"{world.hash.hex()}.have"
    claim = bitmap_of(12, range(11))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(download.run)
        with trio.fail_after(25):
            while (  # noqa: ASYNC110 - a file tells nobody of its changes
                not have_file.exists() or claim not in have_file.read_bytes()
            ):
                await trio.sleep(0.01)
        assert download.progress.stage is Stage.FETCHING
        assert source.link is not None
        source.link.gained([11])
    info = world.store.info(world.hash)
    assert info is not None
    assert info.sha256 == hashlib.sha256(world.data).hexdigest()


async def test_a_flush_that_fails_ends_the_download(world: World, file_size_limit: int) -> None:
    source = MemorySource("peer:a", world.data, has=set(range(5)))
    download = world.download(source)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def break_the_disk() -> None:
        while len(source.delivered) < 5:
            await download.changed()
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(break_the_disk)
        with pytest.raises((DiskFull, StorageError)):
            await download.run()
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    again = world.download(MemorySource("peer:a", world.data))
    await again.run()
    assert again.progress.recovered_bytes == 5 * CHUNK


async def test_a_store_that_is_closed_underneath_ends_it(world: World) -> None:
    class Closing(MemorySource):
        async def deliver(self, link: SourceLink, index: int) -> None:
            if len(self.delivered) == 4:
                link.write(index, self.data[index * CHUNK : index * CHUNK + CHUNK])
                world.store.close()
                link.arrived(index)
                await trio.sleep_forever()
            await super().deliver(link, index)

    # With these five, the hashers can go on and find the file closed.
    source = Closing("peer:a", world.data, has=set(range(5)))
    with pytest.raises(LocalProtocolError, match="closed"):
        await world.download(source, hash_step=5 * CHUNK).run()


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope after so many task steps, wherever everybody is then."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.scope = trio.CancelScope()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("threaded", [False, True])
async def test_cancelled_anywhere_nothing_leaks_and_all_is_kept(
    tmp_path: Path, *, threaded: bool
) -> None:
    world = World(tmp_path, make_data(6))
    before, kept, cuts = open_files(), 0, 0
    for step in range(1, 10_000):
        cut = CancelAtStep(step)
        sources = [
            MemorySource(f"peer:{k}", world.data, delay=0.0, threaded=threaded) for k in "ab"
        ]
        download = world.download(*sources, seed=step)
        trio.lowlevel.add_instrument(cut)
        with cut.scope:
            await download.run()
        trio.lowlevel.remove_instrument(cut)
        assert open_files() == before
        assert world.store.partial(world.hash) is None
        if download.progress.stage is Stage.DONE:
            break
        cuts += 1
        assert download.progress.stage is Stage.STOPPED
        verified = download.progress.verified_bytes
        if verified:
            # What an earlier run had counts again, and nobody was asked for it.
            assert download.progress.recovered_bytes == kept
            asked = {index for source in sources for index in source.asked}
            assert sum(world.table.length_of(index) for index in asked) + kept <= len(world.data)
            kept = verified
        if kept > 3 * CHUNK:
            world.store.discard(world.hash)
            kept = 0
    assert cuts > 10
    info = world.store.info(world.hash)
    assert info is not None
    assert info.path.read_bytes() == world.data
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
