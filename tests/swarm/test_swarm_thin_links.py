"""Many sources behind one thin link: each is slow because all of them deliver, and none is given up for that."""

from __future__ import annotations

import pytest
from swarm_kit import join, make, requests, view_out

from peatnet.swarm import (
    Action,
    Cancel,
    ChunkArrived,
    Request,
    SourceLost,
    Swarm,
    SwarmSettings,
    Tick,
)

SOURCES = 20
REPLACED_EVERY = 10.0  # seconds, after which the oldest source makes room for a new one


class ThinLink:
    """What is on its way shares the link equally, and takes its share to the end though nobody wants it any more."""

    def __init__(self, swarm: Swarm, seconds_a_chunk: float) -> None:
        self.swarm = swarm
        self.now = 0.0
        self.given_up = 0
        self._seconds = seconds_a_chunk
        self._left: dict[tuple[str, int], float] = {}  # of each chunk on its way, in chunks

    def run(self) -> None:
        for number in range(SOURCES):
            self._do(join(self.swarm, f"s{number}"))
        oldest, replace_at = 0, REPLACED_EVERY
        while not self.swarm.complete:
            if self.now >= replace_at:
                replace_at += REPLACED_EVERY
                self._replace(f"s{oldest}", f"s{oldest + SOURCES}")
                oldest += 1
            (source, index), left = min(self._left.items(), key=lambda each: each[1])
            arrival = self.now + left * len(self._left) * self._seconds
            wakeup = self.swarm.next_wakeup()
            if wakeup is not None and wakeup < arrival:
                self._pass(wakeup)
                self._do(self.swarm.handle(Tick(), self.now))
            else:
                self._pass(arrival)
                del self._left[source, index]
                self._do(self.swarm.handle(ChunkArrived(source, index), self.now))

    def _replace(self, old: str, new: str) -> None:
        self._left = {key: left for key, left in self._left.items() if key[0] != old}
        self._do(self.swarm.handle(SourceLost(old), self.now))
        self._do(join(self.swarm, new, now=self.now))

    def _pass(self, until: float) -> None:
        done = (until - self.now) / self._seconds / max(1, len(self._left))
        self._left = {key: left - done for key, left in self._left.items()}
        self.now = max(self.now, until)

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Request):
                self._left[action.source, action.index] = 1.0
            elif isinstance(action, Cancel):
                self.given_up += 1


@pytest.mark.parametrize("seconds_a_chunk", [0.05, 0.5, 0.7, 0.9])
def test_nothing_is_given_up_shortly_before_it_comes(seconds_a_chunk: float) -> None:
    link = ThinLink(make(1000), seconds_a_chunk)
    link.run()
    # Of the first requests, two to a source, made before anything is known, and of some at the end that are doubled.
    known = 0 if 2 * SOURCES * seconds_a_chunk < SwarmSettings().timeout_first else 2 * SOURCES
    assert link.given_up <= known + 0.02 * 1000
    assert link.swarm.duplicate_bytes <= (known + 0.02 * 1000) * 10


def test_a_silent_source_is_given_up_soon_where_others_are_fast() -> None:
    swarm = make(1000, first_window=1)
    join(swarm, "silent")
    silent = view_out(swarm, "silent")
    join(swarm, "fast")
    now = 0.0
    while silent == view_out(swarm, "silent"):
        now += 0.1
        swarm.handle(ChunkArrived("fast", view_out(swarm, "fast")[0]), now)
        assert now < 1.2 * SwarmSettings().timeout_first


def test_what_never_comes_makes_nobody_wait_without_end() -> None:
    settings = SwarmSettings()
    swarm = make(1000, max_strikes=12, extensions=0)
    began: dict[tuple[str, int], float] = {}
    now = longest = 0.0
    for number in range(SOURCES):
        for index in requests(join(swarm, f"s{number}")):
            began[f"s{number}", index] = now
    while (wakeup := swarm.next_wakeup()) is not None:
        now = wakeup
        for action in swarm.handle(Tick(), now):
            if isinstance(action, Cancel):
                longest = max(longest, now - began.pop((action.source, action.index)))
            elif isinstance(action, Request):
                began[action.source, action.index] = now
    assert settings.timeout_max < longest <= settings.crowd_slack * settings.timeout_max
