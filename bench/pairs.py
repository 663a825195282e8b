"""A source process and a sink process, one file, and what both used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import psutil
from blake3 import blake3
from common import GIB, Job, Sample
from processes import Child, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Take = Callable[[str], Sample]
PIECE = 1024 * 1024
SLOWEST = 1e6  # bytes a second, below which a run is given up
MOST_OF_MEMORY = 4  # no more than a quarter of it is made ready


class Ends:
    """What the processes of a transfer use from now on.

    Args:
        source: the process that sends.
        sinks: the processes that receive.
        job: what each sink is about to write; memory for it is made ready first, see `back_memory`.
    """

    def __init__(self, source: Child, *sinks: Child, job: Job) -> None:
        back_memory(len(sinks) * job.size, job.scratch)
        self._ends = {"source": [source], "sink": list(sinks)}
        self._before = {name: self._cpu_s(name) for name in self._ends}

    def _cpu_s(self, name: str) -> float:
        return sum(child.usage().cpu_s for child in self._ends[name])

    def sample(self, size: int, seconds: float, **extras: float) -> Sample:
        """MB/s, CPU seconds and peak memory of both ends, of a transfer that is over; all sinks count as one.

        Args:
            size: bytes that came, at all sinks together.
            seconds: how long that took.
            extras: what else was measured.
        """
        found: dict[str, float] = {"seconds": seconds}
        for name, children in self._ends.items():
            cpu_s = self._cpu_s(name) - self._before[name]
            found[f"{name}_cpu_s"] = cpu_s
            found[f"{name}_cpu_s_per_gib"] = cpu_s * GIB / size
            found[f"{name}_rss_mib"] = max(child.usage().rss_mib for child in children)
        return Sample(size / seconds / 1e6, {**found, **extras})


@contextmanager
def ready_sink(source: Child, arguments: Sequence[str | Path], job: Job) -> Iterator[Take]:
    """A sink of bench/rivals, started and prepared, beside a source that is; yields what lets it fetch.

    That takes one line, which the sink is told, and returns what the transfer took.
    """
    with running(arguments, job.scratch) as sink:
        sink.read_line()

        def take(line: str) -> Sample:
            ends = Ends(source, sink, job=job)
            sink.write_line(line)
            told = json.loads(sink.read_line(timeout=60 + job.size / SLOWEST))
            return ends.sample(job.size, told.pop("seconds"), **told)

        yield take


def back_memory(size: int, folder: Path) -> None:
    """Have the machine hold so many bytes of free memory, and half as much again where it has that, that are really there.

    A virtual machine often gets its memory from the host page by page, when it is first used, and gives free pages back
    after seconds. A write to fresh page cache then costs several times what it costs with pages that somebody
    has just let go of: which of the two a row meets would depend on the row before it, and on the moment at which
    pages are given back. But what is given back are whole blocks, of 2 MiB on Linux. So two files are written in turns,
    and one of them is taken away: what it leaves lies between what the other one keeps, as long as the bench lasts, and
    stays.

    Args:
        size: bytes.
        folder: of the bench, on the file system that will be written to.
    """
    keeper = folder / "keeps-memory"
    wanted = min(size + size // 2, psutil.virtual_memory().total // MOST_OF_MEMORY)
    kept = keeper.stat().st_size if keeper.exists() else 0
    if kept >= wanted:
        return
    piece = bytes(PIECE)
    with (
        keeper.open("ab", buffering=0) as kept_file,
        TemporaryFile(dir=folder, buffering=0) as file,
    ):
        for _ in range(kept, wanted, PIECE):
            kept_file.write(piece)
            file.write(piece)
        os.fsync(kept_file.fileno())


def check_file(sent: Path, path: Path) -> None:
    """Whether a fetched file is the one that was sent; outside of the time.

    Raises:
        RuntimeError: it is not.
    """
    if file_hash(path) != file_hash(sent):
        raise RuntimeError(f"{path} is not the file that was sent")


def file_hash(path: Path) -> str:
    """BLAKE3 of a file."""
    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update_mmap(path)
    return hasher.hexdigest()
