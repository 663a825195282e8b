"""Rows of peatnet.db that make no sense, as a newer version, a damaged disk or a person may have written them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from peatnet.errors import PeatnetError
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

log = get_logger(__name__)


def readable(
    table: str,
    rows: Iterable[tuple[Any, ...]],
    read: Callable[..., T],
    known_bad: set[tuple[Any, ...]] | None = None,
) -> list[T]:
    """What rows say, but for those that say nothing: these are left out, and logged. One bad row must not end a node.

    Args:
        table: where they are from, for the log.
        rows: each begins with what it is about.
        read: called with the columns of a row; raises ValueError (as pydantic does) or a PeatnetError where they make no sense.
        known_bad: rows that were logged before, for those who read a table again and again.
    """
    found: list[T] = []
    for row in rows:
        try:
            found.append(read(*row))
        except (ValueError, PeatnetError) as exc:
            if known_bad is not None and row in known_bad:
                continue
            if known_bad is not None:
                known_bad.add(row)
            reason = f"{type(exc).__name__}: {exc}"[:200]
            log.warning("row of peatnet.db left out", table=table, row=str(row[0]), reason=reason)
    return found
