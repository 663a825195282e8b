"""Downloads that are cut off, and what is left of them: all that was verified, and nothing else."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from transfer_support import CHUNK, MemorySource, World, bitmap_of, make_data

from peatnet.blobs import Database, Store
from peatnet.errors import DiskFull, LocalProtocolError, StorageError
from peatnet.transfer import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

    from peatnet.transfer import SourceLink


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, make_data(12))
    yield made
    made.close()


# Disks that fail.


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
    assert info.path.read_bytes() == world.data


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
