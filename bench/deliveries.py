"""From the start of a fleet to the end of its last sink, and what that took: the same for all programs and networks."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fleet import MIB, SOURCE, Delivery, Start
from machine import Bystanders

from peatnet.blobs import hash_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from common import Job
    from fleet import Fleet
    from netlab import Lab
    from processes import Usage

MEMBER = 128 * MIB
"""What a member needs for itself, about; memory for it is made ready before, as for its file."""
LOOK_EVERY = 0.1
READY_TIMEOUT = 120.0
# Before the start the members must have come to rest: so little of a core each, over so many seconds.
QUIET = 0.04
SETTLE_LOOK = 2.0
SETTLE_TIMEOUT = 60.0

TRACE = "FANOUT_TRACE"
"""An environment variable: a directory for what each sink had from whom, over time, of each run, and for all logs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a delivery to all sinks of a fleet, which have the right file. Lists of hosts begin with the source.

    Attributes:
        deliveries: how each sink got it.
        sent: bytes that left each host, with all headers.
        received: bytes that arrived there.
        payload: bytes of the file that the source sent, by its own count if it has one, else by those of the sinks.
        cpu_s: what each host used meanwhile.
        usage: what it has used since its start.
        machine_busy: share of all cores' time that was in use by anybody.
    """

    deliveries: Sequence[Delivery]
    sent: Sequence[int]
    received: Sequence[int]
    payload: int
    cpu_s: Sequence[float]
    usage: Sequence[Usage]
    machine_busy: float


@contextmanager
def up(fleet: Fleet, hosts: int, scratch: Path) -> Iterator[None]:
    """A fleet that is ready and at rest, ended when the context is left.

    Args:
        fleet: the fleet.
        hosts: how many it has.
        scratch: where its logs are.
    """
    try:
        fleet.start(READY_TIMEOUT)
        _settle(fleet, hosts)
        yield
    finally:
        fleet.close()
        if folder := _trace_folder():
            for log in scratch.glob("*.log"):
                shutil.copy(log, folder)


def deliver(
    fleet: Fleet, lab: Lab, job: Job, patience: float, step: Callable[[], None] = lambda: None
) -> Outcome:
    """Give the start, wait for the end, and see to it that everybody has the file.

    Args:
        fleet: the fleet, up.
        lab: where it is.
        job: what it sends.
        patience: seconds; what is not over by then never will be.
        step: called again and again meanwhile.
    """
    hosts = range(lab.hosts)
    traffic = lab.traffic()
    cpu_s = [fleet.usage(host).cpu_s for host in hosts]
    everybody = Bystanders()
    deliveries, cpu_trace = _run(fleet, lab, job.size, patience, step)
    busy = everybody.share()
    now = lab.traffic()
    used = [fleet.usage(host) for host in hosts]
    payload = fleet.payload_sent()
    if payload is None:
        payload = sum(each.by_host.get(SOURCE, 0) for each in deliveries)
    expected = hash_file(job.file).blake3
    for sink in hosts[1:]:
        if hash_file(fleet.file(sink)).blake3 != expected:
            raise RuntimeError(f"host {sink} has another file")
    _keep_trace(deliveries, cpu_trace, job)
    return Outcome(
        deliveries=deliveries,
        sent=[after.sent - before.sent for after, before in zip(now, traffic, strict=True)],
        received=[
            after.received - before.received for after, before in zip(now, traffic, strict=True)
        ],
        payload=payload,
        cpu_s=[use.cpu_s - before for use, before in zip(used, cpu_s, strict=True)],
        usage=used,
        machine_busy=busy,
    )


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
    bench = Path(sys.argv[0]).stem
    print(
        f"{bench}: the members did not come to rest within {SETTLE_TIMEOUT:.0f} s", file=sys.stderr
    )


CpuTrace = list[tuple[float, list[float]]]
"""Now and then the seconds since the start, and what each host has used until then."""


def _run(
    fleet: Fleet, lab: Lab, size: int, patience: float, step: Callable[[], None]
) -> tuple[list[Delivery], CpuTrace]:
    """From the start to the end of the last sink."""
    cpu_trace: CpuTrace = []
    deliveries = [Delivery(sink) for sink in range(1, lab.hosts)]
    start = Start()
    with ThreadPoolExecutor(len(deliveries)) as pool:
        waiting = [pool.submit(fleet.deliver, delivery, start) for delivery in deliveries]
        start.give()
        try:
            while wait(waiting, LOOK_EVERY, FIRST_EXCEPTION).not_done:
                _raise_failures(waiting)
                step()
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
