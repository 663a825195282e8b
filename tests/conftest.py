"""What all tests share."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """A command that a test runs in its own process chooses what is logged: for that test only."""
    logger = logging.getLogger("peatnet")
    level = logger.level
    yield
    logger.setLevel(level)
