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

_READ_UNIT: Final = 16 * 1024

log = get_logger(__name__)


async def run_command(loader: CommandLoader, job: LoadJob, *, cwd: Path, token: str) -> LoadResult:
    """Run the program to its end; see ``running.run_loader``."""
    environment = {**os.environ, **job.environment(), TOKEN_VARIABLE: token}
    try:
        output = _Output()
    except OSError as exc:
        return LoadResult(f"{loader} cannot be started: {exc.strerror}")
    try:
        with trio.move_on_after(loader.timeout_s) as limit:
            try:
                process = await _start(loader, cwd, environment, output)
            except OSError as exc:
                return LoadResult(f"{loader} cannot be started: {exc.strerror}")
            code = await _watch(process, token, output)
        if limit.cancelled_caught:
            return LoadResult(f"{loader} took longer than {loader.timeout_s:g} s", output.lines())
        return LoadResult(_reason(loader, code), output.lines())
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


async def _watch(process: trio.Process, token: str, output: _Output) -> int:
    """Wait for the program's end; returns its exit code. Ends all that it left unless that is 0."""
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
                await _end(process, token)
        output.read_rest()
    return code


async def _end(process: trio.Process, token: str) -> None:
    """End a session and all that is marked, politely first."""
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        with trio.move_on_after(_GRACE_S):
            await process.wait()
    await trio.to_thread.run_sync(partial(end_marked, token, session=process.pid))
    with trio.move_on_after(_GRACE_S) as limit:
        await process.wait()
    if limit.cancelled_caught:
        # In the kernel, and does not come back: a broken disk or driver. It will end when it does.
        log.error("a loader does not end", pid=process.pid)


def end_marked(token: str, session: int | None = None) -> int:
    """Kill the processes that have the token in their environment, or belong to the session. Blocks a little.

    Returns:
        How many there were.
    """
    found = 0
    # What is killed first cannot start another, but what is found later could have: until there are no more.
    for _ in range(8):
        theirs = [pid for pid in psutil.pids() if _is_theirs(pid, token, session)]
        for pid in theirs:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            found += 1
        if not theirs:
            break
    return found


def _is_theirs(pid: int, token: str, session: int | None) -> bool:
    if pid == os.getpid():
        return False
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or process.uids().real != os.getuid():
            return False
        return (session is not None and os.getsid(pid) == session) or process.environ().get(
            TOKEN_VARIABLE
        ) == token
    except (psutil.Error, OSError):
        return False  # gone meanwhile, or not ours to look at


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        log.debug("the group of a loader is gone", group=group)


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
