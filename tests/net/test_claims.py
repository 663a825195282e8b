"""Claims at an origin, and turns: bounded, fresh, and never a reason to wait for ever."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

from peatnet.blobs import Hash
from peatnet.errors import NoSource, RemoteProtocolError
from peatnet.net.claims import FRESH, MAX_CLAIMS, MAX_LEARNED, Claims
from peatnet.net.presence import MAX_PRESENCE, Presence
from peatnet.origin import MOST, Scout, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

NAME = Hash(b"n" * 32)
OTHER = Hash(b"o" * 32)


class Fleet:
    """Nodes that hear of each other's claims after a while, as over gossip."""

    def __init__(self, count: int, delay: float, nursery: trio.Nursery) -> None:
        self.claims = {f"n{number}": self.node(f"n{number}") for number in range(count)}
        self.delay = delay
        self.nursery = nursery
        self.dead: set[str] = set()

    def node(self, name: str) -> Claims:
        return Claims(name, trio.current_time, lambda: self.tell(name))

    def tell(self, name: str) -> None:
        claimed, learned = self.claims[name].to_tell()
        self.nursery.start_soon(self._arrive, name, claimed, learned)

    async def _arrive(
        self, name: str, claimed: list[Hash], learned: list[tuple[Hash, Hash]]
    ) -> None:
        await trio.sleep(self.delay)
        for other, claims in self.claims.items():
            if other != name and name not in self.dead:
                claims.heard(name, claimed, learned)

    def kill(self, name: str) -> None:
        self.dead.add(name)
        for claims in self.claims.values():
            claims.gone(name)

    def turn(self, name: str, seed: int = 0) -> Turn:
        return Turn(self.claims[name], NAME, lambda: True, random.Random(f"{name}{seed}"))


@pytest.mark.parametrize("seed", range(10))
async def test_of_many_only_a_few_go_and_the_others_when_those_are_done_or_dead(
    autojump_clock: MockClock, seed: int
) -> None:
    async with trio.open_nursery() as nursery:
        fleet = Fleet(20, 0.4, nursery)
        went: list[str] = []
        turns = {name: fleet.turn(name, seed) for name in fleet.claims}

        async def go(name: str) -> None:
            await turns[name].take(1000.0, lambda: 0)
            went.append(name)

        scopes = {}
        for name in fleet.claims:
            scopes[name] = trio.CancelScope()
            nursery.start_soon(go, name)
        await trio.sleep(20)
        assert len(went) == MOST
        turns[went[0]].release()
        turns[went[0]].release()
        await trio.sleep(20)
        assert len(went) == MOST + 1
        for name in tuple(went):
            fleet.kill(name)
        await trio.sleep(20)
        assert len(went) == 2 * MOST + 1
        nursery.cancel_scope.cancel()


async def test_waiting_ends_though_others_claim_for_ever(autojump_clock: MockClock) -> None:
    claims = Claims("me", trio.current_time)

    async def lie() -> None:
        while True:
            for liar in ("a", "b", "c"):
                claims.heard(liar, [NAME], [])
            await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lie)
        await trio.sleep(0.1)
        began = trio.current_time()
        turn = Turn(claims, NAME, lambda: True, random.Random(0))
        await turn.take(60.0, lambda: 0)
        assert turn.held
        assert 60 <= trio.current_time() - began <= 70
        await turn.take(60.0, lambda: 0)  # it is held already
        nursery.cancel_scope.cancel()


async def test_who_gets_something_goes_on_waiting(autojump_clock: MockClock) -> None:
    claims = Claims("me", trio.current_time)
    got = 0

    async def deliver() -> None:
        nonlocal got
        for _ in range(10):
            claims.heard("a", [NAME], [])
            claims.heard("b", [NAME], [])
            got += 1
            await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        await trio.sleep(0.1)
        await Turn(claims, NAME, lambda: True, random.Random(0)).take(20.0, lambda: got)
        assert 100 <= trio.current_time() <= 130
        nursery.cancel_scope.cancel()


async def test_without_peers_nobody_waits(autojump_clock: MockClock) -> None:
    claims = Claims("me", trio.current_time)
    turn = Turn(claims, NAME, lambda: False, random.Random(0))
    await turn.take(60.0, lambda: 0)
    assert turn.held
    assert trio.current_time() == 0
    assert claims.to_tell() == ([NAME], [])


