"""The budget of a node on trio's virtual clock: what downloads are told, and what a stream may read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from peatnet.errors import LocalProtocolError
from peatnet.transfer.budget import DownloadBudget, Pacer, Share

if TYPE_CHECKING:
    from trio.testing import MockClock

MIB = 2**20


class Hungry:
    """A download that asks for all that it may, and gets it at once."""

    def __init__(self, budget: DownloadBudget, priority: int = 3) -> None:
        self.asked = 0
        self.told: list[tuple[int | None, int | None]] = []
        self.share: Share | None = None
        self.share = budget.join(priority, MIB, self.on_change)

    def on_change(self, ceiling: int | None, credit: int | None) -> None:
        self.told.append((ceiling, credit))
        if credit and self.share is not None:
            self.asked += credit
            self.share.requested(credit)
            self.share.out(0, progressing=True)


async def test_without_limits_nobody_is_told_anything(autojump_clock: MockClock) -> None:
    budget = DownloadBudget()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.run)
        one, other = Hungry(budget), Hungry(budget)
        await trio.sleep(10)
        assert one.told == other.told == []
        nursery.cancel_scope.cancel()


async def test_a_limit_is_told_before_join_returns_and_holds(autojump_clock: MockClock) -> None:
    budget = DownloadBudget(rate=10e6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.run)
        one = Hungry(budget)
        assert one.told[0] == (None, 0)
        await trio.sleep(10)
        assert one.asked * MIB == pytest.approx(100e6, rel=0.05)
        budget.set_rate(None)
        assert budget.rate is None
        assert one.told[-1] == (None, None)
        budget.set_rate(20e6)
        before = one.asked
        await trio.sleep(10)
        assert (one.asked - before) * MIB == pytest.approx(200e6, rel=0.05)
        nursery.cancel_scope.cancel()


async def test_who_has_left_is_told_nothing_and_may_say_anything(
    autojump_clock: MockClock,
) -> None:
    budget = DownloadBudget(rate=1e6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.run)
        one = Hungry(budget)
        assert one.share is not None
        one.share.set_priority(1)
        with pytest.raises(LocalProtocolError):
            one.share.set_priority(7)
        for _ in range(2):
            one.share.leave()
        before = list(one.told)
        one.share.requested(3)
        one.share.out(3, progressing=True)
        one.share.set_priority(9)
        one.share.tell()
        await trio.sleep(5)
        assert one.told == before
        nursery.cancel_scope.cancel()


async def test_several_readers_of_one_stream_keep_to_the_limit(autojump_clock: MockClock) -> None:
    budget, read = DownloadBudget(rate=1e6), 0

    async def reader(pacer: Pacer) -> None:
        nonlocal read
        while True:
            await pacer.wait()
            read += 1
            await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.run)
        with Pacer(budget, 3, 2**18) as pacer:
            with trio.move_on_after(20):
                async with trio.open_nursery() as readers:
                    for _ in range(4):
                        readers.start_soon(reader, pacer)
        assert read * 2**18 == pytest.approx(20e6, rel=0.05)
        nursery.cancel_scope.cancel()


async def test_without_a_budget_a_stream_never_waits() -> None:
    with Pacer(None, 3, 2**18) as pacer, trio.fail_after(1):
        await pacer.wait()
