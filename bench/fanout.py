"""How long one file takes from one source to N sinks, each on a host of its own behind a link of 100 Mbit/s.

The network is made of namespaces on this machine (see netlab.py), the same for every program. No way of sending a
file to anybody is faster than its size over the link's rate; rows tell how many times that the last sink took.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NoReturn

from common import Bench, Job, Run, Sample, Unavailable, main
from faults import Fault, KilledSink, Loss, SlowSink, SourceDies
from fleet import MIB, SOURCE, Delivery, Fleet, Start
from libtorrent_fleet import LibtorrentFleet, make_torrent
from machine import Bystanders
from netlab import Lab, check, laboratory
from nodes import publish
from pairs import back_memory
from peatnet_fleet import MODEL, PeatnetFleet

from peatnet.blobs import hash_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future
    from types import FrameType

RATE = int(os.environ.get("FANOUT_RATE", "100000000"))
"""Bits a second. Another rate is for a machine that is too busy for this one; results name it."""
MEMBER = 128 * MIB
"""What a member needs for itself, about; memory for it is made ready before, as for its file."""
LOOK_EVERY = 0.1
READY_TIMEOUT = 120.0
# Before the start the members must have come to rest: so little of a core each, over so many seconds.
QUIET = 0.04
SETTLE_LOOK = 2.0
SETTLE_TIMEOUT = 60.0
# Many times what the worst fault takes; what is not over by then never will be.
PATIENCE = 60.0

TRACE = "FANOUT_TRACE"
"""An environment variable: a directory for what each sink had from whom, over time, of each run, and for all logs."""

OpenFleet = Callable[[Lab, Path], Fleet]
Program = Callable[[Job], AbstractContextManager[OpenFleet]]


def peatnet(*, sha256: bool) -> Program:
    """The file published in a data directory that the source starts with, run after run.

    Args:
        sha256: whether the sinks have the signed manifest, and so check its SHA-256 as well; otherwise they ask for the
            bare hash and go by BLAKE3 alone.
    """

    @contextmanager
    def program(job: Job) -> Iterator[OpenFleet]:
        published = job.scratch / ("peatnet-published" if sha256 else "peatnet-withdrawn")
        if not published.exists():
            publish(published, job.scratch, job.file, MODEL, manifest=sha256)
        hashes = hash_file(job.file)
        blob, pieces = hashes.blake3.hex(), hashes.table.n_chunks

        def opened(lab: Lab, scratch: Path) -> Fleet:
            return PeatnetFleet(lab, published, blob, pieces, scratch, manifest=sha256)

        yield opened

    return program


@contextmanager
def libtorrent(job: Job) -> Iterator[OpenFleet]:
    """A torrent of the file, with pieces of the size that libtorrent chooses."""
    torrent = make_torrent(job.file, job.scratch)

    def opened(lab: Lab, scratch: Path) -> Fleet:
        return LibtorrentFleet(lab, torrent, job.file, scratch)

    yield opened


@dataclass(frozen=True, slots=True)
class Case:
    """One row.

    Attributes:
        program: what is measured.
        sinks: how many.
        fault: what goes wrong.
    """

    program: Program
    sinks: int
    fault: type[Fault] = Fault

    @contextmanager
    def open(self, job: Job) -> Iterator[Run]:
        """An opener, as `common` wants them."""
        check()
        with self.program(job) as opened:
            yield lambda: self.run(opened, job)

    def run(self, opened: OpenFleet, job: Job) -> Sample:
        """One delivery, from an empty network to an empty network."""
        fault = self.fault()
        back_memory(self.sinks * (job.size + MEMBER), job.scratch)
        with (
            TemporaryDirectory(dir=job.scratch) as name,
            laboratory(self.sinks + 1, RATE) as lab,
        ):
            fault.prepare(lab)
            fleet = opened(lab, Path(name))
            try:
                fleet.start(READY_TIMEOUT)
                _settle(fleet, lab.hosts)
                return _deliver(fleet, lab, fault, job)
            finally:
                fleet.close()
                if folder := _trace_folder():
                    for log in Path(name).glob("*.log"):
                        shutil.copy(log, folder)


def _settle(fleet: Fleet, hosts: int) -> None:
    """Wait until members that have just met are done with greeting each other: fleets run for days before a file comes."""
    deadline = time.monotonic() + SETTLE_TIMEOUT
    before = -math.inf
    while time.monotonic() < deadline:
        used = sum(fleet.usage(host).cpu_s for host in range(hosts))
        if used - before < QUIET * SETTLE_LOOK * hosts:
            return
        before = used
        time.sleep(SETTLE_LOOK)
    print(
        f"fanout: the members did not come to rest within {SETTLE_TIMEOUT:.0f} s", file=sys.stderr
    )


def _deliver(fleet: Fleet, lab: Lab, fault: Fault, job: Job) -> Sample:
    """Give the start, wait for the end, and see to it that everybody has the file."""
    sinks, hosts = range(1, lab.hosts), range(lab.hosts)
    traffic = lab.traffic()
    cpu_s = [fleet.usage(host).cpu_s for host in hosts]
    everybody = Bystanders()
    deliveries, cpu_trace = _run(fleet, lab, fault, job.size)
    busy = everybody.share()
    if not fault.happened:
        raise RuntimeError("all was over before the fault could happen: take a larger file")
    now = lab.traffic()
    sent = now[SOURCE].sent - traffic[SOURCE].sent
    arrived = [now[sink].received - traffic[sink].received for sink in sinks]
    used = [fleet.usage(host) for host in hosts]
    payload = fleet.payload_sent()
    if payload is None:
        payload = sum(each.by_host.get(SOURCE, 0) for each in deliveries)
    expected = hash_file(job.file).blake3
    for sink in sinks:
        if hash_file(fleet.file(sink)).blake3 != expected:
            raise RuntimeError(f"host {sink} has another file")
    _keep_trace(deliveries, cpu_trace, job)
    cpu = [use.cpu_s - before for use, before in zip(used, cpu_s, strict=True)]
    times = _times(deliveries, fault.victim, job.size * 8 / lab.bits_per_s)
    extras: dict[str, float | list[float]] = {
        **times,
        "sinks_s": [round(each.seconds, 2) for each in deliveries],
        "source_sent": sent / job.size,
        "source_payload": payload / job.size,
        "received": max(arrived) / job.size,
        "source_cpu_s": cpu[SOURCE],
        "sink_cpu_s": statistics.fmean(cpu[1:]),
        "source_rss_mib": used[SOURCE].rss_mib,
        "sink_rss_mib": max(use.rss_mib for use in used[1:]),
        "machine_busy": busy,
        "link_mbit_s": lab.bits_per_s / 1e6,
    }
    twice = [each.duplicates for each in deliveries if each.duplicates is not None]
    if len(twice) == len(deliveries):
        extras["duplicates"] = sum(twice) / len(twice) / job.size
    return Sample(times["over_bound"], extras)


CpuTrace = list[tuple[float, list[float]]]
"""Now and then the seconds since the start, and what each host has used until then."""


def _run(fleet: Fleet, lab: Lab, fault: Fault, size: int) -> tuple[list[Delivery], CpuTrace]:
    """From the start to the end of the last sink."""
    cpu_trace: CpuTrace = []
    deliveries = [Delivery(sink) for sink in range(1, lab.hosts)]
    start = Start()
    patience = PATIENCE + 20 * size * 8 / lab.bits_per_s
    with ThreadPoolExecutor(len(deliveries)) as pool:
        waiting = [pool.submit(fleet.deliver, delivery, start) for delivery in deliveries]
        start.give()
        try:
            while wait(waiting, LOOK_EVERY, FIRST_EXCEPTION).not_done:
                _raise_failures(waiting)
                fault.step(fleet, lab)
                if TRACE in os.environ:
                    cpu_s = [fleet.usage(host).cpu_s for host in range(lab.hosts)]
                    cpu_trace.append((round(start.elapsed(), 3), cpu_s))
                if start.elapsed() > patience:
                    _give_up(deliveries, size)
        except BaseException:
            fleet.close()  # or those who wait in threads would wait on
            raise
    _raise_failures(waiting)
    return deliveries, cpu_trace


def _raise_failures(waiting: Sequence[Future[None]]) -> None:
    for future in waiting:
        if future.done():
            future.result()


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


def _give_up(deliveries: Sequence[Delivery], size: int) -> NoReturn:
    shares = ", ".join(
        f"{each.sink}: {'done' if each.seconds else f'{sum(each.by_host.values()) / size:.0%}'}"
        for each in deliveries
    )
    raise RuntimeError(f"no end in sight; {shares}")


def _trace_folder() -> Path | None:
    if TRACE not in os.environ:
        return None
    folder = Path(os.environ[TRACE])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _keep_trace(deliveries: Sequence[Delivery], cpu_trace: CpuTrace, job: Job) -> None:
    if folder := _trace_folder():
        found = [{"sink": each.sink, "s": each.seconds, "trace": each.trace} for each in deliveries]
        path = folder / f"{time.strftime('%H%M%S')}-{len(deliveries)}.json"
        path.write_text(json.dumps({"size": job.size, "sinks": found, "cpu": cpu_trace}))


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
