"""What a command finds itself in, made what the verbs count on: its streams, and the signals that end it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import stat
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


def prepare_streams() -> None:
    r"""Have a stdout and a stderr that take every text.

    What their encoding does not know (under ``LC_ALL=C``, or in Latin-1) is written as ``\u2026``: the names of models
    come from anywhere, and a command must not break on one. A stdout that was closed (``>&-``) counts as one whose
    reader has gone, and what goes to a closed stderr goes nowhere.
    """
    if sys.stdout is None:
        sys.stdout = _stream_without_reader()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # open as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _stream_without_reader() -> TextIO:
    read, write = os.pipe()
    # The reading end becomes a writing one, and so nobody reads. Both stay open: one of them has the number of stdout,
    # which no file of ours may get.
    os.dup2(write, read)
    return os.fdopen(write, "w", encoding="utf-8")


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """For the time of the block, SIGTERM does what Ctrl-C does: the command cleans up, and says what goes on.

    So does SIGHUP: a terminal that is closed, or a connection to it that breaks. Of these two, one that somebody has arranged for
    already, as ``nohup`` does, stays as it is; outside of the main thread both do.
    """
    arranged = []
    if threading.current_thread() is threading.main_thread():
        for number, handler in ((signal.SIGTERM, _as_control_c), (signal.SIGHUP, _as_sigterm)):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, handler)
                arranged.append(number)
    try:
        yield
    finally:
        for number in arranged:
            signal.signal(number, signal.SIG_DFL)


def _as_sigterm(_number: int, _frame: object) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # no file, or closed
            _silence_if_gone(stream.fileno())
    signal.raise_signal(signal.SIGTERM)


def _silence_if_gone(fd: int) -> None:
    """Let what is still said go nowhere where the terminal is gone: each write would fail, also those of cleaning up."""
    # A terminal that has hung up is none any more to isatty, but still a device.
    if stat.S_ISCHR(os.fstat(fd).st_mode) and not os.isatty(fd):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, fd)
        os.close(nowhere)


def _as_control_c(_number: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):  # trio's, perhaps, which knows when it must not interrupt
        handler(signal.SIGINT, frame)
    else:  # a shell that puts a job into the background has it ignore Ctrl-C
        raise KeyboardInterrupt


def end_at_once_when_told() -> None:
    """From now on SIGTERM and Ctrl-C end this process with exit code 0, until somebody else takes them.

    For `peatnet up`, as long as modules are imported and options read: nothing is open yet that would have to be closed. An
    exception, as Python raises one for Ctrl-C, might come up anywhere in that, and be taken for something else.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def _end(_number: int, _frame: object) -> None:
    os._exit(0)
