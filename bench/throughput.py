"""How fast one file goes from one process to another over loopback: peatnet beside what it stands on."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from common import GIB, Bench, Job, Run, Sample, main
from processes import Child, finish, running

from peatnet.blobs import hash_file

if TYPE_CHECKING:
    from collections.abc import Iterator

PEATNET = ("-m", "peatnet", "--data-dir")
UP = ("up", "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns", "--fetch", "none")
BARE = Path(__file__).with_name("bare_libp2p.py")
KNOWN_TIMEOUT = 30.0


class Ends:
    """What the two ends of a transfer use from now on.

    Args:
        source: the process that sends.
        sink: the process that receives.
    """

    def __init__(self, source: Child, sink: Child) -> None:
        self._ends = {"source": source, "sink": sink}
        self._before = {name: child.usage() for name, child in self._ends.items()}

    def sample(self, size: int, seconds: float, **extras: float) -> Sample:
        """MB/s, and CPU seconds and peak memory of both ends, of a transfer that is over."""
        found: dict[str, float] = {"seconds": seconds}
        for name, child in self._ends.items():
            used = child.usage()
            cpu_s = used.cpu_s - self._before[name].cpu_s
            found[f"{name}_cpu_s"] = cpu_s
            found[f"{name}_cpu_s_per_gib"] = cpu_s * GIB / size
            found[f"{name}_rss_mib"] = used.rss_mib
        return Sample(size / seconds / 1e6, {**found, **extras})


@contextmanager
def peatnet_stream(job: Job) -> Iterator[Run]:
    """Two nodes and one `peatnet get`; every run has processes and a sink's store of its own."""
    published = job.scratch / "source"
    # Published with no node running: the node that serves has hashed nothing.
    finish([*PEATNET, published, "publish", job.file, "--id", "bench"], job.scratch)
    expected = hash_file(job.file).blake3.hex()

    def run() -> Sample:
        with (
            TemporaryDirectory(dir=job.scratch) as name,
            running([*PEATNET, published, *UP], job.scratch) as source,
        ):
            ready = json.loads(source.read_line())
            data_dir = Path(name) / "sink"
            peer = ["--peer", ready["addrs"][0], "--trust", ready["peer_id"]]
            with running([*PEATNET, data_dir, *UP, *peer], job.scratch) as sink:
                sink.read_line()
                wait_until_known(data_dir, job.scratch)
                ends = Ends(source, sink)
                got = finish([*PEATNET, data_dir, "get", "bench", "--json"], job.scratch)
                result: dict[str, Any] = json.loads(got.stdout)
                sample = ends.sample(
                    job.size, result["seconds"], sink_command_cpu_s=got.usage.cpu_s
                )
            # The sink has verified what it got; that it did is verified here, outside of the time.
            found = hash_file(result["path"]).blake3.hex()
            if found != expected or sum(result["bytes_by_source"].values()) < job.size:
                raise RuntimeError(f"peatnet-stream: wrong file or not from the peer: {result}")
            return sample

    yield run


def wait_until_known(data_dir: Path, scratch: Path) -> None:
    """Until the node has the source's manifest and is connected to it."""
    deadline = time.monotonic() + KNOWN_TIMEOUT
    while finish([*PEATNET, data_dir, "models", "--json"], scratch).stdout.strip() == "[]":
        if time.monotonic() > deadline:
            raise RuntimeError("peatnet-stream: the sink never heard of the model")


@contextmanager
def bare_libp2p_stream(job: Job) -> Iterator[Run]:
    """A stream of py-libp2p, its bytes made up and thrown away: no frames, no hashes, no disk, no engine."""
    yield lambda: bare(job)


@contextmanager
def bare_libp2p_stream_disk(job: Job) -> Iterator[Run]:
    """The same, but the sink writes a file and syncs it: what any fetch by such a stream has to do."""

    def run() -> Sample:
        path = job.scratch / "bare.bin"
        try:
            return bare(job, path)
        finally:
            path.unlink(missing_ok=True)

    yield run


def bare(job: Job, *to: Path) -> Sample:
    """One transfer by bare_libp2p.py, to memory or to a file."""
    with running([BARE, "source", str(job.size)], job.scratch) as source:
        address = source.read_line().strip()
        with running([BARE, "sink", str(job.size), address, *to], job.scratch) as sink:
            sink.read_line()
            ends = Ends(source, sink)
            sink.write_line("go")
            seconds = float(sink.read_line(timeout=60 + job.size / 1e6))
            return ends.sample(job.size, seconds)


BENCH = Bench(
    name="throughput",
    about="One file, one source process, one sink process, loopback.",
    unit="MB/s",
    size=GIB,
    rows={
        "peatnet-stream": peatnet_stream,
        "bare-libp2p-stream": bare_libp2p_stream,
        "bare-libp2p-stream-disk": bare_libp2p_stream_disk,
    },
    ratios=[
        ("peatnet-stream", "bare-libp2p-stream"),
        ("peatnet-stream", "bare-libp2p-stream-disk"),
    ],
    columns={
        "source_cpu_s_per_gib": "source CPU s/GiB",
        "sink_cpu_s_per_gib": "sink CPU s/GiB",
        "source_rss_mib": "source peak MiB",
        "sink_rss_mib": "sink peak MiB",
    },
)

if __name__ == "__main__":
    main(BENCH)
