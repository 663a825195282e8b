"""Fair queueing: what waits to be sent to one peer, in the order of its priorities.

Theory. Start-time fair queueing: everybody who waits has a *tag*, a point in virtual time. Who has the smallest tag
goes next, and the tag moves on by size / weight; so over any stretch of time those who wait get bytes in proportion
to their weights. Somebody who comes back after a pause starts at the present virtual time: what was not used is
not saved up. A weight is never 0, so nobody waits for ever.

It is used on two levels: among peers (uploads.py), and here among the priorities of one peer.
"""

from __future__ import annotations

from peatnet.swarm.tokens import TokenBucket

# By priority, 1 (most urgent) to 5. Against everything less urgent by more than one step, 80 % or more.
WEIGHTS = {1: 16, 2: 8, 3: 4, 4: 2, 5: 1}
DEFAULT_PRIORITY = 3
# A peer's claim that something is urgent is believed for so many bytes, which come back at this rate (about
# 8 GiB in an hour). Beyond, what it asks for at priority 1 or 2 has the weight of priority 3.
URGENT_BYTES = 16 * 1024**3
URGENT_RATE = 2.5e6
# Answers that do not wait in a queue may be so many bytes a second to one peer, and what that gives in so many seconds
# at once; where there is a limit, this part of it at the most, so that nobody can use it up without waiting.
ANSWER_RATE = 128 * 1024.0
ANSWER_SECONDS = 32.0
ANSWER_PART = 1 / 8


class Job:
    """One chunk that waits to be sent, or is on its way.

    Attributes:
        flow: the peer's.
        priority: 1 to 5.
        size: in bytes.
    """

    __slots__ = ("flow", "priority", "size")

    def __init__(self, flow: Flow, priority: int, size: int) -> None:
        self.flow = flow
        self.priority = priority
        self.size = size


class Flow:
    """All that goes to one peer, however many connections it has.

    Attributes:
        peer_id: whose it is.
        tag: its place in virtual time among all peers.
        parked: whether it is in some queue of its owner's; it is in one at most.
        out: its chunks that are on their way.
        classes: what waits, by priority; each kept only as long as something of it waits.
        bucket: the limit on one peer.
        answers: the limit on what goes to it without having waited.
        weight: its weight among the peers when that was last looked at; 0 before.
    """

    __slots__ = (
        "_tags",
        "_time",
        "_urgency",
        "answers",
        "bucket",
        "classes",
        "out",
        "parked",
        "peer_id",
        "tag",
        "weight",
    )

    def __init__(self, peer_id: str, rate: float | None, answer_rate: float, now: float) -> None:
        self.peer_id = peer_id
        self.tag = 0.0
        self.parked = False
        self.out = 0
        self.weight = 0
        self.bucket = TokenBucket(rate, now)
        self.answers = TokenBucket(answer_rate, now, ANSWER_SECONDS)
        self._urgency = TokenBucket(URGENT_RATE, now, URGENT_BYTES / URGENT_RATE)
        self.classes: dict[int, dict[Job, None]] = {}
        self._tags: dict[int, float] = {}
        self._time = 0.0

    def add(self, job: Job) -> None:
        """One more chunk waits, behind those of its priority."""
        priority = job.priority
        waiting = self.classes.get(priority)
        if waiting is None:
            self.classes[priority] = {job: None}
            self._tags[priority] = max(self._time, self._tags.get(priority, 0.0))
        else:
            waiting[job] = None

    def remove(self, job: Job) -> bool:
        """A chunk is not wanted any more; False where it does not wait."""
        waiting = self.classes.get(job.priority)
        if waiting is None or job not in waiting:
            return False
        del waiting[job]
        if not waiting:
            del self.classes[job.priority]
        return True

    def weigh(self, now: float) -> int:
        """Set the weight: that of the most urgent that waits, as far as the peer is believed. How much it grew."""
        most_urgent = min(self.classes)
        if most_urgent < DEFAULT_PRIORITY and self._urgency.level(now) < 0:
            most_urgent = DEFAULT_PRIORITY
        before, self.weight = self.weight, WEIGHTS[most_urgent]
        return self.weight - before

    def pop(self, now: float) -> Job:
        """Take what goes next; something must wait."""
        classes = self.classes
        if len(classes) == 1:
            (priority,) = classes
        else:
            priority = min(classes, key=lambda each: (self._tags[each], each))
        waiting = classes[priority]
        job = next(iter(waiting))
        del waiting[job]
        if not waiting:
            del classes[priority]
        self._time = self._tags[priority]
        self._tags[priority] += job.size / WEIGHTS[priority]
        if priority < DEFAULT_PRIORITY:
            self._urgency.take(job.size, now)
        return job
