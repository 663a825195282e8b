"""What tests of the command share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.nodes import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where a data directory may be made."""
    return tmp_path / "data"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Cluster]:
    """Nodes that end with the test."""
    nodes = Cluster(tmp_path)
    yield nodes
    nodes.close()
