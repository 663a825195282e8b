"""Which chunk a holder sends next, and when: fair among peers, by priority, within its limits.

Theory. Chunks wait in one flow a peer. Whenever the window (window.py) and the node's token bucket let another
chunk out, it is one of the flow with the smallest tag (flows.py) among those that may send now. A flow that may
not is *parked*: asleep until its own bucket lets it, or full until one of its chunks is done. A flow is in the
heap of those that may, or parked, or nowhere: never in two places. So every operation costs O(log flows).

Fairness is by peer first. A peer that opens more sessions or asks for more at once still has one flow. Priority is what
the peer says it is: that decides in full among the requests of that peer, and sets the peer's weight
among the others, from 1 to 16. A peer that calls everything urgent is believed for a bounded number of bytes, and weighs
no more than one that says nothing from then on; until then it can get four times as much as such a one, and never
keeps anybody waiting for good.

Short answers to questions do not wait: `charge` is told of them. They are debt in the buckets, and put their peer's next
chunk back by as much as a chunk of their size; `answer_at` bounds them, so that no peer
keeps the limits in debt, and the others waiting, with questions alone.

Memory: callers hold what waits (they submit and withdraw), so that is theirs to bound; idle flows are kept for
the tags and bucket debts that they carry, up to `MAX_IDLE_FLOWS`.
"""

from __future__ import annotations

import heapq
import math

from peatnet.errors import LocalProtocolError
from peatnet.swarm.flows import (
    ANSWER_PART,
    ANSWER_RATE,
    DEFAULT_PRIORITY,
    WEIGHTS,
    Flow,
    Job,
)
from peatnet.swarm.tokens import TokenBucket, check_rate
from peatnet.swarm.window import Window

MAX_IDLE_FLOWS = 1024


