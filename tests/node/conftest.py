"""Two model files, and where a node under test keeps its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from node.node_kit import file_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return file_of(tmp_path, 1)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return file_of(tmp_path, 2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"
