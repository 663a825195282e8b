"""The rows of programs other than peatnet, one source and one sink each: see bench/rivals."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from blake3 import blake3
from common import Job, Opener, Run, Sample, Unavailable
from pairs import SLOWEST, Ends, check_file, file_hash, ready_sink
from processes import Child, finish, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RIVALS = Path(__file__).with_name("rivals")
LIBTORRENT, IROH, CURL, LOOP, LIBP2P = (
    RIVALS / f"{name}.py"
    for name in ("libtorrent_ends", "iroh_ends", "curl_ends", "bare_loop", "bare_libp2p")
)
MIB = 1024 * 1024
CONNECTIONS = (1, 2, 3, 4)


def need_module(name: str) -> None:
    """Raise `Unavailable` where a package is not installed."""
    if importlib.util.find_spec(name) is None:
        raise Unavailable(f"the package {name} is not installed (pip install 'peatnet[bench]')")


def need_program(name: str) -> str:
    """The path of a program.

    Raises:
        Unavailable: it is not installed.
    """
    # Servers are where only root looks for them by default.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        raise Unavailable(f"the program {name} is not installed")
    return found


@contextmanager
def libtorrent_ends(
    torrent: Path, seed: Path, sinks: Sequence[Path], encryption: str, job: Job
) -> Iterator[tuple[Child, list[Child]]]:
    """A source and sinks that are all connected to each other and wait to be told to begin.

    Args:
        torrent: what is sent.
        seed: the directory that holds it.
        sinks: the directories that it goes to.
        encryption: ``plain`` or ``rc4``.
        job: for its scratch directory.
    """
    with ExitStack() as stack:

        def start(*arguments: str | Path) -> Child:
            return stack.enter_context(running([LIBTORRENT, *arguments, encryption], job.scratch))

        source = start("source", torrent, seed)
        children = []
        ports = [source.read_line().strip()]
        for directory in sinks:
            child = start("sink", torrent, directory)
            port = child.read_line().strip()
            child.write_line(" ".join(ports))
            ports.append(port)
            children.append(child)
        for child in children:
            child.read_line()
        yield source, children


def libtorrent_fetch(path: Path, version: str, encryption: str, job: Job, into: Path) -> Sample:
    """One transfer of a file or directory, into an empty directory."""
    torrent = job.scratch / f"{version}.torrent"
    if not torrent.exists():
        finish([LIBTORRENT, "make", version, path, torrent], job.scratch)
    with libtorrent_ends(torrent, path.parent, [into], encryption, job) as (source, (sink,)):
        usage = Ends(source, sink, job=job)
        sink.write_line("go")
        told = json.loads(sink.read_line(timeout=60 + job.size / SLOWEST))
        for file in [path] if path.is_file() else path.iterdir():
            check_file(file, into / file.relative_to(path.parent))
        return usage.sample(job.size, told.pop("seconds"), **told)


def libtorrent(version: str, encryption: str) -> Opener:
    """How to open a row of libtorrent with v1 or v2 torrents, ``plain`` or ``rc4``."""

    @contextmanager
    def open_row(job: Job) -> Iterator[Run]:
        need_module("libtorrent")

        def run() -> Sample:
            with TemporaryDirectory(dir=job.scratch) as name:
                return libtorrent_fetch(job.file, version, encryption, job, Path(name))

        yield run

    return open_row


@contextmanager
def iroh(job: Job) -> Iterator[Run]:
    """iroh-blobs through its Python package, stores on disk."""
    need_module("iroh")

    def run() -> Sample:
        with TemporaryDirectory(dir=job.scratch) as name:
            here = Path(name)
            with running([IROH, "source", here / "source", job.file], job.scratch) as source:
                told = source.read_line().strip()
                arguments: list[str | Path] = [IROH, "sink", here / "sink", here / "fetched"]
                with ready_sink(source, arguments, job) as take:
                    sample = take(told)
            check_file(job.file, here / "fetched")
            return sample

    yield run


@contextmanager
def curl_blake3(job: Job) -> Iterator[Run]:
    """Plain HTTP from nginx by curl, then BLAKE3 of the file."""
    nginx, curl = need_program("nginx"), need_program("curl")
    expected = file_hash(job.file)

    def run() -> Sample:
        with TemporaryDirectory(dir=job.scratch) as name:
            here = Path(name)
            with running([CURL, "source", nginx, job.file, here], job.scratch) as source:
                where = source.read_line().strip()
                until("nginx listens", lambda: listens(int(where.partition("/")[0])))
                with ready_sink(
                    source, [CURL, "sink", curl, here / "fetched", expected], job
                ) as take:
                    return take(where)

    yield run


def listens(port: int) -> bool:
    """Whether somebody accepts connections on a port of the loopback interface."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def bare_loop(*, encrypted: bool) -> Opener:
    """How to open a row of bare sockets, BLAKE3 and pwrite in threads, with as many connections as are fastest here.

    Args:
        encrypted: TLS 1.3, or plain TCP.
    """

    @contextmanager
    def open_row(job: Job) -> Iterator[Run]:
        table = job.scratch / "bare_loop.hashes"
        with job.file.open("rb") as file, table.open("wb") as hashes:
            while piece := file.read(MIB):
                hashes.write(blake3(piece).digest())

        def run(connections: int) -> Sample:
            path = job.scratch / "bare_loop.bin"
            try:
                with running(
                    [LOOP, "source", job.file, "tls" if encrypted else "plain"], job.scratch
                ) as source:
                    where = source.read_line().strip()
                    arguments: list[str | Path] = [LOOP, "sink", str(job.size), table, path]
                    with ready_sink(source, arguments, job) as take:
                        sample = take(f"{connections} {where}")
                return Sample(sample.value, {**sample.extras, "connections": connections})
            finally:
                path.unlink(missing_ok=True)

        run(CONNECTIONS[0])  # only warms up
        best = max(
            CONNECTIONS, key=lambda connections: max(run(connections).value for _ in range(2))
        )
        yield partial(run, best)

    return open_row


def bare_libp2p(*, to_disk: bool) -> Opener:
    """How to open a row of a bare py-libp2p stream, whose bytes end in memory or in a file."""

    @contextmanager
    def open_row(job: Job) -> Iterator[Run]:
        def run() -> Sample:
            path = job.scratch / "bare_libp2p.bin"
            try:
                with running([LIBP2P, "source", str(job.size)], job.scratch) as source:
                    address = source.read_line().strip()
                    arguments: list[str | Path] = [LIBP2P, "sink", str(job.size), address]
                    arguments += [path] if to_disk else []
                    with ready_sink(
                        source, [*arguments, *([path] if to_disk else [])], job
                    ) as take:
                        return take("go")
            finally:
                path.unlink(missing_ok=True)

        yield run

    return open_row


RIVAL_ROWS: dict[str, Opener] = {
    "libtorrent-v1": libtorrent("v1", "plain"),
    "libtorrent-v2": libtorrent("v2", "plain"),
    "libtorrent-v1-rc4": libtorrent("v1", "rc4"),
    "iroh": iroh,
    "curl-blake3": curl_blake3,
    "bare-loop": bare_loop(encrypted=True),
    "bare-loop-plain": bare_loop(encrypted=False),
    "bare-libp2p-stream": bare_libp2p(to_disk=False),
    "bare-libp2p-stream-disk": bare_libp2p(to_disk=True),
}
