"""The upload queue: fair by peer, weighted by priority, within its limits, never stuck. All on a virtual clock."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.errors import LocalProtocolError
from peatnet.swarm import flows, uploads, window
from peatnet.swarm.tokens import BURST_SECONDS
from peatnet.swarm.uploads import Uploads

if TYPE_CHECKING:
    import random

    from peatnet.swarm.flows import Job

MIB = 2**20


class Link:
    """A holder's link of a given rate, and downloaders that always want more.

    Chunks that are on their way share the link evenly; ``slow`` gives the rate of a peer's own link.
    """

    def __init__(self, queue: Uploads, rate: float, **slow: float) -> None:
        self.queue, self.rate, self.slow = queue, rate, slow
        self.now = 0.0
        self.sent: Counter[tuple[str, int]] = Counter()
        self.out: dict[Job, float] = {}  # bytes left
        self.size = MIB

    def want(self, peer: str, priority: int, count: int = 4) -> None:
        for _ in range(count):
            self.queue.submit(peer, priority, self.size, self.now)

    def run(self, until: float) -> None:
        while True:
            while (job := self.queue.next(self.now)) is not None:
                self.out[job] = job.size
            paces = self.paces()
            ends = [self.now + left / paces[job] for job, left in self.out.items()]
            step = min([self.queue.next_wakeup(self.now), *ends, until])
            assert step < math.inf
            elapsed, self.now = step - self.now, max(self.now, step)
            for job in list(self.out):
                self.out[job] -= paces[job] * elapsed
                if self.out[job] <= 1e-3:
                    del self.out[job]
                    self.sent[job.flow.peer_id, job.priority] += job.size
                    self.queue.done(job, self.now)
                    self.queue.submit(job.flow.peer_id, job.priority, self.size, self.now)
            if self.now >= until:
                return

    def paces(self) -> dict[Job, float]:
        """The link shared evenly among those that can take their part, as TCP does."""
        own = {
            job: self.slow.get(job.flow.peer_id, self.rate)
            / sum(each.flow is job.flow for each in self.out)
            for job in self.out
        }
        left, paces = self.rate, {}
        for number, job in enumerate(sorted(own, key=own.__getitem__)):
            paces[job] = min(own[job], left / (len(own) - number))
            left -= paces[job]
        return paces

    def share(self, **of: Any) -> float:
        wanted = sum(
            count
            for (peer, priority), count in self.sent.items()
            if of in ({"peer": peer}, {"priority": priority})
        )
        return wanted / self.sent.total()


def queue(rate: float | None = None, per_peer: float | None = None) -> Uploads:
    return Uploads(rate, per_peer, 0.0)


@pytest.mark.parametrize(("urgent", "idle"), [("a", "b"), ("a", "a")])
@pytest.mark.parametrize("rate", [1.25e6, 12.5e6, 500e6])
def test_priority_1_gets_four_fifths_against_5_which_never_starves(
    urgent: str, idle: str, rate: float
) -> None:
    link = Link(queue(), rate)
    link.want(idle, 5, 40)
    link.run(until=10)
    link.want(urgent, 1, 40)
    link.sent.clear()
    link.run(until=10 + max(2.0, 60 * MIB / rate))
    assert 0.8 <= link.share(priority=1) < 1
    assert link.share(priority=5) > 0.02


def test_peers_of_one_priority_get_the_same() -> None:
    link = Link(queue(), 12.5e6)
    for peer in "abcd":
        link.want(peer, 3)
    link.run(until=60)
    for peer in "abcd":
        assert link.share(peer=peer) == pytest.approx(0.25, abs=0.01)


def test_who_asks_for_more_at_once_gets_no_more() -> None:
    link = Link(queue(), 12.5e6)
    link.want("greedy", 3, 500)
    link.want("modest", 3, 9)
    link.run(until=60)
    assert link.share(peer="modest") == pytest.approx(0.5, abs=0.02)


def test_who_calls_everything_urgent_is_believed_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flows, "URGENT_BYTES", 100 * MIB)
    monkeypatch.setattr(flows, "URGENT_RATE", 1.0)
    link = Link(queue(), 12.5e6)
    link.want("hostile", 1, 100)
    link.want("honest", 3, 9)
    link.run(until=9)
    assert 0.75 < link.share(peer="hostile") < 0.85
    link.run(until=30)
    link.sent.clear()
    link.run(until=90)
    assert link.share(peer="hostile") == pytest.approx(0.5, abs=0.02)


def test_who_comes_back_has_saved_nothing_up() -> None:
    link = Link(queue(), 12.5e6)
    link.want("a", 3)
    link.run(until=60)
    link.want("b", 3)
    link.sent.clear()
    link.run(until=70)
    assert link.share(peer="b") == pytest.approx(0.5, abs=0.03)


@given(st.floats(1e5, 1e9), st.sampled_from([MIB // 4, MIB, 16 * MIB]))
@settings(max_examples=20, deadline=None)
def test_a_limit_holds(rate: float, size: int) -> None:
    link = Link(queue(rate), 2e9)
    link.size = size
    link.want("a", 3, 40)
    link.want("b", 2, 40)
    seconds = 40 * size / rate
    link.run(until=seconds)
    sent = link.sent.total() + sum(job.size for job in link.out)
    assert rate * seconds - size <= sent <= rate * (seconds + BURST_SECONDS) + size


def test_ten_megabytes_a_second_hold_within_five_percent() -> None:
    link = Link(queue(10e6), 1e9)
    link.want("a", 3)
    link.run(until=10)
    assert link.sent.total() == pytest.approx(100e6, rel=0.05)


def test_the_limit_on_one_peer_holds_for_each_and_hurts_nobody_else() -> None:
    link = Link(queue(None, 1e6), 20e6)
    for peer in "abc":
        link.want(peer, 3)
    link.run(until=30)
    for peer in "abc":
        assert link.sent[peer, 3] == pytest.approx(30e6, rel=0.06)


def test_the_limit_on_one_peer_holds_where_it_asks_for_one_chunk_at_a_time() -> None:
    waiting, now = queue(None, 1e6), 0.0
    for _ in range(10):
        waiting.submit("a", 3, MIB, now)
        while (job := waiting.next(now)) is None:
            now = max(now + 1e-6, waiting.next_wakeup(now))
        waiting.done(job, now)
    assert now >= 9 * MIB / 1e6 - 1


def test_limits_change_while_running() -> None:
    link = Link(queue(1e6), 100e6)
    link.want("a", 3)
    link.run(until=20)
    before = link.sent.total()
    link.queue.set_rates(None, 10e6, link.now)
    link.run(until=30)
    assert link.sent.total() - before == pytest.approx(100e6, rel=0.05)
    assert (link.queue.rate, link.queue.per_peer) == (None, 10e6)
    link.queue.set_rates(2e6, 1e9, link.now)  # those asleep wake
    before = link.sent.total()
    link.run(until=40)
    assert link.sent.total() - before == pytest.approx(20e6, rel=0.1)


def test_over_a_slow_link_chunks_go_one_after_the_other() -> None:
    link = Link(queue(), 1.25e6)
    for peer in "abcdefgh":
        link.want(peer, 3)
    link.run(until=100)
    assert len(link.out) <= 8
    assert link.queue.out <= link.queue.window <= 8


def test_a_fast_link_is_not_held_up_by_slow_peers() -> None:
    slow = {f"p{number}": 1.25e6 for number in range(30)}
    link = Link(queue(), 1e9, **slow)
    for peer in slow:
        link.want(peer, 3)
    link.run(until=60)
    link.sent.clear()
    link.run(until=90)
    assert link.sent.total() > 0.45 * 30 * 1.25e6 * 30


def test_two_slow_peers_do_not_hold_up_the_others() -> None:
    link = Link(queue(), 12.5e6, slow=0.5e6, slower=0.3e6)
    for peer in ("slow", "slower", "a", "b", "c"):
        link.want(peer, 3)
    link.run(until=60)
    link.sent.clear()
    link.run(until=120)
    assert sum(link.share(peer=peer) for peer in "abc") * link.sent.total() > 0.75 * 11.7e6 * 60


def test_what_is_withdrawn_is_not_sent() -> None:
    waiting = queue(1000.0)
    first = waiting.submit("a", 3, 5000, 0.0)
    second = waiting.submit("a", 3, 5000, 0.0)
    third = waiting.submit("a", 3, 5000, 0.0)
    assert waiting.next(0.0) is first
    assert not waiting.withdraw(first)  # it is on its way
    assert waiting.withdraw(second)
    assert not waiting.withdraw(second)
    assert (waiting.waiting, waiting.out) == (1, 1)
    waiting.done(first, 0.0)
    assert waiting.next(100.0) is third
    waiting.done(third, 100.0)
    assert waiting.next(200.0) is None
    assert waiting.next_wakeup(200.0) == math.inf
    late = waiting.submit("a", 3, 5000, 200.0)
    assert waiting.withdraw(late)
    assert waiting.next(200.0) is None  # what was left in the heap is cleared away
    assert not waiting._busy


@pytest.mark.parametrize(("priority", "size"), [(0, 1), (6, 1), (3, 0), (3, -1)])
def test_nonsense_is_refused(priority: int, size: int) -> None:
    with pytest.raises(LocalProtocolError):
        queue().submit("a", priority, size, 0.0)
    with pytest.raises(LocalProtocolError):
        Uploads(None, 0, 0.0)
    waiting = queue(5.0)
    with pytest.raises(LocalProtocolError):
        waiting.set_rates(6.0, -1.0, 0.0)
    assert waiting.rate == 5.0


def test_flows_of_peers_that_went_are_forgotten_in_time() -> None:
    waiting = queue()
    for number in range(uploads.MAX_IDLE_FLOWS + 50):
        job = waiting.submit(f"p{number}", 3, 10, 0.0)
        assert waiting.next(0.0) is job
        waiting.done(job, 0.0)
    assert len(waiting._idle) == uploads.MAX_IDLE_FLOWS
    assert not waiting._busy
    for number in range(uploads.MAX_IDLE_FLOWS + 50):
        waiting.charge(f"q{number}", 10, 0.0)
    assert len(waiting._idle) == uploads.MAX_IDLE_FLOWS


@given(st.randoms(use_true_random=False), *[st.sampled_from([None, 2e6])] * 2)
@settings(max_examples=60, deadline=None)
def test_nothing_is_lost_and_nothing_waits_for_ever(  # noqa: C901  # one history, step by step
    rng: random.Random, rate: float | None, per_peer: float | None
) -> None:
    waiting = queue(rate, per_peer)
    submitted: dict[Job, None] = {}
    now = 0.0
    out: list[Job] = []
    finished: set[Job] = set()
    withdrawn: set[Job] = set()
    for _ in range(rng.randrange(200)):
        now += rng.choice([0, 0, 0.01, 0.3])
        choice = rng.random()
        if choice < 0.5:
            job = waiting.submit(
                rng.choice("abcdefgh"), rng.randint(1, 5), rng.choice([1, MIB]), now
            )
            submitted[job] = None
        elif choice < 0.6 and submitted.keys() - withdrawn:
            job = rng.choice([each for each in submitted if each not in withdrawn])
            if waiting.withdraw(job):
                withdrawn.add(job)
        elif choice < 0.63:
            waiting.charge(rng.choice("abcdefghi"), rng.choice([1, MIB]), now)
        elif choice < 0.67:
            waiting.set_rates(rng.choice([None, 1e6]), rng.choice([None, 1e6]), now)
        elif out:
            job = out.pop(rng.randrange(len(out)))
            waiting.done(job, now)
            finished.add(job)
        while (given_job := waiting.next(now)) is not None:
            assert given_job in submitted.keys() - withdrawn - finished
            assert given_job not in out
            out.append(given_job)
        assert waiting.out == len(out) <= window.LARGEST
        assert waiting.waiting == len(submitted) - len(withdrawn) - len(finished) - len(out)
    for _ in range(3 * len(submitted) + 3):
        while (given_job := waiting.next(now)) is not None:
            out.append(given_job)
        if out:
            job = out.pop()
            waiting.done(job, now)
            finished.add(job)
        elif (wakeup := waiting.next_wakeup(now)) < math.inf:
            assert wakeup > now
            now = wakeup + 1e-6
    assert finished | withdrawn == submitted.keys()


def test_what_did_not_wait_counts_against_the_limits() -> None:
    waiting = queue(1e6, 0.5e6)
    waiting.charge("a", 5_000_000, 0.0)
    of_a, of_b = (waiting.submit(peer, 3, MIB, 0.0) for peer in "ab")
    assert waiting.next(0.0) is None
    due = waiting.next_wakeup(0.0)
    assert due == pytest.approx(5 - BURST_SECONDS)
    assert waiting.next(due + 1e-6) is of_b
    while (job := waiting.next(due)) is None:
        due = max(due + 1e-6, waiting.next_wakeup(due))
    assert job is of_a
    assert due == pytest.approx(10 - BURST_SECONDS)


def test_who_is_answered_without_waiting_waits_the_longer_for_chunks() -> None:
    link = Link(queue(), 12.5e6)
    peers = [f"p{number}" for number in range(40)]
    for peer in peers:
        link.want(peer, 3)
    link.run(until=10)
    link.sent.clear()
    for _ in range(100):
        link.queue.charge(peers[0], MIB // 5, link.now)
        link.run(until=link.now + 1)
    sent = [link.sent[peer, 3] / MIB for peer in peers]
    # As if they had been chunks.
    assert sent[0] + 20 == pytest.approx(sum(sent[1:]) / 39, abs=2)


def test_answers_that_do_not_wait_have_a_rate() -> None:
    waiting = queue()
    burst = flows.ANSWER_RATE * flows.ANSWER_SECONDS
    assert waiting.answer_at("a", 0.0) == 0.0
    waiting.charge("a", int(burst), 0.0)
    assert waiting.answer_at("a", 0.0) == 0.0
    waiting.charge("a", int(flows.ANSWER_RATE), 0.0)
    assert waiting.answer_at("a", 0.0) == pytest.approx(1.0)
    assert waiting.answer_at("a", 1.5) == 1.5
    assert waiting.answer_at("b", 0.0) == 0.0


@pytest.mark.parametrize("limits", [(1e5, None), (None, 1e5), (1e5, 1e6)])
@pytest.mark.parametrize("changed", [False, True])
def test_with_questions_alone_nobody_uses_a_limit_up(
    limits: tuple[float | None, float | None],
    *,
    changed: bool,
) -> None:
    waiting = queue() if changed else queue(*limits)
    waiting.charge("a", 1, 0.0)
    if changed:
        waiting.set_rates(*limits, 0.0)
    now = sent = 0.0
    while now < 1000:
        waiting.charge("a", 1000, now)
        sent += 1000
        now = max(now + 1e-6, waiting.answer_at("a", now))
    assert sent <= 1e5 / 8 * (1000 + flows.ANSWER_SECONDS) + 2000
