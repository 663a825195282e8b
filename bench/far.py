"""How long one file takes from one source to one sink at the other end of a link that is long, thin, or loses packets.

The two are in namespaces on this machine, with a wire between them that has a rate, a round-trip time and a loss (see
long_wire.py and wire.py), the same for every program. Nothing is faster than the file's size over the link's rate; rows tell
how many times that the sink took. On such links that is a matter of how much is asked for, and sent, before an answer comes.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from common import Bench, Job, Run, Sample, Unavailable, main
from deliveries import MEMBER, Outcome, deliver, up
from fleet import MIB, SOURCE, Fleet
from long_wire import Link, WireLab, check, long_wire
from pairs import back_memory
from programs import OpenFleet, Program, curl, libtorrent, peatnet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from wire import Passed

SINK = 1
# Many times what the slowest program takes; what is not over by then never will be.
PATIENCE = 120.0
MOST_OVER_BOUND = 100

CONGESTION = os.environ.get("FAR_CONGESTION")
"""TCP's congestion control at both ends; what this machine has if it says nothing. Results name it."""

LINKS = {
    "satellite": Link(20_000_000, 0.6),
    "mobile": Link(20_000_000, 0.1, 0.01),
    "wan": Link(100_000_000, 0.15),
}
PROGRAMS: dict[str, Program[Fleet]] = {
    "peatnet": peatnet(sha256=False),
    "libtorrent": libtorrent,
    "peatnet-stream": peatnet(sha256=False, source_options=["--no-bulk"]),
    "curl": curl,
}


@dataclass(frozen=True, slots=True)
class Case:
    """One row.

    Attributes:
        program: what is measured.
        link: over what.
    """

    program: Program[Fleet]
    link: Link

    @contextmanager
    def open(self, job: Job) -> Iterator[Run]:
        """An opener, as `common` wants them."""
        with long_wire(self.link, CONGESTION):
            pass  # so that what cannot be had here is known before the first round
        with self.program(job) as opened:
            yield lambda: self.run(opened, job)

    def run(self, opened: OpenFleet[Fleet], job: Job) -> Sample:
        """One delivery, from an empty network to an empty network."""
        back_memory(job.size + MEMBER, job.scratch)
        bound = job.size * 8 / self.link.bits_per_s
        with (
            TemporaryDirectory(dir=job.scratch) as name,
            long_wire(self.link, CONGESTION) as lab,
        ):
            fleet = opened(lab, Path(name))
            with up(fleet, lab.hosts, Path(name)):
                before, _ = lab.passed()
                outcome = deliver(fleet, lab, job, PATIENCE + MOST_OVER_BOUND * bound)
                after, _ = lab.passed()
            return self._sample(outcome, before, after, lab, job.size)

    def _sample(
        self, outcome: Outcome, before: Passed, after: Passed, lab: WireLab, size: int
    ) -> Sample:
        seconds = outcome.deliveries[0].seconds
        over_bound = seconds / (size * 8 / self.link.bits_per_s)
        packets = after.packets - before.packets
        extras: dict[str, float | list[float] | str] = {
            "seconds": seconds,
            "over_bound": over_bound,
            "source_sent": outcome.sent[SOURCE] / size,
            "source_payload": outcome.payload / size,
            "sink_sent": outcome.sent[SINK] / size,
            "overflowed": after.overflowed - before.overflowed,
            "lost": after.lost - before.lost,
            "wire_late_ms": 1000 * (after.late_s - before.late_s) / packets,
            "source_cpu_s": outcome.cpu_s[SOURCE],
            "sink_cpu_s": outcome.cpu_s[SINK],
            "source_rss_mib": outcome.usage[SOURCE].rss_mib,
            "sink_rss_mib": outcome.usage[SINK].rss_mib,
            "machine_busy": outcome.machine_busy,
            "link_mbit_s": self.link.bits_per_s / 1e6,
            "link_rtt_ms": self.link.rtt * 1000,
            "link_loss": self.link.loss,
            "link_queue_kib": self.link.queue / 1024,
            "congestion_control": lab.congestion_control(),
        }
        return Sample(over_bound, extras)


CASES = {
    f"{program}-{link}": Case(PROGRAMS[program], LINKS[link])
    for link in LINKS
    for program in PROGRAMS
}

BENCH = Bench(
    name="far",
    about="One source, one sink, on a link that is long, thin, or loses packets; needs root.",
    unit="x bound",
    size=32 * MIB,
    rows={name: case.open for name, case in CASES.items()},
    ratios=[
        (f"peatnet-{link}", f"{other}-{link}") for link in LINKS for other in ("libtorrent", "curl")
    ],
    columns={
        "seconds": "seconds",
        "source_sent": "source sent",
        "overflowed": "queue full",
        "lost": "lost",
        "source_cpu_s": "source CPU s",
        "sink_cpu_s": "sink CPU s",
        "machine_busy": "machine busy",
        "wire_late_ms": "wire late ms",
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
        sys.exit(f"far: {exc}")
    main(BENCH)
