"""Run by the crash tests in a process of its own, which does not survive.

``fill``: fills a partial blob, flushing now and then, and says on stdout what it has done.
``points``: does one operation again and again, each time in a fork and in a directory of its own, and
kills itself just before the n-th call that changes the disk; n rises until the operation ends.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blobs_tools import K64, Bench, chunk_of, content, fill

from peatnet.blobs import AddMode, ChunkTable, Hash, Link, SmallBlob, hash_file

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 5 * K64 + 7
CALLS = ("replace", "rename", "link", "unlink", "mkdir", "fsync", "fdatasync", "pwrite", "chmod")


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def fill_slowly(root: Path, source: Path) -> None:
    table = hash_file(source, chunk_size=K64).table
    data = source.read_bytes()
    partial = Bench(root).store.start_partial(table, Hash.of(data))
    order = list(range(table.n_chunks))
    random.Random(3).shuffle(order)
    for count, index in enumerate(order):
        partial.write(index, chunk_of(data, table, index))
        say("wrote", index)
        if count % 5 == 4:
            partial.flush()
            say("flushed")
    say("end")
    signal.pause()


def die_at(limit: int) -> None:
    """From now on, die just before the ``limit``-th call that changes the disk."""
    count = 0
    counting = threading.Lock()

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            with counting:
                count += 1
                if count == limit:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))


def make_table(data: bytes) -> ChunkTable:
    pieces = [data[at : at + K64] for at in range(0, len(data), K64)]
    return ChunkTable(len(data), K64, b"".join(Hash.of(piece) for piece in pieces))


def small_blobs(count: int = 5) -> list[SmallBlob]:
    """Blobs of one chunk each, of different sizes; of every other one the store has to keep the table."""
    found = []
    for number in range(count):
        data = random.Random(number).randbytes(1000 + 7000 * number)
        table = ChunkTable(len(data), (4 * K64, K64)[number % 2], Hash.of(data))
        found.append(SmallBlob(Hash.of(data), table, hashlib.sha256(data).hexdigest(), data))
    return found


def prepare_group(bench: Bench) -> Callable[[], object]:
    blobs = small_blobs()

    def take_in_and_link() -> None:
        infos = bench.store.add_small(blobs)
        bench.store.link_models([Link(blob, f"m-{blob.hex()[:4]}", "m.gguf") for blob in infos])

    return take_in_and_link


def prepare(name: str, bench: Bench) -> Callable[[], object]:
    """Have everything ready, and return what is to be interrupted."""
    if name == "group":
        return prepare_group(bench)
    data = content(SIZE)
    source = bench.root / "source"
    source.write_bytes(data)
    store, table, blob = bench.store, make_table(data), Hash.of(data)
    if name in ("copy", "hardlink", "move"):
        return lambda: store.add_file(source, mode=AddMode(name), chunk_size=K64)
    if name == "start":
        return lambda: store.start_partial(table, blob)
    if name == "adopt":
        loose = store.start_loose(blob, SIZE)
        loose.write_at(0, data)
        return lambda: store.adopt_loose(loose, expect_sha256=None, expect_blob_hash=blob)
    if name in ("fill", "commit"):
        return prepare_partial(name, bench, data)
    return prepare_complete(name, bench)


def prepare_partial(name: str, bench: Bench, data: bytes) -> Callable[[], object]:
    partial = bench.store.start_partial(make_table(data), Hash.of(data))

    def fill_and_flush() -> None:
        fill(partial, data)
        partial.flush()

    if name == "fill":
        return fill_and_flush
    fill_and_flush()
    sha256 = hashlib.sha256(data).hexdigest()
    return lambda: bench.store.commit(partial, sha256=sha256)


def prepare_complete(name: str, bench: Bench) -> Callable[[], object]:
    store = bench.store
    info = store.add_file(bench.root / "source", chunk_size=K64)
    if name == "verify":
        info.path.chmod(0o644)
        with info.path.open("r+b") as file:
            file.write(b"damage")
    work: dict[str, Callable[[], object]] = {
        "remove": lambda: store.remove(info.hash),
        "link": lambda: store.link_model(info.hash, "m", "m.gguf"),
        "export": lambda: store.export(info.hash, bench.root / "out"),
        "verify": store.verify,
    }
    return work[name]


def try_all_points(name: str, root: Path) -> None:
    for limit in range(1, 200):
        child = os.fork()
        if child == 0:
            work = prepare(name, Bench(root / f"{limit:03}"))
            die_at(limit)
            work()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            say(limit)
            return
        if not os.WIFSIGNALED(status):
            sys.exit(f"{name} at {limit}: status {status}")
    sys.exit(f"{name} never ends")


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        fill_slowly(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        try_all_points(sys.argv[2], Path(sys.argv[3]))
