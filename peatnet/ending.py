"""How ``peatnet up`` ends before there is a node that could be stopped. Imports next to nothing, so that it can be asked first."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Global options that take a value as a word of its own.
_WITH_VALUE = {"--data-dir"}


def is_up(arguments: Sequence[str]) -> bool:
    """Whether these are the arguments of ``peatnet up``."""
    words = iter(arguments)
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word == "up"
    return False


def end_at_once_when_told() -> None:
    """From now on SIGTERM and SIGINT end this process with exit code 0, until somebody else takes them.

    For as long as modules are imported and options read: nothing is open yet that would have to be closed. An exception, as Python
    raises one for SIGINT, might come up anywhere in that, and be taken for something else.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def _end(_number: int, _frame: object) -> None:
    os._exit(0)
