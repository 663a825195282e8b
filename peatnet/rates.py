"""Rates as people write them: ``10M``, ``10MB/s``, ``1.5 GiB/s``, ``100Mbit/s``, or a number of bytes a second."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

# Below, a chunk of a MiB would take longer than other nodes wait for it.
SLOWEST = 64 * 1024
FASTEST = 10**15

_TEXT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([a-zA-Z]*)(?:/s|/sec)?", re.ASCII)
_BYTES = {"": 1, "b": 1, "k": 1e3, "kb": 1e3, "kib": 2**10, "m": 1e6, "mb": 1e6, "mib": 2**20}
_BYTES |= {"g": 1e9, "gb": 1e9, "gib": 2**30}
_BITS = {"bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "kbps": 1e3, "mbps": 1e6, "gbps": 1e9}
_EXAMPLES = "such as 10MB/s, 512KiB/s, 100Mbit/s, or 0 for no limit"


def parse_rate(value: Any) -> int | None:
    """A rate in bytes a second; None where there is no limit.

    Args:
        value: a number of bytes a second, or text: a number with ``k``, ``M`` or ``G`` (powers of 1000; ``KiB`` and so on:
            of 1024), ``B``, ``/s``; ``Mbit/s`` and ``Mbps`` count bits. None, 0, ``none`` and ``unlimited`` mean no limit.

    Raises:
        ValueError: it is none of these, or out of bounds; the message is for people.
    """
    if value is None:
        return None
    if isinstance(value, str):
        rate = _from_text(value.strip())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        rate = value
    else:
        raise ValueError(f"a rate is needed, {_EXAMPLES}")  # noqa: TRY004  # pydantic takes this one
    if rate == 0:
        return None
    if not SLOWEST <= rate <= FASTEST:
        raise ValueError(f"a rate from 64KiB/s to 1000TB/s is needed, or 0 for no limit: {value}")
    return round(rate)


def _from_text(text: str) -> float:
    if text.lower() in {"none", "unlimited"}:
        return 0
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError(f"not a rate: {text[:40]!r}; a rate is needed, {_EXAMPLES}")
    number, unit = float(found[1]), found[2]
    # Only here does it matter whether it is b or B: people mean bits by Mb and bytes by MB, or do not know.
    if unit in {"kb", "Kb", "Mb", "mb", "Gb", "gb"}:
        raise ValueError(
            f"{text!r} may be bits or bytes: write {unit[0].upper()}B/s or {unit[0]}bit/s"
        )
    if unit.lower() in _BITS:
        return number * _BITS[unit.lower()] / 8
    if unit.lower() not in _BYTES:
        raise ValueError(f"not a rate: {text!r} (unit {unit!r}); a rate is needed, {_EXAMPLES}")
    return number * _BYTES[unit.lower()]


Rate = Annotated[int | None, BeforeValidator(parse_rate)]
"""A field of a pydantic model that holds a rate, in bytes a second, or None for no limit."""
