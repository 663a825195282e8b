"""Any interleaving of events leaves the swarm's promises intact."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peatnet.swarm import (
    Ban,
    Cancel,
    ChunkArrived,
    ChunkCorrupt,
    ChunkFailed,
    ChunkFound,
    Done,
    Drop,
    Event,
    Life,
    Request,
    SourceGained,
    SourceHas,
    SourceJoined,
    SourceLine,
    SourceLost,
    Stopped,
    Swarm,
    SwarmSettings,
    Tick,
    Tier,
    mask_of,
)

CHUNK = 10
NAMES = st.sampled_from(["a", "b", "c", "d", "web"])


class Model:
    """What the outside knows of one source."""

    def __init__(self, tier: Tier, pipeline: int) -> None:
        self.tier = tier
        self.pipeline = pipeline
        self.has: set[int] = set()
        self.out: set[int] = set()


class SwarmMachine(RuleBasedStateMachine):
    """Drives a swarm with random events, checking every action against an independent model."""

    @initialize(
        n=st.integers(1, 40),
        short=st.integers(0, CHUNK - 1),
        seed=st.integers(0, 1000),
        data=st.data(),
        tiers=st.sampled_from([frozenset(Tier), frozenset({Tier.PEER}), frozenset({Tier.HTTP})]),
        strikes=st.integers(1, 5),
    )
    def begin(
        self,
        n: int,
        short: int,
        seed: int,
        data: st.DataObject,
        tiers: frozenset[Tier],
        strikes: int,
    ) -> None:
        self.n = n
        self.size = n * CHUNK - short
        self.had = data.draw(st.sets(st.integers(0, n - 1), max_size=n // 2))
        self.tiers = tiers
        self.swarm = Swarm(
            n_chunks=n,
            chunk_size=CHUNK,
            size=self.size,
            have=self.bitmap(self.had),
            rng=random.Random(seed),
            settings=SwarmSettings(tiers=tiers, max_strikes=strikes),
        )
        self.now = 100.0
        self.have = set(self.had)
        self.alive: dict[str, Model] = {}
        self.gone: set[str] = set()
        self.banned: set[str] = set()
        self.done = 0
        self.stopped = False
        self.progress = self.swarm.verified_bytes
        self.by_source = 0
        self.send(Tick())

    def bitmap(self, indices: set[int]) -> bytes:
        return sum(1 << i for i in indices).to_bytes((self.n + 7) // 8, "little")

    def length(self, index: int) -> int:
        return min(CHUNK, self.size - index * CHUNK)

    def send(self, event: Event) -> None:
        for action in self.swarm.handle(event, self.now):
            match action:
                case Request(source, index):
                    self.check_request(source, index)
                case Cancel(source, index):
                    self.alive[source].out.remove(index)
                case Drop(source, _):
                    del self.alive[source]
                    self.gone.add(source)
                case Ban(source, _):
                    self.alive.pop(source, None)
                    self.gone.add(source)
                    self.banned.add(source)
                case Done():
                    self.done += 1
        wakeup = self.swarm.next_wakeup()
        assert wakeup is None or wakeup > self.now

    def check_request(self, name: str, index: int) -> None:
        source = self.alive[name]
        assert source.tier in self.tiers
        assert index in source.has
        assert index not in self.have
        assert index not in source.out
        assert not self.stopped
        source.out.add(index)
        assert len(source.out) <= source.pipeline
        assert sum(index in each.out for each in self.alive.values()) <= 2

    @rule(name=NAMES, pipeline=st.integers(1, 6), has=st.none() | st.binary(max_size=5))
    def join(self, name: str, pipeline: int, has: bytes | None) -> None:
        if name in self.alive:
            return
        tier = Tier.HTTP if name == "web" else Tier.PEER
        if name not in self.banned and not self.stopped:
            self.alive[name] = Model(tier, pipeline)
        self.send(SourceJoined(name, tier, pipeline))
        if name in self.alive:
            self.has(name, has)

    @rule(name=NAMES, has=st.none() | st.binary(max_size=5))
    def has(self, name: str, has: bytes | None) -> None:
        if name not in self.alive:
            return
        everything = set(range(self.n))
        if has is None:
            self.alive[name].has = everything
            self.send(SourceHas(name, None))
        else:
            bits = int.from_bytes(has, "little")
            self.alive[name].has = {i for i in everything if bits >> i & 1}
            self.send(SourceHas(name, self.bitmap(self.alive[name].has)))

    @rule(name=NAMES, round_trip=st.floats(0, 10), lanes=st.integers(1, 5))
    def is_reached(self, name: str, round_trip: float, lanes: int) -> None:
        if name in self.alive:
            self.send(SourceLine(name, round_trip, lanes))

    @rule(name=NAMES, indices=st.lists(st.integers(0, 39), max_size=5))
    def gain(self, name: str, indices: list[int]) -> None:
        if name in self.alive:
            indices = [index % self.n for index in indices]
            self.alive[name].has.update(indices)
            self.send(SourceGained(name, mask_of(indices, self.n)))

    @precondition(lambda self: any(each.out for each in self.alive.values()))
    @rule(data=st.data(), what=st.sampled_from(["arrive"] * 6 + ["fail"] * 3 + ["corrupt"]))
    def answer(self, data: st.DataObject, what: str) -> None:
        busy = sorted(name for name, each in self.alive.items() if each.out)
        name = data.draw(st.sampled_from(busy))
        index = data.draw(st.sampled_from(sorted(self.alive[name].out)))
        if what == "arrive":
            self.arrive(name, index)
        elif what == "fail":
            self.alive[name].out.remove(index)
            self.send(ChunkFailed(name, index, "told to"))
        else:
            self.send(ChunkCorrupt(name, index))
            assert name in self.banned

    @precondition(lambda self: self.alive or self.gone)
    @rule(data=st.data(), index=st.integers(0, 39))
    def arrive_unasked(self, data: st.DataObject, index: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.gone | set(self.alive))))
        self.arrive(name, index % self.n)

    def arrive(self, name: str, index: int) -> None:
        if name in self.alive:
            self.alive[name].out.discard(index)
        if index not in self.have and not self.stopped:
            self.by_source += self.length(index)
            self.have.add(index)
        self.send(ChunkArrived(name, index))

    @rule(index=st.integers(0, 39))
    def find(self, index: int) -> None:
        if not self.stopped:
            self.have.add(index % self.n)
        self.send(ChunkFound(index % self.n))

    @precondition(lambda self: self.gone)
    @rule(data=st.data(), index=st.integers(0, 39), what=st.sampled_from(["fail", "lost", "has"]))
    def late_news(self, data: st.DataObject, index: int, what: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.gone)))
        if name not in self.alive:
            events: dict[str, Event] = {
                "fail": ChunkFailed(name, index % self.n, "late"),
                "lost": SourceLost(name),
                "has": SourceHas(name, None),
            }
            self.send(events[what])

    @rule(name=NAMES)
    def lose(self, name: str) -> None:
        if name in self.alive:
            del self.alive[name]
            self.gone.add(name)
            self.send(SourceLost(name))

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.send(Tick())

    @precondition(lambda self: self.swarm.next_wakeup() is not None)
    @rule()
    def wake_up(self) -> None:
        wakeup = self.swarm.next_wakeup()
        assert wakeup is not None
        self.now = wakeup
        self.send(Tick())

    @precondition(lambda self: len(self.have) > self.n // 2)
    @rule()
    def stop(self) -> None:
        self.stopped = True
        before = self.swarm.handle(Stopped(), self.now)
        for action in before:
            assert isinstance(action, Cancel)
            self.alive[action.source].out.remove(action.index)
        assert not any(each.out for each in self.alive.values())

    @invariant()
    def books_agree(self) -> None:
        assert self.swarm.have() == self.bitmap(self.have)
        assert self.swarm.complete == (len(self.have) == self.n)
        assert self.swarm.missing == self.n - len(self.have)
        assert self.swarm.verified_bytes == sum(map(self.length, self.have))
        assert sum(self.swarm.bytes_by_source.values()) == self.by_source
        assert self.swarm.verified_bytes >= self.progress
        self.progress = self.swarm.verified_bytes
        assert self.done == self.swarm.complete or self.stopped
        for view in self.swarm.sources():
            if view.life is Life.ALIVE and not self.stopped:
                assert view.out == len(self.alive[view.name].out)
                assert view.chunks == len(self.alive[view.name].has)

    @invariant()
    def who_has_room_is_on_a_list(self) -> None:
        """A living source that could take one more request is looked at again, now or when something changes."""
        board = self.swarm._board
        assert not board.hungry.keys() & board.starved.keys()
        if not self.stopped and not self.swarm.complete:
            roomy = {each for each in board.living.values() if len(each.out) < each.window}
            assert roomy <= board.hungry.keys() | board.starved.keys()

    @invariant()
    def nothing_lies_idle(self) -> None:
        """A wanted chunk that a fresh peer could deliver is always asked for while the peer has room.

        A slow one may be left alone with what other peers have.
        """
        if self.stopped or Tier.PEER not in self.tiers:
            return
        asked = set().union(*(each.out for each in self.alive.values()))
        peers = [each for each in self.alive.values() if each.tier is Tier.PEER]
        for name, each in self.alive.items():
            view = next(view for view in self.swarm.sources() if view.name == name)
            source = self.swarm._board.sources[name]
            if each.tier is Tier.PEER and view.out < view.window and source.rest_until <= self.now:
                idle = each.has - self.have - asked - source.avoid
                if source.pace.chunk_time > self.swarm._board.slow_from:
                    idle -= set().union(*(other.has for other in peers if other is not each))
                assert not idle

    def teardown(self) -> None:
        """Whatever happened: an honest peer that has everything and stays gets the download done."""
        if not hasattr(self, "swarm") or self.stopped:
            return
        honest, tier = ("h", Tier.PEER) if Tier.PEER in self.tiers else ("hw", Tier.HTTP)
        self.alive[honest] = Model(tier, 3)
        self.send(SourceJoined(honest, tier, 3))
        self.has(honest, None)
        for _ in range(1000):
            if self.swarm.complete:
                break
            if self.alive[honest].out:
                self.now += 0.1
                self.arrive(honest, min(self.alive[honest].out))
            else:
                wakeup = self.swarm.next_wakeup()
                assert wakeup is not None
                self.now = wakeup
                self.send(Tick())
        assert self.swarm.complete
        assert self.done == 1
        assert self.swarm.next_wakeup() is None


TestSwarmMachine = SwarmMachine.TestCase
TestSwarmMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
