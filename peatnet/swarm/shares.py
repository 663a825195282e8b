"""How the downloads of one node share what it can receive: by priority, and within a limit.

Theory. A download is held back in two ways, by counting the bytes that it *asks for*:

*The limit.* Where the node has one, the bytes that it allows are dealt out by weight (16:8:4:2:1) among the downloads
that have use for them; what one leaves goes to the others.

*Yielding.* Without a limit, or below it, nobody knows how fast bytes could come, and a download from one
slow server must not hold up one of less urgency from a fast one. So a download that runs beside more urgent ones
is cut to its share by weight at once, and then *tries* more, step by step, as long as the urgent ones together
stay at what they had without it; when they do not, back to the share for a while. Where they compete for the same
link the lesser one stays near its share; where they do not, it is back at its full speed within seconds. If the
urgent ones stay low after it went back, it was not to blame, and it tries again from there.

Nobody starves: a share is never 0, what is granted adds up to a chunk in the end, and one request out is
always within the ceiling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from peatnet.errors import LocalProtocolError
from peatnet.swarm.flows import WEIGHTS
from peatnet.swarm.meters import Meter, Peak
from peatnet.swarm.tokens import BURST_SECONDS, TokenBucket, check_rate

# A rate is measured over so many chunks, and over a time within these bounds; a *beat* is as long, in seconds.
METER_CHUNKS = 5
SHORTEST_METER, LONGEST_METER = 0.7, 8.0
SHORTEST_BEAT = 1.0
PEAK_SECONDS = 10.0
# After a cut to the share: how long until more is tried; each trial lasts a beat; and the pause after one that hurt.
CUT_SECONDS = 2.0
HURT_SECONDS = 5.0
GROWTH = 4.0
# The urgent ones are hurt when they get less than this much of their best, and rising when more than this of before.
HURT = 0.85
RISING = 1.1
# Of what they leave of the best total that was seen, so much may be tried at once.
SPARE = 0.7
# A share is a chunk in so many seconds at the least.
SLOWEST_CHUNK = 15.0
# One that has nothing out still counts as competing for so long: it may be between two requests.
LINGER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What one download may do.

    Args:
        ceiling: requests that may be out at once; None for any number.
        credit: requests that may be made from now on; None for any number.
    """

    ceiling: int | None
    credit: int | None


class Member:
    """One download. `Shares` is its only user.

    Attributes:
        dealt: bytes of the limit that were dealt to it and not used.
        allowance: what yielding lets it ask for; None while it need not yield.
        retry_at: when it may try more.
        urgent_best: the best that the more urgent ones got together, lately.
        urgent_last: what they got when that was last looked at.
    """

    __slots__ = (
        "_busy_at",
        "_finished",
        "_made",
        "_meter",
        "_seen",
        "_seen_at",
        "allowance",
        "chunk_size",
        "dealt",
        "out",
        "priority",
        "progressing",
        "retry_at",
        "rivals",
        "urgent_best",
        "urgent_last",
    )

    def __init__(self, priority: int, chunk_size: int, now: float) -> None:
        self.priority = priority
        self.chunk_size = chunk_size
        self.out = 0
        self.progressing = False
        self._meter = Meter(now, LONGEST_METER)
        self.dealt = 0.0
        self.allowance: TokenBucket | None = None
        self.retry_at = now
        self.urgent_best = Peak(PEAK_SECONDS)
        self.urgent_last = 0.0
        self.rivals: frozenset[Member] = frozenset()
        self._busy_at = -math.inf
        self._made = 0
        self._finished = 0
        self._seen = 0.0
        self._seen_at = now

    @property
    def weight(self) -> int:
        """By its priority."""
        return WEIGHTS[self.priority]

    def is_active(self, now: float) -> bool:
        """Whether it competes with others for bytes."""
        return self.progressing and (self.out > 0 or now - self._busy_at < LINGER_SECONDS)

    def requested(self, count: int, now: float) -> None:
        """It made so many requests."""
        self._made += count
        self.dealt -= count * self.chunk_size
        if self.allowance is not None:
            self.allowance.take(count * self.chunk_size, now)

    def is_out(self, count: int, now: float) -> None:
        """It has so many requests out now; the others have come, or come to nothing."""
        if self.out or count:
            self._busy_at = now
        self.out = count
        finished = max(self._finished, self._made - count)
        came = (finished - self._finished) * self.chunk_size
        self._finished = finished
        if came:
            self._meter.add(came, now)
            self._seen, self._seen_at = self._meter.rate(now), now
            self._meter.seconds = max(SHORTEST_METER, self.beat(now))

    def rate(self, now: float) -> float:
        """Bytes a second. Chunks come one by one: between two of them, the rate is what it was with the last one."""
        if (now - self._seen_at) * self._seen < 2 * self.chunk_size:
            return self._seen
        return self._meter.rate(now)

    def beat(self, now: float) -> float:
        """Seconds in which enough chunks come that their number says something."""
        rate = self.rate(now)
        return min(LONGEST_METER, METER_CHUNKS * self.chunk_size / rate) if rate else LONGEST_METER


