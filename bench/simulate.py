"""How long fleets take that exist only on paper: peatnet's swarm and upload policy, on a virtual clock.

Each row is a fleet (virtual_fleet.py says what is modeled and what is real). Its value is the time until the last node
has everything over the *lower bound*, below which no way of sending the file could go. That is the largest of: the
file's size over the source's uplink; over the slowest node's downlink; and what all nodes want together over all
uplinks together. Churn is not in the bound.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import RESULTS, Bench, Sample, parse_size, plot, print_table, summary
from compiled import NotCompiled, compiled
from machine import Bystanders, describe_machine, revision
from virtual_fleet import Fleet, Node

from peatnet.transfer import DownloadSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KIB = 1024
MIB = 1024**2
GIB = 1024**3
MBIT = 1e6 / 8
MAX_SOURCES = DownloadSettings().max_sources
PATIENCE = 8.0  # bounds, after which a fleet that is not done never will be

# Of the large fleet. Links are those of its nodes, one class as frequent as another.
CLASSES = (50 * MBIT, 100 * MBIT, 200 * MBIT, 1000 * MBIT)
SOURCE = 1000 * MBIT
NEIGHBORS = 20
AWAY_EVERY = 1800.0
AWAY_FOR = (5.0, 60.0)
LOSES_A_CONNECTION_EVERY = 300.0
# Real nodes announce every 0.1 s; so many announcements would take hours to simulate. Being told late does no good.
ANNOUNCE = 10.0
LATENCY = 0.02


@dataclass(frozen=True, slots=True)
class Options:
    """The large fleet, as the command line wants it."""

    nodes: int
    size: int
    chunk: int


def lower_bound(size: int, source_up: float, nodes: Sequence[Node]) -> float:
    """Seconds; see above."""
    return max(
        size / source_up,
        size / min(node.down for node in nodes),
        size * len(nodes) / (source_up + sum(node.up for node in nodes)),
    )


def fan_out(
    sinks: int,
    seed: int,
    *,
    size: int = 128 * MIB,
    chunk: int = 256 * KIB,
    rate: float = 100 * MBIT,
    slow_sink: bool = False,
    source_dies: bool = False,
) -> Sample:
    """One source and some sinks, all links alike, everybody connected to everybody.

    Each sink downloads from the source and from as many of the others, any, as a node uses at once.

    Args:
        sinks: how many.
        seed: of the run.
        size: of the file, in bytes.
        chunk: of a chunk.
        rate: of each link, in bytes a second.
        slow_sink: one sink has a tenth of the rate; it is not waited for.
        source_dies: as soon as every chunk is out.
    """
    fleet = Fleet(-(-size // chunk), chunk, seed=seed)
    rng = random.Random(seed)
    source = fleet.source("source", rate)
    everybody = [source]
    for number in range(sinks):
        own = rate / 10 if slow_sink and not number else rate
        node = fleet.downloader(f"sink{number}", own, own)
        others = [f"sink{each}" for each in range(sinks) if each != number]
        rng.shuffle(others)
        node.sources = frozenset([source.name, *others[: MAX_SOURCES - 1]])
        for other in everybody:
            fleet.connect(other, node)
        everybody.append(node)
    judged = everybody[2:] if slow_sink else everybody[1:]
    if source_dies:
        out: set[int] = set()

        def note(index: int) -> None:
            out.add(index)
            if len(out) == fleet.n and source.alive:
                fleet.leave(source)

        fleet.on_first = note
    bound = lower_bound(size, rate, judged)
    fleet.run(PATIENCE * bound, judged)
    return _sample(fleet, source, judged, bound)


def large(options: Options, seed: int) -> Sample:
    """A source and many nodes with links of many kinds; nodes leave and come back, and lose connections."""
    rng = random.Random(seed)
    fleet = Fleet(
        -(-options.size // options.chunk),
        options.chunk,
        seed=seed,
        latency=LATENCY,
        announce=ANNOUNCE,
        fair=False,
    )
    source = fleet.source("source", SOURCE)
    nodes = []
    for number in range(options.nodes):
        rate = rng.choice(CLASSES)
        nodes.append(fleet.downloader(f"node{number}", rate, rate))
    _connect([source, *nodes], rng)
    bound = lower_bound(options.size, SOURCE, nodes)
    churn = _Churn(fleet, nodes, rng)
    churn.begin()
    _say_how_far(fleet, nodes, bound)
    fleet.run(PATIENCE * bound)
    sample = _sample(fleet, source, nodes, bound)
    return Sample(sample.value, {**sample.extras, "departures": churn.departures})


def _connect(everybody: Sequence[Node], rng: random.Random) -> None:
    """Some random rings through all: everybody has nearly the same number of neighbors."""
    fleet_order = list(everybody)
    for _ in range(NEIGHBORS // 2):
        rng.shuffle(fleet_order)
        for one, other in zip(fleet_order, [*fleet_order[1:], fleet_order[0]], strict=True):
            if one is not other and other.name not in one.neighbors:
                one.fleet.connect(one, other)


class _Churn:
    """Nodes leave and come back with what they had; connections are lost and replaced by others."""

    def __init__(self, fleet: Fleet, nodes: Sequence[Node], rng: random.Random) -> None:
        self._fleet = fleet
        self._nodes = nodes
        self._rng = rng
        self.departures = 0

    def begin(self) -> None:
        """Let it begin."""
        for node in self._nodes:
            self._in(AWAY_EVERY, self._leave, node)
            self._in(LOSES_A_CONNECTION_EVERY, self._lose_connection, node)

    def _in(self, mean: float, what: Callable[[Node], None], node: Node) -> None:
        self._fleet.at(self._fleet.now + self._rng.expovariate(1 / mean), what, node)

    def _leave(self, node: Node) -> None:
        self.departures += 1
        self._fleet.leave(node)
        self._fleet.at(self._fleet.now + self._rng.uniform(*AWAY_FOR), self._come_back, node)

    def _come_back(self, node: Node) -> None:
        self._fleet.come_back(node)
        while len(node.neighbors) < NEIGHBORS:
            self._find_another(node)
        self._in(AWAY_EVERY, self._leave, node)

    def _lose_connection(self, node: Node) -> None:
        if node.alive and node.neighbors:
            lost = self._rng.choice(list(node.neighbors.values()))
            self._fleet.disconnect(node, lost)
            self._find_another(node)
            if lost.alive:
                self._find_another(lost)
        self._in(LOSES_A_CONNECTION_EVERY, self._lose_connection, node)

    def _find_another(self, node: Node) -> None:
        other = self._rng.choice(self._nodes)
        if other.alive and other is not node and other.name not in node.neighbors:
            self._fleet.connect(node, other)


def _say_how_far(fleet: Fleet, nodes: Sequence[Node], bound: float) -> None:
    began = time.process_time()

    def say() -> None:
        missing = sum(node.missing for node in nodes)
        share = 1 - missing / (len(nodes) * fleet.n)
        done = sum(node.complete for node in nodes)
        spent = time.process_time() - began
        print(
            f"  {fleet.now / bound:.2f} x bound: {share:.1%} there, {done} nodes done, {spent:.0f} s of CPU",
            file=sys.stderr,
            flush=True,
        )
        fleet.at(fleet.now + bound / 10, say)

    fleet.at(fleet.now, say)


def _sample(fleet: Fleet, source: Node, judged: Sequence[Node], bound: float) -> Sample:
    done = sorted(node.done_at for node in judged)
    received = sum(node.duplicates for node in judged)
    chunks = fleet.n * len(judged)
    return Sample(
        done[-1] / bound,
        {
            "over_bound": done[-1] / bound,
            "median_over_bound": statistics.median(done) / bound,
            "first_over_bound": done[0] / bound,
            "bound_s": bound,
            "source_sent": source.sent / fleet.n,
            "duplicates": received / chunks,
            "put_off": fleet.deferrals / chunks,
        },
    )


ROWS: dict[str, Callable[[Options, int], Sample]] = {
    "fanout-8": lambda _, seed: fan_out(8, seed),
    "fanout-8-512KiB": lambda _, seed: fan_out(8, seed, chunk=512 * KIB),
    "fanout-8-1MiB": lambda _, seed: fan_out(8, seed, chunk=MIB),
    "fanout-16": lambda _, seed: fan_out(16, seed),
    "fanout-16-512KiB": lambda _, seed: fan_out(16, seed, chunk=512 * KIB),
    "fanout-8-slow-sink": lambda _, seed: fan_out(8, seed, slow_sink=True),
    "fanout-8-source-dies": lambda _, seed: fan_out(8, seed, source_dies=True),
    "fleet": large,
}
COLUMNS = {
    "median_over_bound": "median node",
    "bound_s": "bound, s",
    "source_sent": "source sent",
    "duplicates": "duplicates",
    "cpu_s": "CPU, s",
}


def run(name: str, options: Options, seed: int) -> Sample:
    """One run of one row."""
    bystanders = Bystanders()
    began = time.process_time()
    gc.disable()  # millions of small objects, none in cycles
    try:
        sample = ROWS[name](options, seed)
    finally:
        gc.enable()
    spent = time.process_time() - began
    return Sample(
        sample.value, {**sample.extras, "cpu_s": spent, "others_share": bystanders.share()}
    )


def begin_anew(*, with_compiled: bool) -> None:
    """Begin anew with memory in pages of 2 MiB, where Linux and its C library have them, and with compiled modules if wanted.

    A large fleet is a hundred megabytes of small objects, of which each event looks at a few hundred anywhere: with
    pages of 4 KiB, a seventh of the time is spent on finding out where they are.
    """
    wanted: dict[str, str] = {}
    if platform.libc_ver()[0] == "glibc" and not {"PYTHONMALLOC", "GLIBC_TUNABLES"} & {*os.environ}:
        wanted = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    if with_compiled and not is_compiled():
        # Before this script's own folder, which has the same modules.
        path = [str(compiled()), str(Path(__file__).resolve().parent)]
        wanted |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path)}
    if wanted:
        sys.stdout.flush()
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **wanted})


def is_compiled() -> bool:
    """Whether it is machine code that runs."""
    return not str(sys.modules[Fleet.__module__].__file__).endswith(".py")


def main() -> None:
    """Run the rows as the command line says, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1000, help="of the large fleet")
    parser.add_argument("--size", type=parse_size, default=10 * GIB, help="of its file: 10GiB")
    parser.add_argument("--chunk", type=parse_size, default=4 * MIB, help="of its chunks: 4MiB")
    parser.add_argument("--rounds", type=int, default=3, help="seeds; the fleet runs with one")
    parser.add_argument("--only", default=",".join(ROWS), metavar="NAME,...")
    parser.add_argument(
        "--compiled", action="store_true", help="made into machine code before, by mypyc"
    )
    parser.add_argument("--json", action="store_true", help="the report on stdout")
    parser.add_argument("--plot", action="store_true", help="a picture beside the JSON file")
    parser.add_argument("--out", type=Path, metavar="FILE", help="instead of bench/results/")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"no row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    if given.nodes <= NEIGHBORS or given.rounds < 1:
        parser.error(f"more than {NEIGHBORS} nodes are needed, and 1 round at least")
    try:
        begin_anew(with_compiled=given.compiled)
    except NotCompiled as exc:
        sys.exit(f"error: {exc}")
    report = _measure(names, Options(given.nodes, given.size, given.chunk), given.rounds)
    bench = Bench("simulate", "", "x bound", given.size, {}, columns=COLUMNS, warm_up=False)
    out: Path = given.out or RESULTS / "simulate.json"
    text = json.dumps(report, indent=2)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(f"{text}\n")
    if given.json:
        print(text)
    else:
        print_table(bench, report)
    if given.plot:
        plot(bench, report, out.with_suffix(".png"))


def _measure(names: Sequence[str], options: Options, rounds: int) -> dict[str, Any]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    load = [round(os.getloadavg()[0], 2)]
    rows = []
    for name in names:
        samples = []
        for seed in range(1 if name == "fleet" else rounds):
            samples.append(run(name, options, seed))
            print(f"{name}, seed {seed}: {samples[-1].value:.3f} x bound", file=sys.stderr)
        rows.append(summary(name, "x bound", samples))
        if not math.isfinite(rows[-1]["max"]):
            sys.exit(f"{name}: not everybody had everything after {PATIENCE} x the bound")
    return {
        "bench": "simulate",
        "command": " ".join(["python", "bench/simulate.py", *sys.argv[1:]]),
        "machine": describe_machine(Path(tempfile.gettempdir())),
        "revision": revision(),
        "started": started,
        "load": [*load, round(os.getloadavg()[0], 2)],
        "size_bytes": options.size,
        "nodes": options.nodes,
        "chunk_bytes": options.chunk,
        "compiled": is_compiled(),
        "rounds": rounds,
        "rows": rows,
        "ratios": [],
        "skipped": {},
    }


if __name__ == "__main__":
    main()
