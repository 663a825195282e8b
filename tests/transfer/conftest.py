from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from transfer_support import World, make_data

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, make_data(12))
    yield made
    made.close()
