"""How long an announcement takes to reach all nodes: from the call of ``publish`` until each of the others has the manifest."""

from __future__ import annotations

import json
import statistics
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from common import Bench, Job, Opener, Run, Sample, main
from processes import Child, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE = Path(__file__).with_name("gossip_node.py")
COUNTS = (8, 16, 32)
ANNOUNCEMENTS = 20
START_TIMEOUT = 120.0
SEEN_TIMEOUT = 120.0
TOLD_OF = 3
"""Each node is given the addresses of so many that started before it; of the others it hears by itself."""


def nodes(count: int) -> Opener:
    """How to open a row of so many nodes."""

    @contextmanager
    def open_row(job: Job) -> Iterator[Run]:
        yield lambda: announce(count, job)

    return open_row


def announce(count: int, job: Job) -> Sample:
    """Publish at one node after the other, and see when each has heard."""
    with ExitStack() as stack:
        here = Path(stack.enter_context(TemporaryDirectory(dir=job.scratch)))
        children: list[Child] = []
        addresses: list[str] = []
        for number in range(count):
            told_of = [addresses[(number * 7 + step) % number] for step in range(TOLD_OF) if number]
            arguments: list[str | Path] = [NODE, here / f"node{number}", *sorted(set(told_of))]
            children.append(stack.enter_context(running(arguments, job.scratch)))
            addresses.append(json.loads(children[-1].read_line(START_TIMEOUT))["addrs"][0])
        for child in children:
            until("each node has a peer", lambda child=child: connected(child) > 0, START_TIMEOUT)  # type: ignore[misc]  # https://github.com/python/mypy/issues/12557
        # The first announcements find the mesh still forming; they count as a start.
        for number in range(count):
            one(children, number % count, here / f"warm-{number}.onnx", job)
        each: list[float] = []
        to_all: list[float] = []
        own: list[float] = []
        for number in range(ANNOUNCEMENTS):
            publisher = number % count
            found = one(children, publisher, here / f"model-{number}.onnx", job)
            own.append(found.pop(publisher))
            each += found.values()
            to_all.append(max(found.values()))
        links = sum(connected(child) for child in children) / 2
    share = statistics.quantiles(each, n=100, method="inclusive")
    return Sample(
        statistics.median(to_all),
        {
            "p50_ms": share[49],
            "p99_ms": share[98],
            "max_ms": max(each),
            "own_ms": statistics.median(own),
            "links": links,
        },
    )


def connected(child: Child) -> int:
    """How many peers a node is connected to."""
    child.write_line("connected?")
    return int(child.read_line())


def one(children: list[Child], publisher: int, file: Path, job: Job) -> dict[int, float]:
    """One announcement: milliseconds until each node had it, by its number, the publisher's own as well."""
    file.write_bytes(file.name.encode() + job.file.read_bytes())
    children[publisher].write_line(str(file))
    told = [json.loads(child.read_line(SEEN_TIMEOUT)) for child in children]
    if {each["model"] for each in told} != {file.stem}:
        raise RuntimeError(f"{file.stem} was announced; the nodes heard: {told}")
    return {
        number: (each["at"] - told[publisher]["began"]) * 1e3 for number, each in enumerate(told)
    }


BENCH = Bench(
    name="gossip",
    about="From publishing until the last of all nodes on one machine has the manifest; less is better.",
    unit="ms",
    size=4096,
    rows={f"peatnet-{count}": nodes(count) for count in COUNTS},
    columns={
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "max_ms": "max ms",
        "own_ms": "publisher ms",
        "links": "connections",
    },
    rounds=3,
)

if __name__ == "__main__":
    main(BENCH)
