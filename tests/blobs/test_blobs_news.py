"""What watchers of a blob are told: which chunks have come since they looked, and when to look again."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blobs_tools import K64, Bench, chunk_of, content, fill, write_file
from hypothesis import given
from hypothesis import strategies as st

from peatnet.blobs import Bitmap, ChunkTable, Hash
from peatnet.blobs.handle import FileHandle
from peatnet.blobs.partial import PartialBlob
from peatnet.blobs.waking import Wakers

if TYPE_CHECKING:
    from peatnet.blobs import FileHashes

SIZE = 20 * K64 + 7
N = 21
DATA = content(SIZE)
BLOB = Hash(bytes(32))
TABLE = ChunkTable(
    SIZE, K64, b"".join(Hash.of(DATA[start : start + K64]) for start in range(0, SIZE, K64))
)


@pytest.fixture
def wanted(tmp_path: Path) -> FileHashes:
    return write_file(tmp_path / "source", SIZE)


class Watcher:
    """Counts how often it is woken."""

    def __init__(self) -> None:
        self.woken = 0

    def __call__(self) -> None:
        self.woken += 1


def test_a_waker_is_called_once_for_each_time_it_was_added() -> None:
    wakers, one, other = Wakers(), Watcher(), Watcher()
    wakers.wake(BLOB)
    wakers.add(BLOB, one)
    wakers.add(BLOB, one)
    wakers.add(BLOB, other)
    wakers.wake(Hash.of(b"another"))
    assert (one.woken, other.woken) == (0, 0)
    wakers.wake(BLOB)
    wakers.wake(BLOB)
    assert (one.woken, other.woken) == (1, 1)
    wakers.add(BLOB, one)
    wakers.add(BLOB, other)
    for watcher in (one, one, Watcher()):
        wakers.discard(BLOB, watcher)
    wakers.wake(BLOB)
    assert (one.woken, other.woken) == (1, 2)
    wakers.discard(BLOB, one)


@given(st.lists(st.one_of(st.integers(0, N - 1), st.none())), st.integers(1, 5))
def test_a_mark_and_the_gains_since_are_what_is_there(steps: list[int | None], most: int) -> None:
    file = tempfile.TemporaryFile()  # noqa: SIM115  # the handle closes it
    partial = PartialBlob(
        BLOB,
        TABLE,
        FileHandle(os.dup(file.fileno()), Path("nowhere")),
        Bitmap.from_bytes(b"\x05\x00\x10", N),
        Path("nowhere"),
        on_close=lambda _: None,
        on_gain=lambda: None,
    )
    bitmap, mark = partial.mark()
    told = {index for index in range(N) if bitmap[index >> 3] >> (index & 7) & 1}
    assert told == {0, 2, 20}
    for step in [*steps, *[None] * N]:
        if step is not None:
            partial.write(step, chunk_of(DATA, TABLE, step))
            continue
        news = partial.gained(mark, most)
        assert len(news) <= most
        assert not told & set(news)
        told.update(news)
        mark += len(news)
    assert told == {index for index in range(N) if partial.has(index)}
    assert partial.mark() == (partial.have(), mark)
    partial.abandon()
    file.close()


def test_a_watcher_hears_of_a_download_from_its_beginning_to_its_end(
    bench: Bench, wanted: FileHashes
) -> None:
    store, blob, watcher = bench.store, wanted.blake3, Watcher()

    def woken_by(_: object) -> bool:
        woken, watcher.woken = watcher.woken, 0
        store.wake_on_news(blob, watcher)
        return bool(woken)

    store.wake_on_news(blob, watcher)
    partial = store.start_partial(wanted.table, blob)
    assert woken_by("the beginning")
    reader = store.open_reader(blob)
    assert reader is not None
    assert reader.mark() == (bytes(3), 0)
    partial.write(3, chunk_of(DATA, wanted.table, 3))
    assert woken_by("a chunk")
    assert not partial.write(3, chunk_of(DATA, wanted.table, 3))
    assert not woken_by("a chunk that was there")
    assert list(reader.gained(0, 9)) == [3]
    partial.close()
    assert woken_by("the end of this run")
    assert reader.stale
    reader.close()
    partial = store.start_partial(wanted.table, blob)
    reader = store.open_reader(blob)
    assert reader is not None
    assert woken_by("the next run")
    assert reader.mark() == (b"\x08\x00\x00", 0)
    fill(partial, DATA)
    store.commit(partial, sha256=wanted.sha256)
    assert woken_by("the last chunk")
    assert not reader.stale
    assert sorted(reader.gained(0, 99)) == [index for index in range(N) if index != 3]
    reader.close()
    whole = store.open_reader(blob)
    assert whole is not None
    assert whole.mark() == (Bitmap.full(N).to_bytes(), 0)
    assert not whole.gained(0, 9)
    assert not whole.stale
    whole.close()
    store.let_sleep(blob, watcher)
    store.remove(blob, force=True)


def test_a_reader_of_what_was_thrown_away_gains_nothing(bench: Bench, wanted: FileHashes) -> None:
    store, blob, watcher = bench.store, wanted.blake3, Watcher()
    partial = store.start_partial(wanted.table, blob)
    reader = store.open_reader(blob)
    assert reader is not None
    fill(partial, DATA)
    store.wake_on_news(blob, watcher)
    store.discard(blob)
    assert watcher.woken == 1
    assert reader.stale
    assert reader.mark() == (bytes(3), 0)
    assert not reader.gained(0, 9)
    reader.close()


def test_nothing_is_missed_by_one_who_is_added_first_and_looks_then(
    bench: Bench, wanted: FileHashes
) -> None:
    partial = bench.store.start_partial(wanted.table, wanted.blake3)

    def write() -> None:
        for index in range(N):
            partial.write(index, chunk_of(DATA, wanted.table, index))

    seen: list[int] = []
    writer = threading.Thread(target=write)
    writer.start()
    while len(seen) < N:
        news = threading.Event()
        bench.store.wake_on_news(wanted.blake3, news.set)
        gained = partial.gained(len(seen), N)
        seen.extend(gained)
        if not gained:
            assert news.wait(20)
    writer.join()
    assert seen == list(range(N))
    partial.close()
