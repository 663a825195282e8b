"""A fleet on a virtual clock: the real swarm code on every downloader, links and sources simulated.

A node sends one chunk at a time, taking turns between those who asked; that is its link rate. Messages take
`LATENCY`. Time passes only from one event to the next.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from peatnet.swarm import (
    Action,
    Ban,
    Cancel,
    ChunkArrived,
    ChunkCorrupt,
    ChunkFailed,
    Drop,
    Event,
    Request,
    SourceGained,
    SourceHas,
    SourceJoined,
    SourceLost,
    Swarm,
    SwarmSettings,
    Tick,
    Tier,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LATENCY = 0.005
CHUNK = 1000


@dataclass
class Node:
    """One machine.

    Args:
        rate: chunks a second that its link carries upwards.
        lies: sends garbage.
        mute_at: from then on it answers nothing, and nobody is told.
        dies_at: from then on it is gone, and everybody is told.
        refuses: fails every request.
    """

    name: str
    rate: float = 10.0
    tier: Tier = Tier.PEER
    lies: bool = False
    refuses: bool = False
    mute_at: float = float("inf")
    dies_at: float = float("inf")
    swarm: Swarm | None = None
    sent: int = 0
    busy: bool = False
    finished_at: float | None = None
    wakes: float | None = None
    queues: dict[str, deque[int]] = field(default_factory=dict)
    banned: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


class Fleet:
    """Runs nodes against each other until every downloader is done or `limit` seconds passed."""

    def __init__(self, n_chunks: int, seed: int = 0) -> None:
        self.n = n_chunks
        self.rng = random.Random(seed)
        self.now = 0.0
        self.nodes: dict[str, Node] = {}
        self.dies_when_all_is_out: Node | None = None
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = count()
        self._out: set[int] = set()  # chunks that some downloader got

    def seed(self, node: Node) -> Node:
        self.nodes[node.name] = node
        return node

    def downloader(
        self, name: str, *, rate: float = 10.0, settings: SwarmSettings | None = None
    ) -> Node:
        swarm = Swarm(
            n_chunks=self.n,
            chunk_size=CHUNK,
            size=self.n * CHUNK,
            have=bytes((self.n + 7) // 8),
            rng=random.Random(self.rng.random()),
            settings=settings or SwarmSettings(),
        )
        return self.seed(Node(name, rate=rate, swarm=swarm))

    def at(self, time: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (time, next(self._serial), what))

    def later(self, delay: float, what: Callable[[], None]) -> None:
        self.at(self.now + delay, what)

    def run(self, limit: float = 10_000.0) -> None:
        downloaders = [node for node in self.nodes.values() if node.swarm]
        for node in self.nodes.values():
            if node.dies_at < limit:
                self.at(node.dies_at, lambda node=node: self._die(node))  # type: ignore[misc] # lambda default
        for node in downloaders:
            self._tell(node, Tick())
        for node in downloaders:
            for other in self.nodes.values():
                if other is not node:
                    self._tell(node, SourceJoined(other.name, other.tier, 8))
                    if other.swarm is None:
                        self._tell(node, SourceHas(other.name, None))
        while self._agenda and any(node.finished_at is None for node in downloaders):
            self.now, _, what = heapq.heappop(self._agenda)
            if self.now > limit:
                break
            what()

    def _tell(self, node: Node, event: Event) -> None:
        assert node.swarm is not None
        if self.now >= node.dies_at:
            return
        for action in node.swarm.handle(event, self.now):
            self._act(node, action)
        if node.swarm.complete and node.finished_at is None:
            node.finished_at = self.now
        wakeup = node.swarm.next_wakeup()
        if wakeup is not None and wakeup != node.wakes:
            node.wakes = wakeup
            self.at(wakeup, lambda: self._wake(node, wakeup))

    def _wake(self, node: Node, wakeup: float) -> None:
        if node.wakes == wakeup:
            node.wakes = None
            self._tell(node, Tick())

    def _act(self, node: Node, action: Action) -> None:
        match action:
            case Request(source, index):
                self.later(LATENCY, lambda: self._asked(self.nodes[source], node, index))
            case Cancel(source, index):
                self.later(LATENCY, lambda: self._canceled(self.nodes[source], node, index))
            case Ban(source, _):
                node.banned.append(source)
                self.nodes[source].queues.pop(node.name, None)
            case Drop(source, _):
                node.dropped.append(source)
                self.nodes[source].queues.pop(node.name, None)

    def _asked(self, source: Node, node: Node, index: int) -> None:
        if source.refuses:
            self.later(LATENCY, lambda: self._tell(node, ChunkFailed(source.name, index, "no")))
            return
        source.queues.setdefault(node.name, deque()).append(index)
        self._serve(source)

    def _canceled(self, source: Node, node: Node, index: int) -> None:
        queue = source.queues.get(node.name, ())
        if index in queue:
            source.queues[node.name].remove(index)

    def _serve(self, source: Node) -> None:
        waiting = [name for name, queue in source.queues.items() if queue]
        if source.busy or not waiting or self.now >= min(source.mute_at, source.dies_at):
            return
        name = waiting[0]
        queue = source.queues.pop(name)
        index = queue.popleft()
        source.queues[name] = queue  # to the end: the others have their turn first
        source.busy = True
        source.sent += 1
        self.later(1 / source.rate, lambda: self._sent(source, self.nodes[name], index))

    def _sent(self, source: Node, node: Node, index: int) -> None:
        source.busy = False
        if self.now < min(source.mute_at, source.dies_at):
            self.later(LATENCY, lambda: self._arrived(source, node, index))
        self._serve(source)

    def _arrived(self, source: Node, node: Node, index: int) -> None:
        assert node.swarm is not None
        if source.lies:
            self._tell(node, ChunkCorrupt(source.name, index))
            return
        before = node.swarm.missing
        self._tell(node, ChunkArrived(source.name, index))
        if node.swarm.missing < before:
            self._out.add(index)
            if len(self._out) == self.n and self.dies_when_all_is_out is not None:
                dying, self.dies_when_all_is_out = self.dies_when_all_is_out, None
                dying.dies_at = self.now
                self._die(dying)
            for other in self.nodes.values():
                if other.swarm is not None and other is not node:
                    self._announce(node, other, index)

    def _announce(self, node: Node, other: Node, index: int) -> None:
        self.later(LATENCY, lambda: self._tell(other, SourceGained(node.name, 1 << index)))

    def _die(self, node: Node) -> None:
        for other in self.nodes.values():
            if other.swarm is not None and other is not node:
                self._tell(other, SourceLost(node.name))
