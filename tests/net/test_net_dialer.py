"""The dialer's decisions on trio's virtual clock, over a host that only keeps account."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest
import trio

from peatnet.errors import PeerLost
from peatnet.net.dialer import (
    ENOUGH_CONNECTIONS,
    FIRST_RETRY,
    LASTING,
    LEARNED_FAILURES,
    LONGEST_RETRY,
    MAX_LEARNED,
    MAX_LOST,
    PARALLEL_DIALS,
    PARALLEL_LOST,
    Dialer,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from peatnet.net.host import PeerCallback

ADDRESS = "/ip4/192.0.2.1/tcp/1"


class Switchboard:
    """Notes every dial; ``answers`` decides what comes of it."""

    peer_id = "me"

    def __init__(self) -> None:
        self.connected: set[str] = set()
        self.banned: set[str] = set()
        self.answers: set[str] = set()
        self.on_change: list[PeerCallback] = []
        self.dials: list[tuple[float, str]] = []
        self.takes = 0.0
        self.dialling = 0
        self.most_at_once = 0

    def is_banned(self, peer_id: str) -> bool:
        return peer_id in self.banned

    async def connect(self, peer_id: str, addresses: list[str]) -> None:
        self.dials.append((trio.current_time(), peer_id))
        self.dialling += 1
        self.most_at_once = max(self.most_at_once, self.dialling)
        await trio.sleep(self.takes)
        self.dialling -= 1
        if peer_id not in self.answers:
            raise PeerLost(peer_id)
        self.change(peer_id, connected=True)

    def change(self, peer_id: str, *, connected: bool) -> None:
        (self.connected.add if connected else self.connected.discard)(peer_id)
        for callback in self.on_change:
            callback(peer_id, connected=connected)

    def times(self, peer_id: str) -> list[float]:
        return [time for time, dialled in self.dials if dialled == peer_id]


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


@pytest.fixture
async def dialer(board: Switchboard, nursery: trio.Nursery) -> AsyncIterator[Dialer]:
    dialer = Dialer(board, random.Random(1))  # type: ignore[arg-type]  # all that it needs of a host
    nursery.start_soon(dialer.run)
    yield dialer
    nursery.cancel_scope.cancel()


async def test_failures_back_off_up_to_a_minute(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    dialer.want("p", [ADDRESS])
    await trio.sleep(600)
    times = board.times("p")
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert pauses[0] <= 2 * FIRST_RETRY * 1.25
    assert all(a < 2.7 * b for a, b in itertools.pairwise(pauses))
    assert max(pauses) <= LONGEST_RETRY * 1.25
    assert 10 <= len(times) <= 30


async def test_a_lost_connection_is_redialled_soon(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    board.answers.add("p")
    dialer.want("p", [ADDRESS])
    await trio.sleep(LASTING + 1)
    assert len(board.dials) == 1
    board.change("p", connected=False)
    await trio.sleep(FIRST_RETRY * 1.25)
    assert len(board.dials) == 2


async def test_a_peer_that_hangs_up_at_once_is_backed_off_from(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    board.answers.add("p")
    dialer.want("p", [ADDRESS])
    for _ in range(600):
        await trio.sleep(1)
        if "p" in board.connected:
            board.change("p", connected=False)
    assert len(board.dials) < 30


async def test_banned_peers_are_not_dialled_until_the_ban_ends(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    board.banned.add("p")
    dialer.want("p", [ADDRESS])
    await trio.sleep(600)
    assert board.dials == []
    board.banned.clear()
    await trio.sleep(LONGEST_RETRY + 1)
    assert len(board.dials) >= 1


async def test_learned_peers_that_fail_are_forgotten(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    dialer.learn("p", [ADDRESS])
    await trio.sleep(1200)
    assert len(board.dials) == LEARNED_FAILURES
    assert dialer.known() == {}


async def test_a_peer_that_was_there_is_found_again_after_hours(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    board.answers.add("p")
    dialer.learn("p", [ADDRESS])
    await trio.sleep(LASTING + 1)
    board.answers.clear()
    board.change("p", connected=False)
    await trio.sleep(4 * 3600)
    board.answers.add("p")
    await trio.sleep(LONGEST_RETRY * 1.25)
    assert "p" in board.connected


async def test_a_peer_of_an_earlier_run_is_tried_until_it_is_there(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    dialer.remember("p", [ADDRESS])
    await trio.sleep(3600)
    board.answers.add("p")
    await trio.sleep(LONGEST_RETRY * 1.25)
    assert "p" in board.connected


async def test_what_a_peer_tells_counts_more_than_what_is_remembered(
    autojump_clock: MockClock, dialer: Dialer
) -> None:
    moved = "/ip4/192.0.2.9/tcp/9"
    dialer.learn("p", [moved])
    dialer.remember("p", [ADDRESS])
    dialer.remember("q", [ADDRESS])
    dialer.learn("q", [moved])
    assert dialer.known() == {"p": [moved], "q": [moved]}


async def test_a_peer_that_has_moved_is_dialled_at_once(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    dialer.remember("p", [ADDRESS])
    await trio.sleep(3600)
    before = len(board.dials)
    dialer.learn("p", ["/ip4/192.0.2.9/tcp/9"])
    await trio.sleep(2 * FIRST_RETRY)
    assert len(board.dials) == before + 1


async def test_lost_peers_are_bounded_and_keep_nobody_waiting(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    board.takes = 10.0
    for number in range(2 * MAX_LOST):
        dialer.remember(f"lost{number}", [ADDRESS])
    await trio.sleep(4 * 3600)
    assert len(dialer.known()) == MAX_LOST
    board.most_at_once = 0
    await trio.sleep(600)
    assert board.most_at_once == PARALLEL_LOST
    dialer.learn("new", [ADDRESS])
    await trio.sleep(1)
    assert board.times("new")


async def test_a_peer_that_is_forgotten_is_not_dialled(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    dialer.remember("p", [ADDRESS])
    dialer.want("named", [ADDRESS])
    await trio.sleep(600)
    board.dials.clear()
    dialer.forget("p")
    dialer.forget("named")
    await trio.sleep(600)
    assert {peer for _, peer in board.dials} == {"named"}


async def test_a_named_peer_that_moves_often_is_dialled_where_it_is(
    autojump_clock: MockClock, dialer: Dialer
) -> None:
    dialer.want("p", [ADDRESS])
    for number in range(1, 40):
        dialer.learn("p", [f"/ip4/192.0.2.{number + 1}/tcp/1"])
    assert dialer.known()["p"] == [ADDRESS, "/ip4/192.0.2.40/tcp/1"]


async def test_named_peers_are_never_forgotten_and_keep_their_addresses(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    dialer.want("p", [ADDRESS])
    dialer.learn("p", [f"/ip4/192.0.2.9/tcp/{port}" for port in range(1, 40)])
    await trio.sleep(3600)
    assert dialer.known()["p"][0] == ADDRESS
    assert len(dialer.known()["p"]) == 16
    assert len(board.dials) > 50


async def test_learned_peers_are_left_alone_when_there_are_enough(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    for number in range(ENOUGH_CONNECTIONS):
        board.change(f"c{number}", connected=True)
    dialer.learn("p", [ADDRESS])
    dialer.want("q", [ADDRESS])
    await trio.sleep(10)
    assert {peer for _, peer in board.dials} == {"q"}


async def test_few_dials_run_at_once(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    board.takes = 10.0
    for number in range(100):
        dialer.learn(f"p{number}", [ADDRESS])
    await trio.sleep(30)
    assert board.most_at_once == PARALLEL_DIALS


async def test_invented_peers_are_bounded_and_make_room_for_others(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    board.takes = 10.0
    for number in range(MAX_LEARNED + 100):
        dialer.learn(f"invented{number}", [ADDRESS])
    assert len(dialer.known()) == MAX_LEARNED
    dialer.learn("late", [ADDRESS])
    assert "late" not in dialer.known()  # none has failed yet
    await trio.sleep(30)
    dialer.learn("late", [ADDRESS])
    assert "late" in dialer.known()
    assert len(dialer.known()) <= MAX_LEARNED


async def test_we_do_not_dial_ourselves(
    autojump_clock: MockClock, dialer: Dialer, board: Switchboard
) -> None:
    dialer.want("me", [ADDRESS])
    dialer.learn("me", [ADDRESS])
    await trio.sleep(10)
    assert board.dials == []
