"""How fast one file goes from one source to four sinks on one machine, all at once, and how often the source sends it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

from common import GIB, Bench, Job, Run, Sample, main
from nodes import ON_DEMAND, Node, node, publish
from pairs import SLOWEST, Ends, check_file, file_hash
from processes import finish, until
from rival_rows import LIBTORRENT, libtorrent_ends, need_module

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common import Opener

SINKS = 4


def peatnet(sinks: int, *, sha256: bool) -> Opener:
    """How to open a row of a ``peatnet get`` at each of so many nodes, all connected to each other.

    Args:
        sinks: how many.
        sha256: whether the sinks have the signed manifest, and so check its SHA-256 as well; otherwise they ask for the
            bare hash and go by BLAKE3 alone.
    """

    @contextmanager
    def open_row(job: Job) -> Iterator[Run]:
        published = job.scratch / ("published" if sha256 else "withdrawn")
        publish(published, job.scratch, job.file, "bench", manifest=sha256)
        reference = "bench" if sha256 else file_hash(job.file)

        def run() -> Sample:
            with ExitStack() as stack:
                here = Path(stack.enter_context(TemporaryDirectory(dir=job.scratch)))
                source = stack.enter_context(node(published, job.scratch, options=ON_DEMAND))
                nodes: list[Node] = []
                for number in range(sinks):
                    started = node(
                        here / str(number),
                        job.scratch,
                        peers=[source, *nodes],
                        trust=[source] if sha256 else [],
                        options=ON_DEMAND,
                    )
                    nodes.append(stack.enter_context(started))
                for each in nodes:
                    until("all are connected", lambda each=each: each.connected() == sinks)  # type: ignore[misc]  # https://github.com/python/mypy/issues/12557
                    until("all know the model", lambda each=each: len(each.models()) == int(sha256))  # type: ignore[misc]  # as above
                ends = Ends(source.child, *(each.child for each in nodes), job=job)
                began = perf_counter()
                with ThreadPoolExecutor(sinks) as pool:
                    results = list(pool.map(lambda each: each.get(reference), nodes))
                seconds = perf_counter() - began
                sent = sum(
                    result["bytes_by_source"].get(f"peer:{source.peer_id}", 0) for result in results
                )
                sample = ends.sample(sinks * job.size, seconds, source_sent=sent / job.size)
                for result in results:
                    check_file(job.file, Path(result["path"]))
                return sample

        yield run

    return open_row


def libtorrent(sinks: int) -> Opener:
    """How to open a row of so many libtorrent clients, all connected to each other."""

    @contextmanager
    def open_row(job: Job) -> Iterator[Run]:
        need_module("libtorrent")
        torrent = job.scratch / "sinks.torrent"
        finish([LIBTORRENT, "make", "v1", job.file, torrent], job.scratch)

        def run() -> Sample:
            with TemporaryDirectory(dir=job.scratch) as name:
                directories = [Path(name) / str(number) for number in range(sinks)]
                for directory in directories:
                    directory.mkdir()
                with libtorrent_ends(torrent, job.file.parent, directories, "plain", job) as (
                    source,
                    children,
                ):
                    ends = Ends(source, *children, job=job)
                    began = perf_counter()
                    for child in children:
                        child.write_line("go")
                    for child in children:
                        json.loads(child.read_line(timeout=60 + sinks * job.size / SLOWEST))
                    seconds = perf_counter() - began
                    source.write_line("sent?")
                    sent = int(source.read_line())
                    sample = ends.sample(sinks * job.size, seconds, source_sent=sent / job.size)
                for directory in directories:
                    check_file(job.file, directory / job.file.name)
                return sample

        yield run

    return open_row


BENCH = Bench(
    name="sinks",
    about=f"One file, one source, {SINKS} sinks on one machine, all at once: what all sinks get a second.",
    unit="MB/s",
    size=GIB,
    rows={
        f"peatnet-{SINKS}sinks": peatnet(SINKS, sha256=False),
        f"peatnet-{SINKS}sinks-sha256": peatnet(SINKS, sha256=True),
        f"libtorrent-{SINKS}sinks": libtorrent(SINKS),
    },
    ratios=[
        (f"peatnet-{SINKS}sinks", f"libtorrent-{SINKS}sinks"),
        (f"peatnet-{SINKS}sinks-sha256", f"libtorrent-{SINKS}sinks"),
    ],
    columns={
        "source_sent": "sent by source",
        "source_cpu_s_per_gib": "source CPU s/GiB",
        "sink_cpu_s_per_gib": "sink CPU s/GiB",
        "source_rss_mib": "source peak MiB",
        "sink_rss_mib": "sink peak MiB",
    },
)

if __name__ == "__main__":
    main(BENCH)
