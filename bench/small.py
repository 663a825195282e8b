"""How fast many small blobs go from one process to another: 1,000 of 16 KiB, each with a signed manifest of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter
from typing import TYPE_CHECKING

from blake3 import blake3
from common import Bench, Job, Run, Sample, main
from nodes import ON_DEMAND, Node, node
from pairs import Ends
from processes import until
from rival_rows import libtorrent_fetch, need_module

from peatnet.cli.draft import draft_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common import Opener

BLOB = 16 * 1024
COUNT = 1000
PUBLISHERS = 8


def cut(job: Job) -> list[Path]:
    """The file in pieces of 16 KiB, as files of a directory."""
    directory = job.scratch / "models"
    data = job.file.read_bytes()
    pieces = [data[offset : offset + BLOB] for offset in range(0, len(data), BLOB)]
    paths = [directory / f"model-{number:04}.onnx" for number in range(len(pieces))]
    if not directory.exists():
        directory.mkdir()
        for path, piece in zip(paths, pieces, strict=True):
            path.write_bytes(piece)
    return paths


def kept_directory(job: Job) -> Path:
    """A new directory, which stays until all rounds are over.

    ext4 takes no inode again that was freed in the last minutes, and looks at each of them for each new file: who comes
    after a row that deletes thousands of files would pay for that.
    """
    return Path(mkdtemp(dir=job.scratch))


def publish_all(source: Node, files: list[Path]) -> float:
    """Publish each file under its name, and return how long that took."""

    def publish(path: Path) -> None:
        manifest, _ = draft_manifest(path.name, None, {"model_id": path.stem})
        source.client.call("publish", {"path": str(path), "manifest": manifest})

    began = perf_counter()
    with ThreadPoolExecutor(PUBLISHERS) as pool:
        list(pool.map(publish, files))
    return perf_counter() - began


@contextmanager
def peatnet(job: Job) -> Iterator[Run]:
    """A sink that fetches all that a publisher has, from when it is told to trust that publisher.

    Until then it holds only as many of the manifests as an untrusted publisher may have it hold: the others come
    inside of the time.
    """
    files = cut(job)
    hashes = {blake3(path.read_bytes()).hexdigest() for path in files}
    published = job.scratch / "published"
    with node(published, job.scratch) as source:
        publish_s = publish_all(source, files)

    def run() -> Sample:
        with (
            node(published, job.scratch, options=ON_DEMAND) as source,
            node(
                kept_directory(job), job.scratch, peers=[source], options=["--fetch", "all"]
            ) as sink,
        ):
            until("the sink knows the publisher", lambda: len(sink.models()) > 0)
            blobs = sink.data_dir / "blobs"
            ends = Ends(source.child, sink.child, job=job)
            began = perf_counter()
            sink.client.call("trust_add", {"peer_id": source.peer_id})
            # Counted from outside, so that looking costs the node nothing.
            until("all came", lambda: len(list(blobs.glob("*/*.blob"))) == len(files), 600)
            until("all are ready", lambda: all(m["status"] == "ready" for m in sink.models()))
            seconds = perf_counter() - began
            sample = ends.sample(job.size, seconds, publish_s=publish_s)
            found = {
                blake3(Path(model["local_path"]).read_bytes()).hexdigest()
                for model in sink.models()
            }
            if found != hashes:
                raise RuntimeError("these are not the blobs that were published")
            return in_blobs(sample, len(files))

    yield run


def libtorrent(version: str) -> Opener:
    """How to open a row of one torrent of all the files."""

    @contextmanager
    def open_row(job: Job) -> Iterator[Run]:
        need_module("libtorrent")
        files = cut(job)

        def run() -> Sample:
            into = kept_directory(job)
            return in_blobs(
                libtorrent_fetch(files[0].parent, version, "plain", job, into), len(files)
            )

        yield run

    return open_row


def in_blobs(sample: Sample, count: int) -> Sample:
    """The same sample, in blobs a second."""
    seconds = sample.extras["seconds"]
    assert isinstance(seconds, float)
    return Sample(count / seconds, sample.extras)


BENCH = Bench(
    name="small",
    about="Many blobs of 16 KiB, one source process, one sink process, loopback.",
    unit="blobs/s",
    size=COUNT * BLOB,
    rows={
        "peatnet": peatnet,
        "libtorrent-v1": libtorrent("v1"),
        "libtorrent-v2": libtorrent("v2"),
    },
    ratios=[("peatnet", "libtorrent-v1"), ("peatnet", "libtorrent-v2")],
    columns={
        "seconds": "median s",
        "source_cpu_s": "source CPU s",
        "sink_cpu_s": "sink CPU s",
        "source_rss_mib": "source peak MiB",
        "sink_rss_mib": "sink peak MiB",
        "sync_s": "sync s",
        "publish_s": "publish s",
    },
)

if __name__ == "__main__":
    main(BENCH)
