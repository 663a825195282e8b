"""What the tests of the HTTP source share: a blob, a store, a download, a link worked by hand."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio
from blake3 import blake3
from scripted_http import Answer, Ask, part, whole

from peatnet.blobs import ChunkTable, Database, Hash, Store
from peatnet.errors import PeatnetError
from peatnet.net.http_client import HttpSettings
from peatnet.net.http_source import HttpSource
from peatnet.swarm import SwarmSettings, Tier
from peatnet.transfer import Download, DownloadSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from typing_extensions import Buffer

CHUNK = 64 * 1024
DATA = random.Random(1).randbytes(11 * CHUNK + 777)
SIZE = len(DATA)
ETAG = '"one"'

QUICK = HttpSettings(
    connect_timeout=20, read_timeout=20, attempts=3, backoff=0.001, trust_env=False
)
# A server that stalls is given up after this; no test depends on more than that it is short.
IMPATIENT = HttpSettings(
    connect_timeout=20, read_timeout=0.1, attempts=3, backoff=0.001, trust_env=False
)


def table_of(data: bytes) -> ChunkTable:
    pieces = (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))
    return ChunkTable(len(data), CHUNK, b"".join(blake3(piece).digest() for piece in pieces))


def download(store: Store, data: bytes = DATA) -> Download:
    return Download(
        store,
        Hash(blake3(data).digest()),
        table_of(data),
        sha256=None,
        rng=random.Random(0),
        settings=DownloadSettings(swarm=SwarmSettings(tiers=frozenset({Tier.HTTP}))),
    )


async def fetch(
    store: Store,
    url: str,
    *,
    settings: HttpSettings = QUICK,
    connections: int = 4,
    data: bytes = DATA,
) -> Download:
    job = download(store, data)
    source = HttpSource(
        url, size=len(data), chunk_size=CHUNK, connections=connections, settings=settings
    )
    job.add_source(source)
    with trio.fail_after(60):
        info = await job.run()
    assert info.path.read_bytes() == data
    return job


async def refused(store: Store, url: str, *, settings: HttpSettings = QUICK) -> PeatnetError:
    """Fetch, and give the error it must fail with; nothing may have become complete."""
    with pytest.raises(PeatnetError) as caught:
        await fetch(store, url, settings=settings)
    assert store.blobs() == []
    assert caught.value.hint
    return caught.value


def with_ranges(ask: Ask) -> Answer:
    return part(ask, DATA, ETAG)


def without_ranges(ask: Ask) -> Answer:
    return whole(DATA)


def store_in(root: Path) -> Iterator[Store]:
    """A store for as long as a fixture lives."""
    database = Database.open(root / "peatnet.db")
    store = Store.open(root, database)
    yield store
    store.close()
    database.close()


class HandLink:
    """A link whose requests the test gives by hand; what is written goes into a real partial."""

    def __init__(self, store: Store) -> None:
        self.hash = Hash(blake3(DATA).digest())
        self.table = table_of(DATA)
        self.partial = store.start_partial(self.table, self.hash)
        self.requests: list[int] = []
        self.announced: list[set[int]] = [set()]
        self.arrivals: list[int] = []
        self.is_cancelled: Callable[[int], bool] = lambda _: False
        self.on_arrival: Callable[[int], None] = lambda _: None
        self.idle = trio.Event()

    def has(self, bitmap: bytes | None) -> None:
        n = self.table.n_chunks
        self.announced.append(set(range(n)) if bitmap is None else set())
        assert bitmap is None or not any(bitmap)

    def gained(self, indices: Iterable[int]) -> None:
        self.announced[-1].update(indices)

    def poll_request(self) -> int | None:
        return self.requests.pop(0) if self.requests else None

    async def next_request(self) -> int:
        await trio.lowlevel.checkpoint()
        if not self.requests:
            self.idle.set()
            await trio.sleep_forever()
        return self.requests.pop(0)

    def cancelled(self, index: int) -> bool:
        return self.is_cancelled(index)

    def wants(self, index: int) -> bool:
        return not self.partial.has(index)

    def write(self, index: int, data: Buffer) -> bool:
        return self.partial.write(index, data)

    def arrived(self, index: int) -> None:
        self.arrivals.append(index)
        self.on_arrival(index)

    def failed(self, index: int, reason: str) -> None:
        raise AssertionError(f"chunk {index} failed: {reason}")

    def corrupt(self, index: int) -> None:
        raise AssertionError(f"chunk {index} is corrupt")

    async def drive(self, url: str, *, settings: HttpSettings = QUICK) -> None:
        """Run a source until nothing is left that it was asked for."""
        source = HttpSource(url, size=SIZE, chunk_size=CHUNK, connections=1, settings=settings)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(source.run, self)
                await self.idle.wait()
                nursery.cancel_scope.cancel()
        self.partial.close()
