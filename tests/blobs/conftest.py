from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blobs_tools import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory in memory where there is one: this room syncs so often that a disk is slow.

    What a killed process wrote is kept by the kernel there as well; ``disk_path`` is for the tests
    that want a real file system all the same.
    """
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="peatnet-", dir=place) as directory:
        yield Path(directory)


@pytest.fixture
def disk_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disk")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "node")
    yield bench
    bench.close()


@pytest.fixture
def disk_bench(disk_path: Path) -> Iterator[Bench]:
    bench = Bench(disk_path / "node")
    yield bench
    bench.close()
