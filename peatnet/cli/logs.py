"""Logs: structlog and the standard library's logging, one stream, always stderr."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def configure_logging(*, verbose: bool, daemon: bool = False) -> None:
    """Send all logs to stderr: warnings for a short command, events too for a daemon, all with ``verbose``.

    On a terminal they are colored, elsewhere they are plain lines of key=value pairs.
    """
    level = logging.DEBUG if verbose else logging.INFO if daemon else logging.WARNING
    terminal = sys.stderr.isatty()
    clock = structlog.processors.TimeStamper(
        fmt="%H:%M:%S" if terminal else "iso", utc=not terminal
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        clock,
    ]
    renderer = structlog.dev.ConsoleRenderer(
        colors=terminal and "NO_COLOR" not in os.environ,
        exception_formatter=structlog.dev.plain_traceback,
        pad_event_to=0,
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared)
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    logging.captureWarnings(capture=True)
