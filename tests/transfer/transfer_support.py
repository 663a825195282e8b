"""Sources that live in memory and really deliver bytes, well or badly; and a world to run downloads in."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from blake3 import blake3

from peatnet.blobs import Bitmap, ChunkTable, Database, Hash, Store
from peatnet.errors import IntegrityError, NoSource
from peatnet.swarm import SwarmSettings, Tier
from peatnet.transfer import Download, DownloadSettings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from peatnet.transfer import SourceLink
    from peatnet.transfer.budget import DownloadBudget

CHUNK = 64 * 1024


def make_data(n_chunks: int, *, seed: int = 1, tail: int = 777) -> bytes:
    """Bytes for so many chunks, the last one short."""
    return random.Random(seed).randbytes((n_chunks - 1) * CHUNK + tail)


def table_of(data: bytes) -> ChunkTable:
    pieces = (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))
    return ChunkTable(len(data), CHUNK, b"".join(blake3(piece).digest() for piece in pieces))


def hash_of(data: bytes) -> Hash:
    return Hash(blake3(data).digest())


def bitmap_of(n: int, indices: Iterable[int]) -> bytes:
    bitmap = Bitmap(n)
    for index in indices:
        bitmap.set(index)
    return bitmap.to_bytes()


@dataclass
class MemorySource:
    """Delivers chunks of ``data``, one after the other, each after ``delay`` seconds on trio's clock.

    Attributes:
        has: the chunks it has; None for all.
        corrupt: chunks that it delivers wrong.
        refuse: chunks that it says it cannot deliver.
        swallow: chunks that it never answers for.
        vanish_after: it is lost after so many chunks.
        asked: all that was requested of it, in order.
    """

    name: str
    data: bytes
    tier: Tier = Tier.PEER
    pipeline: int = 4
    delay: float = 0.01
    has: set[int] | None = None
    corrupt: set[int] = field(default_factory=set)
    refuse: set[int] = field(default_factory=set)
    swallow: set[int] = field(default_factory=set)
    vanish_after: int | None = None
    threaded: bool = False
    asked: list[int] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)
    runs: int = 0
    link: SourceLink | None = None

    async def table(self, hash: Hash) -> ChunkTable | None:  # noqa: A002 - as in the protocol
        return table_of(self.data)

    async def run(self, link: SourceLink) -> None:
        self.runs += 1
        self.link = link
        n = link.table.n_chunks
        link.has(None if self.has is None else bitmap_of(n, self.has))
        while True:
            if self.vanish_after is not None and len(self.delivered) >= self.vanish_after:
                raise NoSource(f"{self.name}: gone")
            index = await link.next_request()
            self.asked.append(index)
            await trio.sleep(self.delay)
            if not link.cancelled(index):
                await self.deliver(link, index)

    async def deliver(self, link: SourceLink, index: int) -> None:
        if index in self.swallow:
            return
        if index in self.refuse:
            link.failed(index, "will not")
            return
        start = link.table.offset_of(index)
        piece = bytearray(self.data[start : start + link.table.length_of(index)])
        if index in self.corrupt:
            piece[len(piece) // 2] ^= 1
        try:
            if self.threaded:
                await trio.to_thread.run_sync(link.write, index, piece)
            else:
                link.write(index, piece)
        except IntegrityError:
            link.corrupt(index)
        else:
            self.delivered.append(index)
            link.arrived(index)


class World:
    """A store and a blob to be fetched into it."""

    def __init__(self, root: Path, data: bytes) -> None:
        self.root = root
        self.data = data
        self.hash = hash_of(data)
        self.table = table_of(data)
        self.bans: list[tuple[str, str]] = []
        self.database = Database.open(root / "peatnet.db")
        self.store = Store.open(root, self.database)

    def download(
        self,
        *sources: MemorySource,
        sha256: str | None = None,
        table_signed: bool = True,
        give_up_after: float = 30.0,
        tiers: frozenset[Tier] = frozenset(Tier),
        fallback_after: float = 5.0,
        flush_bytes: int = 1024 * CHUNK,
        hash_step: int = 1024 * CHUNK,
        seed: int = 0,
        max_sources: int = 32,
        priority: int = 3,
        budget: DownloadBudget | None = None,
    ) -> Download:
        download = Download(
            self.store,
            self.hash,
            self.table,
            sha256=sha256,
            rng=random.Random(seed),
            settings=DownloadSettings(
                swarm=SwarmSettings(tiers=tiers, fallback_after=fallback_after),
                max_sources=max_sources,
                give_up_after=give_up_after,
                flush_bytes=flush_bytes,
                hash_step=hash_step,
            ),
            on_ban=lambda name, reason: self.bans.append((name, reason)),
            table_signed=table_signed,
            priority=priority,
            budget=budget,
        )
        for source in sources:
            download.add_source(source)
        return download

    def close(self) -> None:
        self.store.close()
        self.database.close()
