"""What a node uses that has nothing to do: CPU and memory beside 8 peers, and after 200 transfers."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from common import Bench, Job, Run, Sample, main
from nodes import ON_DEMAND, Node, node, publish
from processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

PEERS = 8
TRANSFERS = 200
EARLY = 50
"""Growth is counted from here on: until then pools fill and modules are imported."""
SETTLE = 10.0
IDLE = 60.0


@contextmanager
def beside_peers(job: Job) -> Iterator[Run]:
    """One node that is connected to 8 others."""

    def run() -> Sample:
        with ExitStack() as stack:
            here = Path(stack.enter_context(TemporaryDirectory(dir=job.scratch)))
            others: list[Node] = []
            for number in range(PEERS):
                started = node(here / str(number), job.scratch, peers=others, options=ON_DEMAND)
                others.append(stack.enter_context(started))
            idle = stack.enter_context(
                node(here / "idle", job.scratch, peers=others, options=ON_DEMAND)
            )
            until("it has its peers", lambda: idle.connected() == PEERS)
            return rest(idle)

    yield run


@contextmanager
def after_transfers(job: Job) -> Iterator[Run]:
    """A node that has fetched a file, removed it, and fetched it again, 200 times."""
    published = job.scratch / "published"
    publish(published, job.scratch, job.file, "bench")

    def run() -> Sample:
        with (
            TemporaryDirectory(dir=job.scratch) as name,
            node(published, job.scratch, options=ON_DEMAND) as source,
            node(
                Path(name) / "sink",
                job.scratch,
                peers=[source],
                trust=[source],
                options=ON_DEMAND,
            ) as sink,
        ):
            until("the sink knows the model", lambda: len(sink.models()) == 1)
            found: dict[str, float] = {}
            for number in range(1, TRANSFERS + 1):
                sink.get("bench")
                sink.client.call("rm", {"reference": "bench", "force": True})
                if number in {EARLY, TRANSFERS}:
                    # Connections to the control socket are kept for some seconds.
                    time.sleep(SETTLE)
                    for end, where in (("source", source), ("sink", sink)):
                        seen = where.child.footprint()
                        found[f"{end}_rss_mib_after_{number}"] = seen.rss_mib
                        found[f"{end}_threads_after_{number}"] = seen.threads
                        found[f"{end}_fds_after_{number}"] = seen.fds
            sample = rest(sink)
            return Sample(sample.value, {**sample.extras, **found})

    yield run


def rest(idle: Node) -> Sample:
    """Let a node rest, and see what it uses."""
    time.sleep(SETTLE)
    before = idle.child.usage().cpu_s
    time.sleep(IDLE)
    cpu_s = idle.child.usage().cpu_s - before
    seen = idle.child.footprint()
    return Sample(
        100 * cpu_s / IDLE,
        {"now_rss_mib": seen.rss_mib, "threads": seen.threads, "fds": seen.fds},
    )


BENCH = Bench(
    name="idle",
    about="CPU of a node that has nothing to do, in percent of one core; less is better.",
    unit="%",
    size=4 * 1024 * 1024,
    rows={
        f"beside-{PEERS}-peers": beside_peers,
        f"after-{TRANSFERS}-transfers": after_transfers,
    },
    columns={
        "now_rss_mib": "MiB",
        "threads": "threads",
        "fds": "files",
        **{
            f"{end}_rss_mib_after_{number}": f"{end} MiB after {number}"
            for end in ("source", "sink")
            for number in (EARLY, TRANSFERS)
        },
    },
    rounds=2,
)

if __name__ == "__main__":
    main(BENCH)
