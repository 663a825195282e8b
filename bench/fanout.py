"""How long one file takes from one source to N sinks, each on a host of its own behind a link of 100 Mbit/s.

The network is made of namespaces on this machine (see netlab.py), the same for every program. No way of sending a
file to anybody is faster than its size over the link's rate; rows tell how many times that the last sink took.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from common import Bench, Job, Run, Sample, Unavailable, main
from deliveries import MEMBER, Outcome, deliver, up
from faults import Fault, KilledSink, Loss, SlowSink, SourceDies
from fleet import MIB, SOURCE, Delivery, FragileFleet
from netlab import Lab, check, laboratory
from pairs import back_memory
from programs import OpenFleet, Program, libtorrent, peatnet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

RATE = int(os.environ.get("FANOUT_RATE", "100000000"))
"""Bits a second. Another rate is for a machine that is too busy for this one; results name it."""
# Many times what the worst fault takes; what is not over by then never will be.
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Case:
    """One row.

    Attributes:
        program: what is measured.
        sinks: how many.
        fault: what goes wrong.
    """

    program: Program[FragileFleet]
    sinks: int
    fault: type[Fault] = Fault

    @contextmanager
    def open(self, job: Job) -> Iterator[Run]:
        """An opener, as `common` wants them."""
        check()
        with self.program(job) as opened:
            yield lambda: self.run(opened, job)

    def run(self, opened: OpenFleet[FragileFleet], job: Job) -> Sample:
        """One delivery, from an empty network to an empty network."""
        fault = self.fault()
        back_memory(self.sinks * (job.size + MEMBER), job.scratch)
        with (
            TemporaryDirectory(dir=job.scratch) as name,
            laboratory(self.sinks + 1, RATE) as lab,
        ):
            fault.prepare(lab)
            fleet = opened(lab, Path(name))
            patience = PATIENCE + 20 * job.size * 8 / lab.bits_per_s
            with up(fleet, lab.hosts, Path(name)):
                outcome = deliver(fleet, lab, job, patience, lambda: fault.step(fleet, lab))
            if not fault.happened:
                raise RuntimeError("all was over before the fault could happen: take a larger file")
            return _sample(outcome, fault, lab, job.size)


def _sample(outcome: Outcome, fault: Fault, lab: Lab, size: int) -> Sample:
    """What a row reports of it."""
    deliveries, cpu_s, usage = outcome.deliveries, outcome.cpu_s, outcome.usage
    times = _times(deliveries, fault.victim, size * 8 / lab.bits_per_s)
    extras: dict[str, float | list[float]] = {
        **times,
        "sinks_s": [round(each.seconds, 2) for each in deliveries],
        "source_sent": outcome.sent[SOURCE] / size,
        "source_payload": outcome.payload / size,
        "received": max(outcome.received[1:]) / size,
        "source_cpu_s": cpu_s[SOURCE],
        "sink_cpu_s": statistics.fmean(cpu_s[1:]),
        "source_rss_mib": usage[SOURCE].rss_mib,
        "sink_rss_mib": max(use.rss_mib for use in usage[1:]),
        "machine_busy": outcome.machine_busy,
        "link_mbit_s": lab.bits_per_s / 1e6,
    }
    twice = [each.duplicates for each in deliveries if each.duplicates is not None]
    if len(twice) == len(deliveries):
        extras["duplicates"] = sum(twice) / len(twice) / size
    return Sample(times["over_bound"], extras)


def _times(deliveries: Sequence[Delivery], victim: int | None, bound: float) -> dict[str, float]:
    judged = [each.seconds for each in deliveries if each.sink != victim]
    found = {
        "seconds": max(judged),
        "over_bound": max(judged) / bound,
        "first_over_bound": min(judged) / bound,
        "median_over_bound": statistics.median(judged) / bound,
    }
    if victim is not None:
        found["victim_over_bound"] = deliveries[victim - 1].seconds / bound
    return found


PEATNET = peatnet(sha256=False)
CASES = {
    "peatnet-8": Case(PEATNET, 8),
    "peatnet-8-sha256": Case(peatnet(sha256=True), 8),
    "libtorrent-8": Case(libtorrent, 8),
    "peatnet-16": Case(PEATNET, 16),
    "peatnet-16-sha256": Case(peatnet(sha256=True), 16),
    "libtorrent-16": Case(libtorrent, 16),
    "peatnet-8-slow": Case(PEATNET, 8, SlowSink),
    "libtorrent-8-slow": Case(libtorrent, 8, SlowSink),
    "peatnet-8-killed": Case(PEATNET, 8, KilledSink),
    "libtorrent-8-killed": Case(libtorrent, 8, KilledSink),
    "peatnet-8-source-dies": Case(PEATNET, 8, SourceDies),
    "libtorrent-8-source-dies": Case(libtorrent, 8, SourceDies),
    "peatnet-8-loss": Case(PEATNET, 8, Loss),
    "libtorrent-8-loss": Case(libtorrent, 8, Loss),
}

BENCH = Bench(
    name="fanout",
    about="One source, N sinks, each on a link of 100 Mbit/s; needs root.",
    unit="x bound",
    size=128 * MIB,
    rows={name: case.open for name, case in CASES.items()},
    ratios=[
        ("peatnet-8", "libtorrent-8"),
        ("peatnet-16", "libtorrent-16"),
        ("peatnet-8-sha256", "peatnet-8"),
        ("peatnet-16-sha256", "peatnet-16"),
        ("peatnet-8-slow", "peatnet-8"),
        ("libtorrent-8-slow", "libtorrent-8"),
    ],
    columns={
        "median_over_bound": "median sink",
        "victim_over_bound": "victim",
        "source_sent": "source sent",
        "source_payload": "its payload",
        "duplicates": "duplicates",
        "source_cpu_s": "source CPU s",
        "sink_cpu_s": "sink CPU s",
        "machine_busy": "machine busy",
    },
    warm_up=False,
    rounds=3,
)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)  # so that the network is taken down
    try:
        check()
    except Unavailable as exc:
        sys.exit(f"fanout: {exc}")
    main(BENCH)
