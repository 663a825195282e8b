"""A fleet on a virtual clock: the swarm and the upload policy that peatnet runs, over links that are arithmetic.

What is real: `Swarm` decides for each downloader, `Uploads` and `Spread` for each node that sends. What is modeled:

- A node has an uplink and a downlink, each with a rate, each one queue. A chunk passes both at once, a little at a time: it
  starts when the sender's uplink is free, and is there when both it and the receiver's downlink have carried it. Until then
  it counts as on its way in the sender's upload window; what waits in the receiver's queue does not keep the
  sender's uplink busy. Framing and lost packets are not modeled: take 6 % off the rates for TCP/IP.
- Messages take `latency` and no bandwidth: a request takes it twice, for the way back of the chunk as well (with queued links,
  the chunk does).
- A request that has been sent cannot be called back; what comes twice has cost its bandwidth twice.
- A node tells its neighbors what it gained `announce` seconds after it last did, at once when it was quiet for `QUIET`.

Time passes only from one event to the next.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from virtual_agenda import Agenda
from virtual_links import FairLinks, QueuedLinks

from peatnet.blobs import Hash
from peatnet.swarm import (
    ChunkArrived,
    ChunkDeferred,
    Done,
    Drop,
    Request,
    SourceGained,
    SourceHas,
    SourceJoined,
    SourceLine,
    SourceLost,
    Swarm,
    SwarmSettings,
    Tick,
    Tier,
)
from peatnet.swarm.spread import Spread
from peatnet.swarm.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peatnet.swarm import Action, Event
    from peatnet.swarm.flows import Job

BLOB = Hash(bytes(32))
TICK = Tick()
QUIET = 0.25
PRIORITY = 3
REJOIN = 1.0  # seconds after which a source that was dropped is tried again


class Node:
    """One machine of the fleet.

    Attributes:
        up, down: bytes a second.
        fleet: whose it is.
        swarm: what downloads here; None for one that had the blob from the beginning.
        complete: it has the whole blob.
        missing: chunks it lacks.
        alive: it is there; one that left may come back.
        sent: chunks it sent, those that were lost on the way included.
        done_at: when it had the whole blob.
        neighbors: those it is connected to.
        sources: names of those of them that it downloads from; None for all.
    """

    __slots__ = (
        "alive",
        "announce_at",
        "announced_at",
        "came_twice",
        "complete",
        "done_at",
        "down",
        "down_free",
        "fleet",
        "fresh",
        "missing",
        "name",
        "neighbors",
        "sent",
        "sources",
        "spread",
        "swarm",
        "up",
        "up_free",
        "uploads",
        "wake_at",
    )

    def __init__(
        self, fleet: Fleet, name: str, up: float, down: float, swarm: Swarm | None
    ) -> None:
        now = fleet.now
        self.fleet = fleet
        self.came_twice = 0  # chunks, in swarms before this one
        self.name = name
        self.up = up
        self.down = down
        self.swarm = swarm
        self.complete = swarm is None
        self.missing = swarm.missing if swarm is not None else 0
        self.alive = True
        self.sent = 0
        self.done_at = math.inf
        self.neighbors: dict[str, Node] = {}
        self.sources: frozenset[str] | None = None
        self.uploads = Uploads(None, None, now)
        self.spread = Spread()
        self.up_free = self.down_free = now
        self.fresh = 0  # what its neighbors are not told of yet
        self.announced_at = -math.inf
        self.announce_at: float | None = None
        self.wake_at = math.inf

    def uses(self, other: Node) -> bool:
        """Whether it downloads from this neighbor."""
        return self.sources is None or other.name in self.sources

    @property
    def duplicates(self) -> int:
        """Chunks that came though they were there."""
        swarm = self.swarm
        return self.came_twice + (swarm.duplicate_bytes // self.fleet.chunk_size if swarm else 0)


class Fleet:
    """Runs nodes against each other.

    Args:
        n_chunks: chunks of the one blob that is spread.
        chunk_size: bytes in each.
        seed: of all that is random.
        settings: of every swarm.
        latency: seconds that a message takes.
        announce: seconds between two announcements of one node, at least.
        pipeline: the most requests to one source.
    """

    def __init__(
        self,
        n_chunks: int,
        chunk_size: int,
        *,
        seed: int = 0,
        settings: SwarmSettings | None = None,
        latency: float = 0.005,
        announce: float = 0.1,
        pipeline: int = 32,
        fair: bool = True,
    ) -> None:
        self.n = n_chunks
        self.chunk_size = chunk_size
        self.rng = random.Random(seed)
        self.now = 0.0
        self.nodes: dict[str, Node] = {}
        self.deferrals = 0
        self.drops = 0
        self.on_first: Callable[[int], None] | None = (
            None  # told of each chunk that leaves the source for good
        )
        self._settings = settings or SwarmSettings()
        self._fair = fair
        self.latency = latency
        self._announce = announce
        self._pipeline = pipeline
        self.agenda = Agenda()
        self._missing = 0  # downloaders that are not done
        self._waited_for: set[Node] | None = None
        self._jobs: dict[Job, tuple[Node, int]] = {}
        self._links = FairLinks(self) if fair else QueuedLinks(self)

    # Setting up, and what befalls nodes.

    def source(self, name: str, up: float) -> Node:
        """Add a node that has the blob."""
        node = self.nodes[name] = Node(self, name, up, up, None)
        return node

    def downloader(self, name: str, up: float, down: float) -> Node:
        """Add a node that wants the blob."""
        node = Node(self, name, up, down, self._swarm(bytes((self.n + 7) // 8)))
        self.nodes[name] = node
        self._missing += 1
        self._tell(node, TICK)
        return node

    def connect(self, one: Node, other: Node) -> None:
        """Two nodes learn of each other."""
        one.neighbors[other.name] = other
        other.neighbors[one.name] = one
        self._meet(one, other)
        self._meet(other, one)

    def disconnect(self, one: Node, other: Node) -> None:
        """Two nodes lose each other; what was between them is lost."""
        del one.neighbors[other.name]
        del other.neighbors[one.name]
        self._part(one, other)
        self._part(other, one)

    def leave(self, node: Node) -> None:
        """A node goes, with all its connections."""
        for other in list(node.neighbors.values()):
            self.disconnect(node, other)
        node.alive = False

    def come_back(self, node: Node) -> None:
        """It returns, with the chunks that it had; the caller connects it."""
        node.alive = True
        node.uploads, node.spread = Uploads(None, None, self.now), Spread()
        node.up_free = node.down_free = self.now
        if node.swarm is not None and not node.complete:
            node.came_twice = node.duplicates
            node.swarm = self._swarm(node.swarm.have())
            self._tell(node, TICK)

    def at(self, time: float, what: Callable[..., None], *arguments: object) -> None:
        """Do something at a time."""
        self.agenda.add(time, what, arguments)

    def run(self, limit: float = math.inf, waited_for: Sequence[Node] | None = None) -> bool:
        """Until every downloader has all, or these have, or `limit` is reached; whether they have."""
        self._waited_for = None if waited_for is None else set(waited_for)
        if waited_for is not None:
            self._missing = sum(not node.complete for node in waited_for)
        if not self._missing:
            return True
        for now, _, what, arguments in self.agenda:
            if now > limit:
                break
            self.now = now
            what(*arguments)
            if not self._missing:
                break
        return not self._missing

    # Downloaders.

    def _swarm(self, have: bytes) -> Swarm:
        return Swarm(
            n_chunks=self.n,
            chunk_size=self.chunk_size,
            size=self.n * self.chunk_size,
            have=have,
            rng=random.Random(self.rng.random()),
            settings=self._settings,
        )

    def _meet(self, node: Node, other: Node) -> None:
        if not node.uses(other):
            return
        other.spread.joined(BLOB, node.name)
        if node.swarm is None or node.complete:
            return
        self._tell(node, SourceJoined(other.name, Tier.PEER, self._pipeline))
        self._tell(node, SourceLine(other.name, 2 * self.latency))
        if other.swarm is None or other.complete:
            self._tell(node, SourceHas(other.name, None))
        elif other.swarm.missing < self.n:
            self._tell(node, SourceHas(other.name, other.swarm.have()))

    def _again(self, node: Node, other: Node) -> None:
        """A source that was dropped is tried again, if it is still there."""
        if other.name in node.neighbors:
            self._meet(node, other)

    def _part(self, node: Node, other: Node) -> None:
        if not node.uses(other):
            return
        other.spread.left(BLOB, node.name)
        if node.swarm is not None and not node.complete:
            self._tell(node, SourceLost(other.name))

    def _tell(self, node: Node, event: Event) -> None:
        swarm = node.swarm
        assert swarm is not None
        if actions := swarm.handle(event, self.now):
            self._act(node, actions)
        wakeup = swarm.next_wakeup(node.wake_at)
        if wakeup is not None:
            self._wake_at(node, wakeup)

    def _act(self, node: Node, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Request):
                source = node.neighbors[action.source]
                if self._fair:
                    at = self.now + 2 * self.latency
                    self.at(at, self._asked, source, node, action.index)
                else:
                    self._asked(source, node, action.index)  # the links add the latency
            elif isinstance(action, Done):
                node.complete = True
                node.done_at = self.now
                if self._waited_for is None or node in self._waited_for:
                    self._missing -= 1
            elif isinstance(action, Drop):
                self.drops += 1
                other = node.neighbors[action.source]
                other.spread.left(BLOB, node.name)
                self.at(self.now + REJOIN, self._again, node, other)

    def _wake_at(self, node: Node, wakeup: float) -> None:
        node.wake_at = wakeup
        self.agenda.add(wakeup, self._wake, (node, wakeup))

    def _wake(self, node: Node, wakeup: float) -> None:
        if node.wake_at != wakeup:
            return
        node.wake_at = math.inf
        swarm = node.swarm
        if swarm is None or not node.alive or node.complete:
            return
        due = swarm.next_wakeup()
        if due is None:
            return
        if due <= wakeup:
            self._tell(node, TICK)
        else:
            self._wake_at(node, due)  # what it was to wake for came meanwhile

    def _arrived(self, source: Node, node: Node, index: int) -> None:
        swarm = node.swarm
        assert swarm is not None
        if not node.alive or node.name not in source.neighbors or node.complete:
            return
        self._tell(node, ChunkArrived(source.name, index))
        missing = swarm.missing
        if missing == node.missing:
            return
        node.missing = missing
        if self.on_first is not None:
            self.on_first(index)
        node.fresh |= 1 << index
        if node.announce_at is None:
            quiet = self.now - node.announced_at >= max(QUIET, self._announce)
            node.announce_at = (
                self.now if quiet else max(self.now, node.announced_at + self._announce)
            )
            self.at(node.announce_at + self.latency, self._announced, node)

    def _announced(self, node: Node) -> None:
        fresh, node.fresh = node.fresh, 0
        node.announced_at = node.announce_at or self.now
        node.announce_at = None
        gained = SourceGained(node.name, fresh)
        now = self.now
        for other in list(node.neighbors.values()):
            if other.complete or other.swarm is None or not other.uses(node):
                continue
            if actions := other.swarm.handle(gained, now):  # without any, no deadline changed
                self._act(other, actions)
                wakeup = other.swarm.next_wakeup(other.wake_at)
                if wakeup is not None:
                    self._wake_at(other, wakeup)

    # Those who send.

    def _asked(self, source: Node, node: Node, index: int) -> None:
        if node.name not in source.neighbors:
            return
        if source.complete and source.spread.defers(BLOB, self.n, index, node.name):
            self.deferrals += 1
            self._deferred(source, node, index)
            return
        job = source.uploads.submit(node.name, PRIORITY, self.chunk_size, self.now)
        self._jobs[job] = node, index
        self._send(source)

    def _deferred(self, source: Node, node: Node, index: int) -> None:
        if source.name in node.neighbors and not node.complete:
            self._tell(node, ChunkDeferred(source.name, index))

    def _send(self, source: Node) -> None:
        uploads, now = source.uploads, self.now
        while uploads.waiting and (job := uploads.next(now)) is not None:
            node, index = self._jobs.pop(job)
            if node.name not in source.neighbors:
                uploads.done(job, now)
                continue
            source.sent += 1
            self._links.send(source, node, index, job)

    def sent(self, source: Node, node: Node, index: int, job: Job, uploads: Uploads) -> None:
        """A chunk has passed the links."""
        uploads.done(job, self.now)
        if source.uploads is uploads and source.alive:
            self._send(source)
            self._arrived(source, node, index)
