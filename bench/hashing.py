"""How fast a file is hashed for publishing, beside the bare hash functions over the same file."""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from blake3 import blake3
from common import GIB, Bench, Job, Opener, Run, Sample, main
from processes import finish

from peatnet.blobs import hash_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

CHUNK_SIZES = {"64KiB": 2**16, "256KiB": 2**18, "1MiB": 2**20, "4MiB": 2**22}
READ = 2**20


class Hasher(Protocol):
    """What hashlib and blake3 have in common."""

    def update(self, data: memoryview, /) -> object:
        """Take the next bytes."""
        ...

    def hexdigest(self) -> str:
        """The digest."""
        ...


def bare(job: Job, make: Callable[[], Hasher]) -> None:
    """Read the file into one buffer, again and again, and hash it: one thread, nothing else."""
    hasher = make()
    buffer = memoryview(bytearray(READ))
    with job.file.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
    hasher.hexdigest()


@contextmanager
def in_this_process(job: Job, work: Callable[[Job], object]) -> Iterator[Run]:
    """A row of some function over the file."""

    def run() -> Sample:
        began, cpu_began = time.perf_counter(), time.process_time()
        work(job)
        seconds = time.perf_counter() - began
        cpu_s = time.process_time() - cpu_began
        return Sample(job.size / seconds / 1e9, {"seconds": seconds, "cpu_s": cpu_s})

    yield run


@contextmanager
def publish(job: Job, mode: str) -> Iterator[Run]:
    """A row of the whole command into an empty data directory: interpreter, identity, store, signature."""

    def run() -> Sample:
        with TemporaryDirectory(dir=job.scratch) as data_dir:
            command = ["-m", "peatnet", "--data-dir", data_dir, "publish", str(job.file)]
            ran = finish([*command, "--id", "bench", "--mode", mode], job.scratch)
        extras = {"seconds": ran.seconds, "cpu_s": ran.usage.cpu_s, "rss_mib": ran.usage.rss_mib}
        return Sample(job.size / ran.seconds / 1e9, extras)

    yield run


def of(work: Callable[[Job], object]) -> Opener:
    """How to open a row of a function over the file."""

    def open_row(job: Job) -> AbstractContextManager[Run]:
        return in_this_process(job, work)

    return open_row


def hash_file_by(chunk_size: int) -> Opener:
    """How to open a row of peatnet's pass with this chunk size."""
    return of(lambda job: hash_file(job.file, chunk_size=chunk_size))


BENCH = Bench(
    name="hashing",
    about="The publish pass over one file, beside the bare hash functions.",
    unit="GB/s",
    size=GIB,
    rows={
        "bare-blake3": of(partial(bare, make=blake3)),
        "bare-sha256": of(partial(bare, make=hashlib.sha256)),
        **{f"hash-file-{name}": hash_file_by(size) for name, size in CHUNK_SIZES.items()},
        "peatnet-publish": partial(publish, mode="auto"),
        "peatnet-publish-hardlink": partial(publish, mode="hardlink"),
    },
    ratios=[
        ("hash-file-1MiB", "bare-sha256"),
        ("hash-file-1MiB", "bare-blake3"),
        ("peatnet-publish", "bare-sha256"),
        ("peatnet-publish-hardlink", "bare-sha256"),
    ],
    columns={"cpu_s": "CPU s", "rss_mib": "peak MiB"},
)

if __name__ == "__main__":
    main(BENCH)