class Shares:
    """All downloads of a node. Times are seconds on one clock of the caller's.

    Args:
        rate: bytes a second that all downloads together may ask for; None for no limit.
        now: the present.

    Raises:
        LocalProtocolError: the rate is not above 0.
    """

    def __init__(self, rate: float | None, now: float) -> None:
        check_rate(rate)
        self.rate = rate
        self._members: dict[Member, None] = {}  # in the order they joined
        self._total_best = Peak(PEAK_SECONDS)
        self._at = now
        self._left_over = 0.0

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do: a limit to deal out, or somebody who may have to yield."""
        if self.rate is not None:
            return bool(self._members)
        return len({member.priority for member in self._members}) > 1

    def set_rate(self, rate: float | None, now: float) -> None:
        """Change the limit from now on.

        Raises:
            LocalProtocolError: the rate is not above 0.
        """
        check_rate(rate)
        self.step(now)
        self.rate = rate
        for member in self._members:
            member.dealt = min(member.dealt, self._most_dealt(member))

    def join(self, priority: int, chunk_size: int, now: float) -> Member:
        """A download begins.

        Raises:
            LocalProtocolError: the priority is not one of 1 to 5, or the size not above 0.
        """
        check_priority(priority)
        if chunk_size < 1:
            raise LocalProtocolError(f"a download with chunks of {chunk_size} bytes")
        self.step(now)
        member = Member(priority, chunk_size, now)
        self._members[member] = None
        return member

    def leave(self, member: Member, now: float) -> None:
        """A download ends; said again, it changes nothing."""
        self.step(now)
        self._members.pop(member, None)
        # Now: with nobody left to yield to, there may be no further step.
        self._judge_all(now)

    def set_priority(self, member: Member, priority: int, now: float) -> None:
        """A download becomes more or less urgent.

        Raises:
            LocalProtocolError: the priority is not one of 1 to 5.
        """
        check_priority(priority)
        self.step(now)
        member.priority = priority
        self._judge_all(now)

    def requested(self, member: Member, count: int, now: float) -> None:
        """A download made so many requests, or (negative) some came back with nothing: they cost nothing."""
        member.requested(count, now)

    def out(self, member: Member, count: int, now: float, *, progressing: bool) -> None:
        """A download has so many requests out, and gets something, or not."""
        member.progressing = progressing
        member.is_out(count, now)

    def step(self, now: float) -> None:
        """Deal out what the limit allowed since the last step, and judge who yields. Call it often while `busy`."""
        elapsed, self._at = max(0.0, now - self._at), max(now, self._at)
        if not self._members:
            return
        self._total_best.add(sum(member.rate(now) for member in self._members), now)
        if self.rate is not None:
            self._deal(min(elapsed, BURST_SECONDS) * self.rate)
        self._judge_all(now)

    def grant(self, member: Member, now: float) -> Grant:
        """What a download may do now."""
        left: list[float] = []
        if self.rate is not None:
            left.append(member.dealt)
        ceiling = None
        if member.allowance is not None:
            left.append(member.allowance.level(now))
            ceiling = self._ceiling(member, member.allowance.rate or 0.0)
        if not left:
            return Grant(None, None)
        return Grant(ceiling, max(0, int(min(left) // member.chunk_size)))

    def _deal(self, count: float) -> None:
        """Deal out bytes by weight; who has as much as it may hold is left out, and the others get its part."""
        count += self._left_over
        hungry = [member for member in self._members if member.dealt < self._most_dealt(member)]
        while hungry and count > 0:
            share = count / sum(member.weight for member in hungry)
            full = []
            for member in hungry:
                taken = min(share * member.weight, self._most_dealt(member) - member.dealt)
                member.dealt += taken
                count -= taken
                if taken < share * member.weight:
                    full.append(member)
            if not full:
                break
            hungry = [member for member in hungry if member not in full]
        # Nobody has use for it now; a moment's worth is kept for who comes next.
        self._left_over = 0.0 if hungry else min(count, (self.rate or 0.0) * BURST_SECONDS)

    def _most_dealt(self, member: Member) -> float:
        """What a download may save up: its part of a moment's worth, and a chunk, or it could never ask."""
        weights = sum(each.weight for each in self._members)
        if self.rate is None or not weights:
            return 0.0
        return self.rate * BURST_SECONDS * member.weight / weights + member.chunk_size

    def _judge_all(self, now: float) -> None:
        for member in self._members:
            self._judge(member, now)

    def _judge(self, member: Member, now: float) -> None:
        """Whether a download yields, and how much it may ask for then."""
        urgent = frozenset(
            each
            for each in self._members
            if each.priority < member.priority and each.is_active(now)
        )
        if not urgent:
            member.allowance = None
            member.rivals = urgent
            return
        share = self._share(member, urgent)
        if member.allowance is None or not urgent <= member.rivals:
            # Somebody more urgent has come.
            member.rivals = urgent
            member.urgent_best = Peak(PEAK_SECONDS)
            member.urgent_last = 0.0
            member.allowance = TokenBucket(share, now, self._burst(member, share))
            member.retry_at = now + CUT_SECONDS
            return
        member.rivals = urgent
        rate = sum(each.rate(now) for each in urgent)
        member.urgent_best.add(rate, now)
        beat = max(SHORTEST_BEAT, min(each.beat(now) for each in urgent))
        allowed = max(share, member.allowance.rate or 0.0)
        hurt = rate < HURT * member.urgent_best.value(now)
        if hurt and allowed > share:
            allowed = share
            member.retry_at = now + max(HURT_SECONDS, beat)
        elif now >= member.retry_at:
            if hurt:
                # We went back to the share and it did not help them: so be it.
                member.urgent_best = Peak(PEAK_SECONDS)
                member.urgent_best.add(rate, now)
            rising, member.urgent_last = rate > RISING * member.urgent_last, rate
            if not rising and member.rate(now) > allowed / (2 * GROWTH):
                allowed = max(allowed * GROWTH, SPARE * (self._most(now) - rate))
            member.retry_at = now + beat
        if allowed != member.allowance.rate:
            self._allow(member, allowed, now)

    def _most(self, now: float) -> float:
        """What all together could get, as far as that is known: the limit, else the best of the last seconds."""
        return self.rate or self._total_best.value(now)

    def _share(self, member: Member, urgent: frozenset[Member]) -> float:
        """A download's share by weight, in bytes a second."""
        weights = member.weight + sum(each.weight for each in urgent)
        share = self._most(self._at) * member.weight / weights
        return max(share, member.chunk_size / SLOWEST_CHUNK)

    def _allow(self, member: Member, rate: float, now: float) -> None:
        level = member.allowance.level(now) if member.allowance is not None else 0.0
        member.allowance = TokenBucket(rate, now, self._burst(member, rate))
        # What it asked for too much, or could have asked for, under the old one.
        member.allowance.take(member.allowance.level(now) - min(level, rate * BURST_SECONDS), now)

    def _burst(self, member: Member, rate: float) -> float:
        """Seconds whose worth may be saved up: enough for a chunk, or it could never ask."""
        return BURST_SECONDS + member.chunk_size / rate

    def _ceiling(self, member: Member, allowed: float) -> int:
        """Requests out in proportion to those of the more urgent."""
        weights = sum(each.weight for each in member.rivals)
        fair = sum(each.out for each in member.rivals) * member.weight / weights
        # What has proved to hurt nobody needs its requests out: half a second's worth.
        tried = allowed / 2 / member.chunk_size
        return max(1, math.ceil(max(fair, tried)))


def check_priority(priority: int) -> None:
    """Refuse what is no priority.

    Raises:
        LocalProtocolError: it is not one of 1 to 5.
    """
    if priority not in WEIGHTS:
        raise LocalProtocolError(f"a priority of {priority}: 1 (most urgent) to 5 are meant")
