"""Places for work: one peer has so many, all have so many, and those who wait have their turn."""

from __future__ import annotations

import trio
import trio.testing

from peatnet.net.peer_places import PeerPlaces


async def test_one_peer_has_its_share_and_the_others_theirs() -> None:
    places, had = PeerPlaces(2, 3), list[str]()

    async def take(name: str) -> None:
        await places.take(name)
        had.append(name)

    async with trio.open_nursery() as nursery:
        for name in ("one", "one", "one", "two", "two"):
            nursery.start_soon(take, name)
            await trio.testing.wait_all_tasks_blocked()
        assert had == ["one", "one", "two"]
        places.give_back("two")
        await trio.testing.wait_all_tasks_blocked()
        assert had[3:] == ["two"]
        places.give_back("one")
        await trio.testing.wait_all_tasks_blocked()
        assert had[4:] == ["one"]
    for name in ("one", "one", "two"):
        places.give_back(name)
    assert not places._peers


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    places = PeerPlaces(1, 2)
    await places.take("one")
    await places.take("two")
    for name in ("one", "three"):  # for its own share; for the total
        async with trio.open_nursery() as nursery:
            nursery.start_soon(places.take, name)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert places._peers.keys() == {"one", "two"}
    places.give_back("two")
    with trio.fail_after(5):
        await places.take("three")
    places.give_back("one")
    places.give_back("three")
    assert not places._peers
