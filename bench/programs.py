"""The programs that `fanout` and `far` measure: how each makes a file ready, and opens a fleet of itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from common import Job
from curl_fleet import CurlFleet
from fleet import Fleet
from libtorrent_fleet import LibtorrentFleet, make_torrent
from netlab import Lab
from nodes import publish
from pairs import file_hash
from peatnet_fleet import MODEL, PeatnetFleet
from rival_rows import need_program

from peatnet.blobs import hash_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SomeFleet = TypeVar("SomeFleet", bound=Fleet)
OpenFleet = Callable[[Lab, Path], SomeFleet]
Program = Callable[[Job], AbstractContextManager[OpenFleet[SomeFleet]]]


def peatnet(*, sha256: bool, source_options: Sequence[str] = ()) -> Program[PeatnetFleet]:
    """The file published in a data directory that the source starts with, run after run.

    Args:
        sha256: whether the sinks have the signed manifest, and so check its SHA-256 as well; otherwise they ask for the
            bare hash and go by BLAKE3 alone.
        source_options: more options of the source's ``peatnet up``.
    """

    @contextmanager
    def program(job: Job) -> Iterator[OpenFleet[PeatnetFleet]]:
        published = job.scratch / ("peatnet-published" if sha256 else "peatnet-withdrawn")
        if not published.exists():
            publish(published, job.scratch, job.file, MODEL, manifest=sha256)
        hashes = hash_file(job.file)
        blob, pieces = hashes.blake3.hex(), hashes.table.n_chunks

        def opened(lab: Lab, scratch: Path) -> PeatnetFleet:
            return PeatnetFleet(
                lab,
                published,
                blob,
                pieces,
                scratch,
                manifest=sha256,
                source_options=source_options,
            )

        yield opened

    return program


@contextmanager
def libtorrent(job: Job) -> Iterator[OpenFleet[LibtorrentFleet]]:
    """A torrent of the file, with pieces of the size that libtorrent chooses."""
    torrent = make_torrent(job.file, job.scratch)

    def opened(lab: Lab, scratch: Path) -> LibtorrentFleet:
        return LibtorrentFleet(lab, torrent, job.file, scratch)

    yield opened


@contextmanager
def curl(job: Job) -> Iterator[OpenFleet[CurlFleet]]:
    """The file as it lies there, for nginx to serve."""
    nginx, client = need_program("nginx"), need_program("curl")
    expected = file_hash(job.file)

    def opened(lab: Lab, scratch: Path) -> CurlFleet:
        return CurlFleet(lab, nginx, client, job.file, expected, scratch)

    yield opened