async def test_a_cancelled_wait_leaves_no_claim(autojump_clock: MockClock) -> None:
    claims = Claims("me", trio.current_time)
    with trio.move_on_after(0.5):
        await Turn(claims, NAME, lambda: True, random.Random(0)).take(60.0, lambda: 0)
    assert claims.to_tell() == ([], [])


async def test_claims_lapse_with_silence(autojump_clock: MockClock) -> None:
    claims = Claims("me", trio.current_time)
    claims.heard("a", [NAME], [])
    assert claims.rivals(NAME) == {"a"}
    assert claims.rivals(OTHER) == frozenset()
    await trio.sleep(FRESH + 1)
    assert claims.rivals(NAME) == frozenset()
    claims.heard("a", [OTHER], [])
    assert claims.rivals(NAME) == frozenset()
    claims.heard("a", [], [])
    assert not claims._others
    claims.gone("a")


def test_claims_of_two_fetches_are_one_and_what_is_told_is_bounded() -> None:
    told = 0

    def count() -> None:
        nonlocal told
        told += 1

    claims = Claims("me", lambda: 0.0, count)
    claims.claim(NAME)
    claims.claim(NAME)
    claims.drop(NAME)
    assert claims.to_tell()[0] == [NAME]
    claims.drop(NAME)
    claims.drop(NAME)
    assert claims.to_tell()[0] == []
    for number in range(100):
        claims.claim(Hash(number.to_bytes(32, "big")))
        claims.learn(Hash(number.to_bytes(32, "big")), NAME)
        claims.heard("a", [], [(Hash((1000 + number * 7).to_bytes(32, "big")), NAME)] * 3)
    mine, learned = claims.to_tell()
    assert (len(mine), len(learned)) == (MAX_CLAIMS, MAX_LEARNED)
    for number in range(1000):
        claims.heard("a", [], [(Hash(number.to_bytes(32, "big")), NAME)])
        claims.disbelieve(str(number))
    assert len(claims._hearsay) <= 256
    assert len(claims._disbelieved) <= 256
    assert told > 100


def test_hearsay_is_of_the_first_until_it_proves_wrong() -> None:
    claims = Claims("me", lambda: 0.0)
    assert claims.told(OTHER) is None
    claims.heard("liar", [], [(OTHER, NAME)])
    claims.heard("honest", [], [(OTHER, OTHER)])
    assert claims.told(OTHER) == (NAME, "liar")
    claims.disbelieve("liar")
    assert claims.told(OTHER) is None
    claims.heard("liar", [], [(OTHER, NAME)])
    claims.heard("honest", [], [(OTHER, OTHER)])
    assert claims.told(OTHER) == (OTHER, "honest")


def test_presence_carries_claims_and_old_nodes_send_none() -> None:
    full = Presence([], bytes(32), [NAME] * 64, [NAME] * 16, [(NAME, OTHER)] * 16)
    assert len(full.encode()) <= MAX_PRESENCE
    assert Presence.decode(full.encode()) == full
    old = Presence([], bytes(32), [])
    assert b"o" not in old.encode()[1:3]
    assert Presence.decode(old.encode()) == old


@pytest.mark.parametrize(
    "fields",
    [{"o": 1}, {"o": [b"short"]}, {"o": [bytes(32)] * 17}, {"s": [bytes(32)]}, {"s": None}],
    ids=str,
)
def test_malformed_claims_are_refused(fields: dict[str, object]) -> None:
    import msgpack

    with pytest.raises(RemoteProtocolError):
        Presence.decode(msgpack.packb({"a": [], "d": bytes(32), "g": []} | fields))


class _Link:
    def __init__(self, next_request: Callable[[], object]) -> None:
        self.said: list[bytes | None] = []
        self._next = next_request

    def has(self, bitmap: bytes | None) -> None:
        self.said.append(bitmap)

    async def next_request(self) -> int:
        await trio.lowlevel.checkpoint()
        self._next()
        return 0


async def test_a_scout_says_that_it_is_wanted_and_leaves() -> None:
    scout = Scout("http:example.org")
    assert await scout.table(NAME) is None
    link = _Link(lambda: None)
    with pytest.raises(NoSource):
        await scout.run(link)  # type: ignore[arg-type]  # the two methods that it uses
    assert link.said == [None]
    assert scout.wanted.is_set()
