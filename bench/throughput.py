"""How fast one file goes from one process to another over loopback: peatnet, its rivals, and what it stands on."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from common import GIB, Bench, Job, Opener, Run, Sample, Unavailable, main
from nodes import ON_DEMAND, can, node, publish
from pairs import Ends, check_file, file_hash
from processes import until
from rival_rows import RIVAL_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_LANE = "--no-bulk"


def peatnet(*, lane: bool, sha256: bool) -> Opener:
    """How to open a row of two nodes and one ``get``; every run has processes and a sink's store of its own.

    Args:
        lane: whether the source offers its bulk lane.
        sha256: whether the sink has the signed manifest, and so checks its SHA-256 as well; otherwise the manifest is
            withdrawn, and the sink asks for the bare hash and goes by BLAKE3 alone.
    """

    @contextmanager
    def open_row(job: Job) -> Iterator[Run]:
        has_lane = can(NO_LANE, job.scratch)
        if lane and not has_lane:
            raise Unavailable("this revision has no bulk lane")
        published = job.scratch / ("published" if sha256 else "withdrawn")
        if not published.exists():
            publish(published, job.scratch, job.file, "bench", manifest=sha256)
        reference = "bench" if sha256 else file_hash(job.file)
        options = ON_DEMAND if lane or not has_lane else (*ON_DEMAND, NO_LANE)

        def run() -> Sample:
            with (
                TemporaryDirectory(dir=job.scratch) as name,
                node(published, job.scratch, options=options) as source,
                node(
                    Path(name) / "sink",
                    job.scratch,
                    peers=[source],
                    trust=[source] if sha256 else [],
                    options=ON_DEMAND,
                ) as sink,
            ):
                until("the sink knows the model", lambda: len(sink.models()) == int(sha256))
                until("the sink is connected", lambda: sink.connected() == 1)
                ends = Ends(source.child, sink.child, job=job)
                result = sink.get(reference)
                sample = ends.sample(job.size, result["seconds"])
                if result["bytes_by_source"] != {f"peer:{source.peer_id}": job.size}:
                    raise RuntimeError(f"not all from the source, once: {result}")
                check_file(job.file, Path(result["path"]))
                return sample

        yield run

    return open_row


COLUMNS = {
    "source_cpu_s_per_gib": "source CPU s/GiB",
    "sink_cpu_s_per_gib": "sink CPU s/GiB",
    "source_rss_mib": "source peak MiB",
    "sink_rss_mib": "sink peak MiB",
    "sync_s": "sync s",
}

BENCH = Bench(
    name="throughput",
    about="One file, one source process, one sink process, loopback.",
    unit="MB/s",
    size=GIB,
    rows={
        "peatnet-lane": peatnet(lane=True, sha256=False),
        "peatnet-lane-sha256": peatnet(lane=True, sha256=True),
        "peatnet-stream": peatnet(lane=False, sha256=True),
        **RIVAL_ROWS,
    },
    ratios=[
        *(("peatnet-lane", rival) for rival in RIVAL_ROWS if not rival.startswith("bare-libp2p")),
        ("peatnet-lane-sha256", "libtorrent-v1"),
        ("peatnet-lane-sha256", "libtorrent-v2"),
        ("peatnet-stream", "bare-libp2p-stream"),
        ("peatnet-stream", "bare-libp2p-stream-disk"),
    ],
    columns=COLUMNS,
)

if __name__ == "__main__":
    main(BENCH)
