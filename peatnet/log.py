"""Where log lines go: to the standard library's logging, under the names of peatnet's modules.

A program that uses peatnet as a library configures logging as it likes; until it does, warnings reach stderr and
nothing else is said, as for any library. ``peatnet up`` configures it in ``peatnet.cli.logs``.

A line is an event and its facts, ``log.info("verified", bytes=17)``, and reads ``verified bytes=17``. Text from
outside is quoted where it holds anything but plain words, so it can neither forge a line nor steer a terminal.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, cast

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_PLAIN = re.compile(r"[!-&(-~]+")


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A structured logger under this name.

    Args:
        name: the module's, ``__name__``.
    """
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, _render],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return cast("structlog.stdlib.BoundLogger", logger)


def _render(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[str], dict[str, Any]]:
    """The arguments of the standard library's call: one text, and the traceback where there is one."""
    keywords = {"exc_info": event.pop("exc_info")} if "exc_info" in event else {}
    words = [str(event.pop("event"))]
    words += [f"{key}={_quoted(value)}" for key, value in event.items()]
    return (" ".join(words),), keywords


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if _PLAIN.fullmatch(text) else repr(text)