class Uploads:
    """The queue of one node. Times are seconds on one clock of the caller's.

    Args:
        rate: bytes a second of all uploads together; None for no limit.
        per_peer: bytes a second to one peer; None for no limit.
        now: the present.

    Attributes:
        waiting: how many chunks wait.
        out: how many chunks are on their way.
    """

    __slots__ = (
        "_asleep",
        "_bucket",
        "_busy",
        "_idle",
        "_per_peer",
        "_ready",
        "_time",
        "_weights",
        "_window",
        "out",
        "waiting",
    )

    def __init__(self, rate: float | None, per_peer: float | None, now: float) -> None:
        check_rate(per_peer)
        self._bucket = TokenBucket(rate, now)
        self._per_peer = per_peer
        self._window = Window(now)
        self._time = 0.0  # virtual
        self._busy: dict[str, Flow] = {}  # something waits or is out
        self._idle: dict[str, Flow] = {}  # the first was set aside first
        # Heaps: when, in virtual time and in time, and who. Among equals the name decides, which is as good as anything.
        self._ready: list[tuple[float, str, Flow]] = []
        self._asleep: list[tuple[float, str, Flow]] = []
        self.out = 0
        self.waiting = 0
        self._weights = 0  # of all busy flows together

    @property
    def rate(self) -> float | None:
        """The limit on all uploads together."""
        return self._bucket.rate

    @property
    def per_peer(self) -> float | None:
        """The limit on one peer."""
        return self._per_peer

    @property
    def window(self) -> int:
        """How many chunks may be on their way at once."""
        return self._window.chunks

    def set_rates(self, rate: float | None, per_peer: float | None, now: float) -> None:
        """Change the limits from now on.

        Raises:
            LocalProtocolError: a rate is not above 0; nothing has changed then.
        """
        check_rate(rate)
        check_rate(per_peer)
        self._bucket.set_rate(rate, now)
        self._per_peer = per_peer
        for flow in (*self._busy.values(), *self._idle.values()):
            flow.bucket.set_rate(per_peer, now)
            flow.answers.set_rate(self._answer_rate(), now)
        asleep, self._asleep = self._asleep, []
        for _, _, flow in asleep:
            self._unpark(flow)

    def submit(self, peer_id: str, priority: int, size: int, now: float) -> Job:
        """One more chunk wants to go to a peer; ask `next` whether it may.

        Raises:
            LocalProtocolError: the priority is not one of 1 to 5, or the size not above 0.
        """
        if priority not in WEIGHTS or size < 1:
            raise LocalProtocolError(f"uploads: {size} bytes at priority {priority}")
        flow = self._busy.get(peer_id)
        if flow is None:
            flow = self._idle.pop(peer_id, None) or self._new_flow(peer_id, now)
            self._busy[peer_id] = flow
        job = Job(flow, priority, size)
        flow.add(job)
        self.waiting += 1
        self._weights += flow.weigh(now)
        if not flow.parked:
            self._unpark(flow)
        return job

    def withdraw(self, job: Job) -> bool:
        """A chunk is not wanted any more. False where it does not wait: then `done` is to be told of it."""
        if not job.flow.remove(job):
            return False
        self.waiting -= 1
        self._retire(job.flow)
        return True

    def done(self, job: Job, now: float) -> None:
        """A chunk that `next` gave has been sent, or never will be."""
        flow = job.flow
        flow.out -= 1
        self.out -= 1
        bucket = self._bucket
        waiting = bool(self._ready) and (bucket.rate is None or bucket.ready_at(now) <= now)
        self._window.done(job.size, out=self.out, waiting=waiting, now=now)
        if not flow.classes:
            self._retire(flow)
        elif not flow.parked:
            self._unpark(flow)  # it was full

    def charge(self, peer_id: str, size: int, now: float) -> None:
        """So many bytes go to a peer without having waited here; they count for all that waits."""
        flow = self._flow(peer_id, now)
        flow.tag = max(self._time, flow.tag) + size / (flow.weight or WEIGHTS[DEFAULT_PRIORITY])
        for bucket in (self._bucket, flow.bucket, flow.answers):
            bucket.take(size, now)

    def answer_at(self, peer_id: str, now: float) -> float:
        """When the next bytes may go to a peer without waiting here: ``now``, or later."""
        return self._flow(peer_id, now).answers.ready_at(now)

    def next(self, now: float) -> Job | None:
        """The chunk that may be sent now; ask again until there is none."""
        while self._asleep and self._asleep[0][0] <= now:
            self._unpark(heapq.heappop(self._asleep)[2])
        if self.out >= self._window.chunks:
            return None
        if self._bucket.rate is not None and self._bucket.ready_at(now) > now:
            return None
        while self._ready:
            tag, _, flow = heapq.heappop(self._ready)
            flow.parked = False
            if not flow.classes:
                self._retire(flow)
            elif tag < flow.tag:
                self._unpark(flow)  # it was charged
            elif flow.out >= self._most_out(flow):
                pass  # full: `done` brings it back
            elif self._per_peer is not None and (ready_at := flow.bucket.ready_at(now)) > now:
                flow.parked = True
                heapq.heappush(self._asleep, (ready_at, flow.peer_id, flow))
            else:
                return self._send(flow, tag, now)
        return None

    def next_wakeup(self, now: float) -> float:
        """When `next` might give something though nothing happened before; infinity for never."""
        if self.out >= self._window.chunks:
            return math.inf
        times = [self._asleep[0][0]] if self._asleep else []
        if self._ready:
            times.append(self._bucket.ready_at(now))
        return min(times, default=math.inf)

    def _send(self, flow: Flow, tag: float, now: float) -> Job:
        self._weights += flow.weigh(now)
        job = flow.pop(now)
        self._time = tag
        flow.tag = tag + job.size / flow.weight
        if self._per_peer is not None:
            flow.bucket.take(job.size, now)
        if self._bucket.rate is not None:
            self._bucket.take(job.size, now)
        if not self.out:
            self._window.begin(now)
        self.out += 1
        self.waiting -= 1
        flow.out += 1
        if flow.classes:
            self._unpark(flow)
        return job

    def _most_out(self, flow: Flow) -> int:
        """What one peer may have on its way.

        One chunk, among peers that weigh alike: its next one follows as soon as the kernel has taken this one, and
        no slow peer holds places that others could use. Where weights differ each may have its share of the
        window, and one that is alone all of it.
        """
        busy = len(self._busy)
        if busy > 1 and flow.weight * busy == self._weights:
            return 1
        return -(-self._window.chunks * flow.weight // self._weights)

    def _unpark(self, flow: Flow) -> None:
        flow.parked = True
        flow.tag = max(self._time, flow.tag)
        heapq.heappush(self._ready, (flow.tag, flow.peer_id, flow))

    def _flow(self, peer_id: str, now: float) -> Flow:
        """A peer's flow; one that is new has nothing to do yet."""
        flow = self._busy.get(peer_id)
        if flow is None:
            flow = self._idle.get(peer_id)
        if flow is None:
            flow = self._new_flow(peer_id, now)
            self._set_aside(flow)
        return flow

    def _new_flow(self, peer_id: str, now: float) -> Flow:
        return Flow(peer_id, self._per_peer, self._answer_rate(), now)

    def _answer_rate(self) -> float:
        limits = [limit for limit in (self.rate, self._per_peer) if limit is not None]
        return min([ANSWER_RATE, *(limit * ANSWER_PART for limit in limits)])

    def _retire(self, flow: Flow) -> None:
        """Set a flow aside that has nothing to do any more."""
        if flow.classes or flow.out or flow.parked:
            return
        del self._busy[flow.peer_id]
        self._weights -= flow.weight
        flow.weight = 0
        self._set_aside(flow)

    def _set_aside(self, flow: Flow) -> None:
        self._idle[flow.peer_id] = flow
        if len(self._idle) > MAX_IDLE_FLOWS:
            del self._idle[next(iter(self._idle))]
