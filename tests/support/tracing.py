"""A plugin for pytest, given with the coverage gate: the tracer runs in the tests that the gate goes by, and in no others.

It slows down all code that runs while it is there, not only what is measured.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
# Each of these rooms has to be covered to the last branch by the tests of its own name.
COVERED = {"models", "records", "swarm"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(TESTS).parts[0] not in COVERED:
            item.add_marker(pytest.mark.no_cover)
