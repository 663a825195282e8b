"""A loader that is a program: started without a shell in a session of its own, and ended with all that it started.

A loader may leave a server behind that runs on: when it has ended well, nothing is done to what is left. When it
failed, took too long or was called off, whatever it started is ended. The members of its session are found by the
session's id, and those that left the session by a random token in their environment; by that token alone a node that
was killed finds, when it is back, what its last loader is still doing.
"""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial
from typing import TYPE_CHECKING, Final

import psutil
import trio

from peatnet.deploy.loaders import KEPT_BYTES, LoadResult, Tail
from peatnet.log import get_logger

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.deploy.loaders import CommandLoader, LoadJob

TOKEN_VARIABLE: Final = "PEATNET_LOADER"  # noqa: S105  # the name of a variable, not a password

_GRACE_S: Final = 5.0
"""Between asking a loader to end and ending it, and again for the kernel to do so."""

_MOST_LISTED: Final = 8
"""Processes in a message."""

_READ_UNIT: Final = 16 * 1024

log = get_logger(__name__)


async def run_command(loader: CommandLoader, job: LoadJob, *, cwd: Path, token: str) -> LoadResult:
    """Run the program to its end; see ``running.run_loader``."""
    environment = {**os.environ, **job.environment(), TOKEN_VARIABLE: token}
    try:
        output = _Output()
    except OSError as exc:
        return LoadResult(f"{loader} cannot be started: {exc.strerror}")
    left: set[int] = set()
    try:
        with trio.move_on_after(loader.timeout_s) as limit:
            try:
                process = await _start(loader, cwd, environment, output)
            except OSError as exc:
                return LoadResult(f"{loader} cannot be started: {exc.strerror}")
            code = await _watch(process, token, output, left)
        if limit.cancelled_caught:
            reason: str | None = f"{loader} took longer than {loader.timeout_s:g} s"
        else:
            reason = _reason(loader, code)
        if left:
            reason = f"{reason}; not all of it could be ended: {_listed(left)}"
        return LoadResult(reason, output.lines())
    finally:
        output.close()


async def _start(
    loader: CommandLoader, cwd: Path, environment: dict[str, str], output: _Output
) -> trio.Process:
    """Start the program.

    Raises:
        OSError: it cannot be.
    """
    try:
        # Not cancelled in between: either it did not begin, or the process is ours to end.
        return await trio.lowlevel.open_process(
            list(loader.command),
            stdin=subprocess.DEVNULL,
            stdout=output.write_end,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )
    finally:
        output.close_write_end()


async def _watch(process: trio.Process, token: str, output: _Output, left: set[int]) -> int:
    """Wait for the program's end; returns its exit code. Ends all that it left unless that is 0.

    Args:
        process: the program.
        token: marks what it starts.
        output: what it writes to.
        left: is given the processes that could not be ended, also where this is cancelled.
    """
    code: int | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.read)
            code = await process.wait()
            # Not at the end of the output: a server that it left behind may hold that open for good.
            nursery.cancel_scope.cancel()
    finally:
        if code != 0:
            with trio.CancelScope(shield=True):
                left |= await _end(process, token)
        output.read_rest()
    return code


async def _end(process: trio.Process, token: str) -> set[int]:
    """End a session and all that is marked, politely first; returns the processes that it could not end."""
    if process.poll() is None and _signal_group(process.pid, signal.SIGTERM):
        with trio.move_on_after(_GRACE_S):
            await process.wait()
    _, left = await trio.to_thread.run_sync(partial(_kill_marked, token, process.pid))
    # The program itself even where nothing of it can be looked at: until it is waited for, its id is no other's.
    if process.poll() is None and process.pid not in left and not _kill(process.pid):
        left.add(process.pid)
    if process.pid not in left:
        with trio.move_on_after(_GRACE_S) as limit:
            await process.wait()
        if limit.cancelled_caught:
            # In the kernel, and does not come back: a broken disk or driver. It will end when it does.
            left.add(process.pid)
    if left:
        log.error("a loader could not be ended", pid=process.pid, left=sorted(left))
    return left


def end_marked(token: str) -> int:
    """Kill the processes that have the token in their environment. Blocks a little.

    Returns:
        How many there were.
    """
    return len(_kill_marked(token, None)[0])


def _kill_marked(token: str, session: int | None) -> tuple[set[int], set[int]]:
    """Kill the processes that have the token in their environment, or belong to the session. Blocks a little.

    Returns:
        Those that were killed, and those that are not ours to kill.
    """
    killed: set[int] = set()
    refused: set[int] = set()
    # What is killed first cannot start another, but what is found later could have: until there are no more.
    for _ in range(8):
        theirs = [
            pid for pid in psutil.pids() if pid not in refused and _is_theirs(pid, token, session)
        ]
        for pid in theirs:
            (killed if _kill(pid) else refused).add(pid)
        if not theirs:
            break
    return killed, refused


def _is_theirs(pid: int, token: str, session: int | None) -> bool:
    if pid == os.getpid():
        return False
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return (session is not None and os.getsid(pid) == session) or process.environ().get(
            TOKEN_VARIABLE
        ) == token
    except (psutil.Error, OSError):
        return False  # gone meanwhile, or not ours to look at


def _kill(pid: int) -> bool:
    """Kill a process that may be gone; False: that is not allowed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except OSError as exc:
        log.warning("a process of a loader cannot be killed", pid=pid, error=exc.strerror)
        return False
    return True


def _signal_group(group: int, number: signal.Signals) -> bool:
    """Send a signal to the processes of a group; whether any of them got it."""
    try:
        os.killpg(group, number)
    except OSError as exc:
        log.debug("the group of a loader is gone, or another user's", group=group, error=exc.strerror)  # fmt: skip
        return False
    return True


def _listed(pids: set[int]) -> str:
    shown = ", ".join(str(pid) for pid in sorted(pids)[:_MOST_LISTED])
    more = f" and {len(pids) - _MOST_LISTED} more" if len(pids) > _MOST_LISTED else ""
    return f"process {shown} runs on" if len(pids) == 1 else f"processes {shown}{more} run on"


def _reason(loader: CommandLoader, code: int) -> str | None:
    if code == 0:
        return None
    if code < 0:
        try:
            return f"{loader} was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"{loader} was ended by signal {-code}"
    return f"{loader} ended with exit code {code}"


class _Output:
    """The pipe that a program writes to, and the end of what came through it.

    Our own and not trio's, since it must be possible to read what is there and stop.
    """

    def __init__(self) -> None:
        self._tail = Tail()
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read_end, False)
        self._writing = True

    def lines(self) -> tuple[str, ...]:
        """The last lines."""
        return self._tail.lines()

    async def read(self) -> None:
        """Read until nobody can write any more."""
        while True:
            await trio.lowlevel.wait_readable(self._read_end)
            if self._read_some() == 0:
                return

    def read_rest(self) -> None:
        """Read what is there, and no more than is kept: somebody may still be writing."""
        left = 2 * KEPT_BYTES
        while left > 0 and (count := self._read_some()):
            left -= count

    def _read_some(self) -> int | None:
        """Read once; returns the number of bytes, 0 at the end, None where there is nothing now."""
        try:
            data = os.read(self._read_end, _READ_UNIT)
        except BlockingIOError:
            return None
        self._tail.feed(data)
        return len(data)

    def close_write_end(self) -> None:
        """The program has its own."""
        if self._writing:
            self._writing = False
            os.close(self.write_end)

    def close(self) -> None:
        """Give the pipe back."""
        self.close_write_end()
        os.close(self._read_end)
