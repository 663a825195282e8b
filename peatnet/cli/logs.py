"""Logs of the command line: one stream, always stderr, one line an event."""

from __future__ import annotations

import logging
import os
import sys
import time

_COLORS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m"}


def configure_logging(*, verbose: bool, daemon: bool = False) -> None:
    """Send all logs to stderr: errors for a short command, events too for a daemon, all with ``verbose``.

    On a terminal the time is short and levels are colored; elsewhere lines start with an RFC 3339 time.
    """
    terminal = sys.stderr.isatty()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter(terminal=terminal, colors=terminal and "NO_COLOR" not in os.environ)
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    level = logging.DEBUG if verbose else logging.INFO if daemon else logging.ERROR
    logging.getLogger("peatnet").setLevel(level)
    logging.captureWarnings(capture=True)


class _Formatter(logging.Formatter):
    def __init__(self, *, terminal: bool, colors: bool) -> None:
        super().__init__("%(asctime)s %(shown_level)s %(message)s")
        self._terminal = terminal
        self._colors = colors

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower():7}"
        color = _COLORS.get(record.levelname) if self._colors else None
        record.shown_level = f"{color}{level}\x1b[0m" if color else level
        return super().format(record)

    def formatTime(self, record: logging.LogRecord, _datefmt: str | None = None) -> str:  # noqa: N802  # logging's name
        if self._terminal:
            return time.strftime("%H:%M:%S", time.localtime(record.created))
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03}Z"
