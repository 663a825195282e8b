"""What a fleet of programs is to `fanout` and `far`: one source and N sinks, each a process on a host of its own.

Host 0 is the source. A fleet is started, and is ready when every member is up and knows what it may know before
the start: the others, and what is to be fetched. Then all sinks are told at the same moment, each in a thread of
its own that waits for its end.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from processes import MIB, ROOT, Child, Usage, environment, tail

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from netlab import Lab

SOURCE = 0
STOP_TIMEOUT = 15.0
RESTART_TIMEOUT = 60.0


class Start:
    """The moment at which all sinks begin."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.at = 0.0

    def give(self) -> None:
        """Now."""
        self.at = time.monotonic()
        self._event.set()

    def wait(self, timeout: float) -> None:
        """Until the start is given."""
        if not self._event.wait(timeout):
            raise RuntimeError("the start was never given")

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.at


@dataclass(slots=True)
class Delivery:
    """How one sink got the file; filled while it does.

    Attributes:
        sink: its host.
        seconds: from the start until it was complete, verified and on disk; 0 while it is not.
        by_host: payload bytes by the host they came from, as the sink counts them.
        duplicates: bytes that came twice, as the sink counts them; None where it does not tell.
        trace: now and then (seconds since the start, by_host); of a sink that was killed, since its restart.
    """

    sink: int
    seconds: float = 0.0
    by_host: dict[int, int] = field(default_factory=dict)
    duplicates: int | None = None
    trace: list[tuple[float, dict[int, int]]] = field(default_factory=list)

    def note(self, now: float, by_host: dict[int, int]) -> None:
        """How far it is."""
        if by_host != self.by_host:
            self.by_host = by_host
            self.trace.append((round(now, 3), by_host))


class Fleet(Protocol):
    """One source and its sinks, of one program."""

    def start(self, timeout: float) -> None:
        """Start everybody and wait until all are ready.

        Raises:
            RuntimeError: somebody is not, in time.
        """

    def deliver(self, delivery: Delivery, start: Start) -> None:
        """Wait for the start, have a sink fetch, and wait for its end, over a restart of it too. In a thread.

        Raises:
            RuntimeError: it failed.
        """

    def payload_sent(self) -> int | None:
        """Payload bytes that the source has sent, by its own count; None where it does not count."""

    def usage(self, host: int) -> Usage:
        """What a member has used until now; of one that was killed, until then."""

    def file(self, sink: int) -> Path:
        """Where a sink has put what it fetched."""

    def close(self) -> None:
        """End every member. Whoever waits in `deliver` then fails."""


class FragileFleet(Fleet, Protocol):
    """One whose members may die and come back, each at a moment that depends on what there is by then."""

    def have(self, sink: int) -> int:
        """The pieces that a sink has verified, a bit each."""

    def pieces(self) -> int:
        """How many there are."""

    def kill(self, host: int) -> None:
        """End a member as a power cut would."""

    def restart(self, sink: int) -> None:
        """Start a sink that was killed, with what it had on disk; returns when it is up."""


class Member:
    """One program on one host.

    Args:
        lab: the network.
        host: where it runs.
        arguments: after the interpreter's name.
        log: where its stderr goes, after what is there.
    """

    def __init__(self, lab: Lab, host: int, arguments: Sequence[str | Path], log: Path) -> None:
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [*lab.command(host), sys.executable, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=ROOT,
                env=environment(),
            )
        self._log = log
        self._last = Usage(0.0, 0.0)
        self.child = Child(self._process, log)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def lines(self) -> Iterator[str]:
        """What it prints, line by line, until it ends."""
        assert self._process.stdout is not None
        yield from self._process.stdout

    def usage(self) -> Usage:
        """What it has used, as last seen alive."""
        if self.alive:
            self._last = self.child.usage()
        return self._last

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.usage()
        self._process.kill()
        self._process.wait(STOP_TIMEOUT)

    def ask_to_end(self) -> None:
        """SIGTERM; see `end`."""
        self._process.terminate()

    def end(self) -> None:
        """Wait until it is gone, and see to it."""
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def log(self) -> str:
        """The end of its log."""
        return tail(self._log)


def end_all(members: Sequence[Member]) -> None:
    """End them all at once, not one after the other."""
    for member in members:
        member.ask_to_end()
    for member in members:
        member.end()


__all__ = ["MIB", "SOURCE", "Delivery", "Fleet", "FragileFleet", "Member", "Start", "end_all"]
