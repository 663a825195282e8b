"""More peers than are used at once: who waits, who has to make room; and the bounds that a budget sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from transfer_support import CHUNK, MemorySource, World, make_data

from peatnet.errors import LocalProtocolError
from peatnet.swarm import Tier
from peatnet.transfer import Stage
from peatnet.transfer.budget import DownloadBudget
from peatnet.transfer.roster import HURRY, TURN, Roster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

    from peatnet.transfer import SourceLink

N = 40


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, make_data(N))
    yield made
    made.close()


def peers(world: World, count: int, **knobs: object) -> list[MemorySource]:
    return [MemorySource(f"peer:{i}", world.data, **knobs) for i in range(count)]  # type: ignore[arg-type]


async def test_no_more_peers_are_used_than_there_are_places(
    world: World, autojump_clock: MockClock
) -> None:
    sources = peers(world, 6)
    web = MemorySource("http:web", world.data, tier=Tier.HTTP)
    download = world.download(*sources, web, max_sources=2)
    most = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(download.run)
        while download.progress.stage is not Stage.DONE:
            alive = [name for name in download.progress.alive if name != "http:web"]
            most = max(most, len(alive))
            await download.changed()
    assert most == 2
    assert [source.runs for source in sources] == [1, 1, 0, 0, 0, 0]
    assert web.runs == 1  # servers take no peer's place


async def test_a_peer_that_waits_takes_the_place_of_one_that_is_lost(
    world: World, autojump_clock: MockClock
) -> None:
    first, second, third = peers(world, 3)
    first.vanish_after = 3
    download = world.download(first, second, third, max_sources=1)
    second.vanish_after = 2
    await download.run()
    assert [len(each.delivered) for each in (first, second, third)] == [3, 2, N - 5]


async def test_a_peer_that_waits_can_be_taken_away(world: World, autojump_clock: MockClock) -> None:
    first, second, third = peers(world, 3)
    first.vanish_after = 3
    download = world.download(first, second, third, max_sources=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(download.run)
        while not first.delivered:
            await download.changed()
        assert not download.add_source(second)  # it is in the line already
        download.remove_source("peer:1")
    assert second.runs == 0
    assert third.runs == 1


async def test_one_that_has_nothing_new_makes_room_and_gets_its_turn_again(
    world: World, autojump_clock: MockClock
) -> None:
    poor, slow, rich = peers(world, 3, delay=1.0)
    poor.has = {0}
    slow.delay = 30.0
    download = world.download(poor, slow, rich, max_sources=2)
    await download.run()
    assert rich.runs >= 1
    assert len(rich.delivered) > N / 2


async def test_the_only_one_of_many_that_has_anything_is_found_soon(
    world: World, autojump_clock: MockClock
) -> None:
    crowd = peers(world, 60)
    for each in crowd[:-1]:
        each.has = set()
    # The first ten have nothing, and so have the next forty-nine; with a turn of five seconds each this would give up.
    download = world.download(*crowd, max_sources=10, give_up_after=15.0)
    await download.run()
    assert len(crowd[-1].delivered) == N


def test_one_that_has_not_said_what_it_has_is_given_more_time_to_do_so() -> None:
    roster = Roster(2)
    for name in ("empty", "far away"):
        roster.entered(name, 0.0)
    roster.wait(MemorySource("peer:next", b""))
    said = {"empty": False, "far away": None}
    assert roster.of_little_use({}, said.__getitem__, HURRY) == ["empty"]
    said["empty"] = None
    assert roster.of_little_use({}, said.__getitem__, TURN - 0.1) == []
    roster.wait(MemorySource("peer:another", b""))
    assert roster.of_little_use({}, said.__getitem__, TURN) == ["empty", "far away"]


async def test_a_credit_holds_requests_back_until_there_is_more(
    world: World, autojump_clock: MockClock
) -> None:
    clock = trio.current_time
    budget = DownloadBudget(rate=4 * CHUNK, clock=clock)
    source = MemorySource("peer:a", world.data, delay=0.0)
    download = world.download(source, budget=budget)
    began = clock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.run)
        await download.run()
        nursery.cancel_scope.cancel()
    # Not sooner than the limit allows; the clock also jumps while worker threads are waited for.
    assert clock() - began > N / 4 - 2


async def test_what_comes_to_nothing_costs_no_credit(
    world: World, autojump_clock: MockClock
) -> None:
    budget = DownloadBudget(rate=4 * CHUNK)
    shares: list[int] = []
    share = budget.join(3, CHUNK, lambda ceiling, credit: shares.append(credit or 0))
    share.requested(3)
    before = shares[-1]
    share.requested(-3)
    share.tell()
    assert shares[-1] >= before
    share.leave()
    picky = MemorySource("peer:a", world.data, delay=0.0, refuse={3})
    other = MemorySource("peer:b", world.data, delay=1.0)
    download = world.download(picky, other, budget=budget)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.run)
        await download.run()
        nursery.cancel_scope.cancel()
    assert download.progress.verified_bytes == len(world.data)


async def test_of_two_downloads_the_urgent_one_gets_nearly_all(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    budget = DownloadBudget(rate=10 * CHUNK)
    worlds = []
    for name in ("urgent", "idle"):
        (tmp_path / name).mkdir()
        worlds.append(World(tmp_path / name, make_data(N)))
    urgent, lesser = (
        world.download(
            MemorySource("peer:a", world.data, delay=0.0), budget=budget, priority=priority
        )
        for world, priority in zip(worlds, (1, 5), strict=True)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(urgent.run)
        nursery.start_soon(lesser.run)
        while not (urgent.progress.alive and lesser.progress.alive):
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(budget.run)
        before = lesser.progress.verified_bytes
        missing = N * CHUNK - urgent.progress.verified_bytes
        while urgent.progress.verified_bytes < N * CHUNK - CHUNK:
            await urgent.changed()
        assert lesser.progress.verified_bytes - before < 0.3 * missing
        nursery.cancel_scope.cancel()
    for world in worlds:
        world.close()


async def test_priority_changes_reach_every_link(world: World, autojump_clock: MockClock) -> None:
    source = MemorySource("peer:a", world.data, delay=1.0)
    budget = DownloadBudget()
    download = world.download(source, budget=budget, priority=2)
    assert download.priority == 2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(download.run)
        while not source.delivered:
            await download.changed()
        assert source.link is not None
        assert source.link.priority == 2
        download.set_priority(5)
        assert source.link.priority == 5
        with pytest.raises(LocalProtocolError, match="priority 6"):
            download.set_priority(6)
        nursery.cancel_scope.cancel()


async def test_a_source_may_put_off_chunks_without_harm(
    world: World, autojump_clock: MockClock
) -> None:
    class Reluctant(MemorySource):
        async def deliver(self, link: SourceLink, index: int) -> None:
            if index % 2 and self.asked.count(index) == 1:
                link.deferred(index)
            else:
                await super().deliver(link, index)

    source = Reluctant("peer:a", world.data)
    await world.download(source).run()
    assert sorted(source.delivered) == list(range(N))
    assert len(source.asked) == N + N // 2


def test_who_is_judged_and_who_is_let_go() -> None:
    roster = Roster(3)
    source = MemorySource("peer:new", b"")
    for name in ("a", "b", "c"):
        assert roster.next() is None
        roster.entered(name, 0.0)
    brought = {"a": 100, "b": 100}
    assert roster.of_little_use(brought, lambda _: True, TURN - 1) == []  # too early
    assert roster.of_little_use(brought, lambda _: True, TURN) == []  # nobody waits
    roster.wait(source)
    assert roster.waiting == 1
    assert roster.next() is None  # all places are taken
    brought = {"a": 200, "b": 200}
    assert roster.of_little_use(brought, lambda _: True, 2 * TURN) == ["c"]
    assert roster.of_little_use(brought, lambda name: name != "b", 3 * TURN) == ["b"]
    assert roster.of_little_use(brought, lambda _: False, 4 * TURN) == ["a"]  # one waits, one goes
    roster.left("a")
    assert roster.of_little_use(brought, lambda _: False, 5 * TURN) == []  # there is a place
    assert roster.next() is source
    roster.forget("unknown")
    roster.left("unknown")
