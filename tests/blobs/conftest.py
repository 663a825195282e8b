from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from blobs_tools import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "node")
    yield bench
    bench.close()
