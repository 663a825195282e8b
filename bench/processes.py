"""Programs under measurement, as child processes: started, asked what they used, and ended.

Linux only: CPU seconds and peak memory of a running process are read from /proc.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0
MIB = 1024 * 1024

_code = ContextVar("code", default=ROOT)  # the checkout whose peatnet is run

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_EVERY = 0.02
_LOG_TAIL = 2000


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used since it started."""

    cpu_s: float
    """User and system seconds of all its threads, and of children that have ended."""
    rss_mib: float
    """The most resident memory that it had at any time."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds now."""

    rss_mib: float
    """Resident memory."""
    threads: int
    fds: int
    """Open files and sockets."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ran to its end."""

    stdout: str
    seconds: float
    """From before it was started until it was gone."""
    usage: Usage


class Child:
    """A process that runs until it is ended. Made by `running`.

    Args:
        process: with pipes at stdin and stdout.
        log: where its stderr goes.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def read_line(self, timeout: float = START_TIMEOUT) -> str:
        """The next line of its stdout.

        Raises:
            RuntimeError: none came in time; with the end of its log.
        """
        assert self._process.stdout is not None
        # Each child prints one line and then waits for us, so no second line hides in a buffer.
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        line = self._process.stdout.readline() if ready else ""
        if not line.endswith("\n"):
            raise RuntimeError(f"{self._name}: printed no line\n{tail(self._log)}")
        return line

    def write_line(self, line: str) -> None:
        """Give it one line on its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def usage(self) -> Usage:
        """What it has used until now."""
        return _usage_of(self._process.pid)

    def footprint(self) -> Footprint:
        """What it holds now."""
        process = psutil.Process(self._process.pid)
        return Footprint(process.memory_info().rss / MIB, process.num_threads(), process.num_fds())

    def end(self) -> None:
        """Stop it: politely, then not."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    @property
    def _name(self) -> str:
        return " ".join(str(argument) for argument in self._process.args[1:4])  # type: ignore[index]  # always a list


@contextmanager
def code_of(root: Path) -> Iterator[None]:
    """What is started in this context runs the code of another checkout, where it runs peatnet at all."""
    token = _code.set(root)
    try:
        yield
    finally:
        _code.reset(token)


@contextmanager
def running(arguments: Sequence[str | Path], scratch: Path) -> Iterator[Child]:
    """This Python with these arguments, ended when the context is left.

    Args:
        arguments: after the interpreter's name.
        scratch: a directory for its log.
    """
    with ExitStack() as stack:
        log = scratch / f"{time.monotonic_ns()}.log"
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stack.enter_context(log.open("wb")),
            text=True,
            cwd=_code.get(),
            env=environment(),
        )
        child = Child(process, log)
        stack.callback(child.end)
        yield child


def finish(arguments: Sequence[str | Path], scratch: Path) -> Finished:
    """Run this Python with these arguments to its end.

    Raises:
        RuntimeError: it failed; with the end of its stderr.
    """
    out, err = (scratch / f"{time.monotonic_ns()}.{suffix}" for suffix in ("out", "err"))
    with out.open("wb") as stdout, err.open("wb") as stderr:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=_code.get(),
            env=environment(),
        )
        rss_mib = _watch(process.pid)
        seconds = time.perf_counter() - began
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        command = " ".join(str(argument) for argument in arguments[:4])
        raise RuntimeError(f"{command}: exit code {process.returncode}\n{tail(err)}")
    return Finished(out.read_text(), seconds, Usage(used.ru_utime + used.ru_stime, rss_mib))


def until(what: str, done: Callable[[], bool], timeout: float = START_TIMEOUT) -> None:
    """Look again and again, outside of the time, until something is so.

    Raises:
        RuntimeError: it never was.
    """
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not so within {timeout:.0f} s: {what}")
        time.sleep(_LOOK_EVERY)


def environment() -> dict[str, str]:
    """Ours, without the user's settings of peatnet."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PEATNET_")}


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-_LOG_TAIL:]


def _watch(pid: int) -> float:
    """Wait for a process to end, and return its peak memory in MiB as last seen.

    Not ru_maxrss: that counts what this process had when it forked, too.
    """
    peak = 0.0
    fd = os.pidfd_open(pid)
    try:
        while not select.select([fd], [], [], _LOOK_EVERY)[0]:
            peak = max(peak, _peak_mib(pid))
    finally:
        os.close(fd)
    return peak


def _usage_of(pid: int) -> Usage:
    # The name of the program, in parentheses, may hold anything; utime, stime, cutime and cstime are fields 14 to 17
    # of proc(5).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Usage(sum(map(int, fields[11:15])) / _TICKS, _peak_mib(pid))


def _peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0  # it has ended, and only its exit code is left
