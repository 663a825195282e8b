"""Keeps the chatter of libraries out of a node's output.

py-libp2p reports refused streams and zeroconf its retries at warning level and above; what matters of it we log
ourselves. Some of py-libp2p's modules write to the root logger directly. Whoever configures the named loggers
before a host is opened hears them.
"""

from __future__ import annotations

import logging
from pathlib import PurePath

_LOGGERS = ("libp2p", "zeroconf", "multiaddr")


def silence_libraries() -> None:
    """Silence the libraries below us; safe to call more than once."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
            logger.propagate = False
    # A logger's filters see what is logged on it directly, not what other loggers hand up to it.
    root = logging.getLogger()
    if _is_ours not in root.filters:
        root.addFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    return "libp2p" not in PurePath(record.pathname).parts
