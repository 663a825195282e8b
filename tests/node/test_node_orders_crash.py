"""Real processes, killed for good at the steps of an update command; then the node is started again."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from node.orders_kit import orders

if TYPE_CHECKING:
    from collections.abc import Iterator

CHILD = Path(__file__).with_name("orders_child.py")
STEP = 9


@pytest.fixture
def disks() -> Iterator[Path]:
    """In memory where that can be: there are many of them, each synced many times."""
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="peatnet-", dir=place) as directory:
        yield Path(directory)


# The usual run tries every ninth point; the long one all of them.
@pytest.mark.parametrize(
    "first",
    [1, *(pytest.param(number, marks=pytest.mark.slow) for number in range(2, STEP + 1))],
)
def test_a_crash_at_any_point_ends_in_the_new_model_and_loads_it_once(
    disks: Path, first: int
) -> None:
    done = subprocess.run(
        [sys.executable, str(CHILD), str(disks), str(first), str(STEP)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    last = int(done.stdout)
    assert last > 2 * STEP
    for limit in range(first, last + 1, STEP):
        trio.run(check, disks / f"{limit:03}")


async def check(root: Path) -> None:
    async with orders(root, "m@2") as here:
        # Never none, not even before anything was mended.
        assert here.serving() in {"m@1", "m@2"}
        await here.wait("command-2", "done")
        assert here.serving() == "m@2"
        assert here.world.library.activator.current("m") is not None
        model = here.world.library.find("m@2").model
        assert model is not None
        assert here.world.library.view(model, progress=None).status == "loaded"
        # A loader that the end of the node cut short runs again; one that had ended well does not.
        assert here.started() in (["m@1", "m@2"], ["m@1", "m@2", "m@2"])
        started = here.started()
    async with orders(root) as here:
        await here.wait("command-2", "done")
        assert here.started() == started
