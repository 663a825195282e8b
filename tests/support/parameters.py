"""Cases of which some always run, and all with ``./scripts/test --all``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _pytest.mark import ParameterSet

T = TypeVar("T")


def mostly_slow(cases: Mapping[str, T], *always: str) -> list[ParameterSet]:
    """Parameters for ``pytest.mark.parametrize`` where each starts processes of its own and takes much the same way.

    Args:
        cases: their values, by what they are called.
        always: the names of those that are in every run; the others are marked slow.
    """
    assert set(always) <= set(cases), set(always) - set(cases)
    return [
        pytest.param(value, id=name, marks=() if name in always else pytest.mark.slow)
        for name, value in cases.items()
    ]
