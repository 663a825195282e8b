"""How long a roll-out takes, from the end of ``publish`` until a model is in service on all nodes, over the bare transfer."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, time
from typing import TYPE_CHECKING

from common import Bench, Job, Run, Sample, main
from nodes import publish
from pairs import SLOWEST, Ends, check_file
from processes import until
from rollout_fleet import REAL_SIZE, SMALLEST, Fleet, fleet, make_model, real_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from common import Opener

NODES = 8
MODEL = "bench"
LOADER = shutil.which("true") or "/bin/true"

Measured = tuple[float, dict[str, float]]


def row(measure: Callable[[Fleet, float], Measured]) -> Opener:
    """How to open a row: a new fleet for each run, of which the publisher has published the model.

    Args:
        measure: takes the fleet and how many seconds there are; returns the seconds it took, and what else it saw.
    """

    @contextmanager
    def open_row(job: Job) -> Iterator[Run]:
        model, is_real = _model(job)
        size = model.stat().st_size

        def run() -> Sample:
            with (
                TemporaryDirectory(dir=job.scratch) as here,
                fleet(Path(here), NODES, [LOADER]) as found,
            ):
                publish(found.publisher.data_dir, Path(here), model, MODEL)
                ends = Ends(found.publisher.child, *(each.child for each in found.nodes), job=job)
                seconds, extras = measure(found, 60 + NODES * size / SLOWEST)
                used = ends.sample(NODES * size, seconds, real_model=is_real, **extras)
                for each in found.nodes:
                    check_file(model, Path(each.get(MODEL)["path"]))
                return Sample(seconds, used.extras)

        yield run

    return open_row


def roll_out(found: Fleet, limit: float) -> Measured:
    """Deploy the model to all at once, and wait as ``peatnet deploy --wait`` does."""
    client = found.publisher.client
    began, began_at = perf_counter(), time()
    command_id = client.call("deploy", {"reference": MODEL})["command_id"]
    waiting = {"command_id": command_id, "timeout_s": limit}
    client.call("await_command", waiting)
    seconds = perf_counter() - began
    status = {each["name"]: each["status"] for each in found.status(MODEL)["nodes"]}
    if len(status) != NODES + 1 or set(status.values()) != {"loaded"}:
        raise RuntimeError(f"not loaded everywhere: {status}")
    # The link is made when the file is there and its header checked, before the loader is started.
    links = [each.data_dir / "models" / MODEL / "current" for each in found.everyone]
    switched_s = max(link.lstat().st_mtime for link in links) - began_at
    return seconds, {"switched_s": switched_s}


def transfer(found: Fleet, limit: float) -> Measured:
    """The same nodes, none of which puts anything into service: a ``get`` at each, all at once."""
    for each in found.nodes:
        until("all know the model", lambda each=each: len(each.models()) == 1, limit)  # type: ignore[misc]  # https://github.com/python/mypy/issues/12557
    with ThreadPoolExecutor(NODES) as pool:
        began = perf_counter()
        list(pool.map(lambda each: each.get(MODEL), found.nodes))
        return perf_counter() - began, {}


def _model(job: Job) -> tuple[Path, bool]:
    """The real model where its size is asked for and it is installed, else one of that size; and whether it is real."""
    real = real_model() if job.size == REAL_SIZE else None
    if real is not None:
        return real, True
    made = job.scratch / "rollout-f16.safetensors"
    if not made.exists():
        make_model(made, max(job.size, SMALLEST))
    return made, False


BENCH = Bench(
    name="rollout",
    about=f"One model, published, then put into service on {NODES} nodes and its publisher: seconds; less is better.",
    unit="s",
    size=REAL_SIZE,
    rows={f"rollout-{NODES}": row(roll_out), f"transfer-{NODES}": row(transfer)},
    ratios=[(f"rollout-{NODES}", f"transfer-{NODES}")],
    columns={
        "switched_s": "all switched, s",
        "source_cpu_s": "publisher CPU s",
        "sink_cpu_s": "nodes CPU s",
        "sink_rss_mib": "node peak MiB",
        "real_model": "real model",
    },
)

if __name__ == "__main__":
    main(BENCH)
