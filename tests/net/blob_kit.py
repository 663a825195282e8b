"""A holder and a downloader of one blob on real hosts, and holders that answer as they are told."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from net_tools import PATIENCE, place, two_hosts, until

from peatnet.errors import IntegrityError, NoSource
from peatnet.net.blob_messages import (
    ChunkReply,
    ChunkRequest,
    HaveReply,
    HaveRequest,
    Reply,
    TableReply,
    TableRequest,
    decode_request,
)
from peatnet.net.blob_server import BlobServer
from peatnet.net.network import BLOB_PROTOCOL
from peatnet.net.peer_source import PeerSource
from peatnet.net.small_server import SmallServer
from peatnet.net.small_stream import SMALL_PROTOCOL
from peatnet.net.upload_gate import UploadGate
from peatnet.swarm import SwarmSettings
from peatnet.transfer import Download, DownloadSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from net_tools import Place

    from peatnet.blobs import BlobInfo, ChunkTable
    from peatnet.net.frames import FrameStream
    from peatnet.net.host import Host

CHUNK = 64 * 1024
N_CHUNKS = 12
DATA = random.Random(7).randbytes((N_CHUNKS - 1) * CHUNK + 777)
SETTINGS = DownloadSettings(swarm=SwarmSettings(), give_up_after=0.5)


def source_at(
    taker: Host, holder: Host, faults: list[str], small: str | None = SMALL_PROTOCOL
) -> PeerSource:
    """One host as a source for another one, over streams alone; ``small``: the protocol for many blobs."""
    opening = partial(taker.open_stream, holder.peer_id)
    open_small = partial(opening, small) if small is not None else None
    return PeerSource(
        holder.peer_id, partial(opening, BLOB_PROTOCOL), faults.append, open_small=open_small
    )


@dataclass
class Pair:
    """A holder and a downloader, connected, and what the downloader says against the holder."""

    holder: Host
    taker: Host
    holding: Place
    taking: Place
    info: BlobInfo
    gate: UploadGate
    faults: list[str]
    bans: list[str]

    @property
    def table(self) -> ChunkTable:
        return self.info.table

    def source(self) -> PeerSource:
        return source_at(self.taker, self.holder, self.faults)

    async def fetch(self, *more: PeerSource, settings: DownloadSettings = SETTINGS) -> BlobInfo:
        download = Download(
            self.taking.store,
            self.info.hash,
            self.table,
            sha256=None,
            rng=random.Random(1),
            settings=settings,
            on_ban=lambda source, _: self.bans.append(source),
        )
        for source in (self.source(), *more):
            download.add_source(source)
        with trio.fail_after(PATIENCE):
            return await download.run()

    async def fetch_until(self, condition: Callable[[], object]) -> None:
        """Fetch in vain, until the condition holds."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fetch_in_vain)
            await until(condition)
            nursery.cancel_scope.cancel()

    async def _fetch_in_vain(self) -> None:
        with pytest.raises((NoSource, IntegrityError)):
            await self.fetch()

    async def stream(self) -> FrameStream:
        return await self.taker.open_stream(self.holder.peer_id, BLOB_PROTOCOL)

    def have(self, **changes: Any) -> HaveReply:
        table = self.table
        reply = HaveReply(0, table.size, table.chunk_size, table.table_hash, full=True)
        return replace(reply, **changes)


@asynccontextmanager
async def a_pair(root: Path) -> AsyncIterator[Pair]:
    holding, taking = place(root / "holding"), place(root / "taking")
    (root / "data").write_bytes(DATA)
    info = holding.store.add_file(root / "data", chunk_size=CHUNK)
    async with two_hosts() as (holder, taker):
        gate = UploadGate()
        holder.handle(BLOB_PROTOCOL, BlobServer(holding.store, gate).serve)
        holder.handle(SMALL_PROTOCOL, SmallServer(holding.store, gate).serve)
        yield Pair(holder, taker, holding, taking, info, gate, [], [])


Answer = tuple[Reply, bytes]


def chunk_of(table: ChunkTable, index: int) -> bytes:
    offset = table.offset_of(index)
    return DATA[offset : offset + table.length_of(index)]


def answers(pair: Pair, lie: Callable[[Pair, Any], list[Answer] | None]) -> Any:
    """A holder that answers in order and honestly but where the lie says otherwise."""

    async def serve(frames: FrameStream) -> None:
        while True:
            request = decode_request((await frames.receive()).fields)
            replies = lie(pair, request)
            if replies is None:
                replies = [honest(pair, request)]
            for reply, payload in replies:
                await frames.send(reply.header(), payload)

    return serve


def honest(pair: Pair, request: HaveRequest | TableRequest | ChunkRequest) -> Answer:
    if isinstance(request, HaveRequest):
        return pair.have(number=request.number), b""
    if isinstance(request, TableRequest):
        piece = pair.table.digests[32 * request.first : 32 * (request.first + request.count)]
        return TableReply(request.number), piece
    return ChunkReply(request.number, request.index), chunk_of(pair.table, request.index)


def on(kind: type, *replies: Callable[[Pair, Any], Answer]) -> Any:
    """Answers requests of this kind with these replies, others honestly."""
    return lambda pair, request: (
        [reply(pair, request) for reply in replies] if isinstance(request, kind) else None
    )
