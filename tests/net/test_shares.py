"""Places for work: one peer has so many, all have so many, and those who wait have their turn."""

from __future__ import annotations

import trio
import trio.testing

from peatnet.net.shares import Shares


async def test_one_peer_has_its_share_and_the_others_theirs() -> None:
    shares, had = Shares(2, 3), list[str]()

    async def take(name: str) -> None:
        await shares.take(name)
        had.append(name)

    async with trio.open_nursery() as nursery:
        for name in ("one", "one", "one", "two", "two"):
            nursery.start_soon(take, name)
            await trio.testing.wait_all_tasks_blocked()
        assert had == ["one", "one", "two"]
        shares.give_back("two")
        await trio.testing.wait_all_tasks_blocked()
        assert had[3:] == ["two"]
        shares.give_back("one")
        await trio.testing.wait_all_tasks_blocked()
        assert had[4:] == ["one"]
    for name in ("one", "one", "two"):
        shares.give_back(name)
    assert not shares._peers


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    shares = Shares(1, 2)
    await shares.take("one")
    await shares.take("two")
    for name in ("one", "three"):  # for its own share; for the total
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shares.take, name)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert shares._peers.keys() == {"one", "two"}
    shares.give_back("two")
    with trio.fail_after(5):
        await shares.take("three")
    shares.give_back("one")
    shares.give_back("three")
    assert not shares._peers
