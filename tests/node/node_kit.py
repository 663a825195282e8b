"""What the tests of the node layer share: a data directory with a keeper, and peers that live in memory."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio
from support.files import blake3_of, make_model
from support.records import manifest_of, record_of

from peatnet.blobs import ChunkTable, Hash, hash_file
from peatnet.config import Config, FetchPolicy
from peatnet.errors import IntegrityError, NoSource
from peatnet.keeper import Keeper
from peatnet.models import ModelManifest
from peatnet.net.claims import Claims
from peatnet.net.peer_source import GivenTable
from peatnet.opening import open_library
from peatnet.records import KeyPair, RecordType, sign_record
from peatnet.swarm import Tier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from peatnet.library import Library
    from peatnet.net.standing import Offence
    from peatnet.targets import Model
    from peatnet.transfer import SourceLink

SIZE = 200_000
THEM = KeyPair.from_seed(bytes([1]) * 32)
OTHERS = KeyPair.from_seed(bytes([2]) * 32)


def config_of(root: Path, **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "data_dir": root,
        "mdns": False,
        "listen": ["/ip4/127.0.0.1/tcp/0"],
        "free_floor_bytes": 0,
        "fetch": FetchPolicy.ALL,
    }
    return Config(**settings | changes)


def file_of(folder: Path, seed: int = 1) -> Path:
    """A model file; another one for each seed."""
    return make_model(folder / f"model-{seed}.safetensors", SIZE, seed)


def hash_of(path: Path) -> Hash:
    return Hash.parse(blake3_of(path))


def withdrawal_of(keys: KeyPair, key: str, sequence: int) -> bytes:
    model_id, _, version = key.partition("@")
    body = json.dumps({"model_id": model_id, "version": version}).encode()
    return sign_record(keys, RecordType.WITHDRAWAL, key, sequence, body).envelope


def draft(model_id: str, **others: Any) -> ModelManifest:
    """A manifest as somebody who publishes writes it."""
    given = {"model_id": model_id, "name": model_id, "model_type": "custom"}
    return ModelManifest.from_draft(json.dumps(given | others), created_at="2026-01-02T03:04:05Z")


@dataclass
class MemoryPeer:
    """A peer that has some files.

    Attributes:
        corrupt: every chunk that it sends is wrong.
        vouches: it says that it has all of what it gives tables of.
        tables: the tables that it gives in place of the right ones.
        gate: it sends nothing before this is set.
        asked: how often it was asked for a table, or to deliver chunks.
    """

    peer_id: str
    files: dict[Hash, Path] = field(default_factory=dict)
    corrupt: bool = False
    vouches: bool = True
    tables: dict[Hash, ChunkTable] = field(default_factory=dict)
    gate: trio.Event | None = None
    asked: int = 0
    tier: Tier = Tier.PEER
    pipeline: int = 4

    @property
    def name(self) -> str:
        return f"peer:{self.peer_id}"

    def add(self, path: Path) -> None:
        self.files[hash_of(path)] = path

    async def table(self, hash: Hash) -> ChunkTable | None:  # noqa: A002  # as in the protocol
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if hash in self.tables:
            return self.tables[hash]
        return hash_file(self.files[hash]).table if hash in self.files else None

    async def given_table(self, blob: Hash) -> GivenTable | None:
        table = await self.table(blob)
        return GivenTable(table, self.vouches) if table is not None else None

    async def run(self, link: SourceLink) -> None:
        self.asked += 1
        if link.hash not in self.files:
            raise NoSource(f"{self.name} has nothing of it")
        path = self.files[link.hash]
        link.has(None)
        while True:
            index = await link.next_request()
            if self.gate is not None:
                await self.gate.wait()
            start = link.table.offset_of(index)
            data = bytearray(path.read_bytes()[start : start + link.table.length_of(index)])
            if self.corrupt:
                data[0] ^= 1
            try:
                link.write(index, data)
            except IntegrityError:
                link.corrupt(index)
            else:
                link.arrived(index)


class MemoryPeers:
    """A network of such peers."""

    def __init__(self, *peers: MemoryPeer) -> None:
        self.peers = {peer.peer_id: peer for peer in peers}
        self.offences: list[tuple[str, str]] = []
        self.claims = Claims("me", trio.current_time)

    @property
    def connected(self) -> frozenset[str]:
        return frozenset(self.peers)

    def source(self, peer_id: str) -> MemoryPeer:
        return self.peers[peer_id]

    def offend(self, peer_id: str, offence: Offence, reason: str) -> None:
        self.offences.append((peer_id, offence.value))
        self.peers.pop(peer_id, None)  # as a ban does


@dataclass
class World:
    """A library and a keeper that runs.

    Attributes:
        on_change: called when a fetch of a model begins or ends.
    """

    library: Library
    keeper: Keeper
    peers: MemoryPeers
    blobs: list[Hash]
    on_change: list[Callable[[], None]]

    async def hear(self, *envelopes: bytes) -> None:
        """Take records in, as from the network."""
        for taken in await self.library.ledger.take(envelopes):
            assert taken.fault is None
        self.keeper.wake()

    def model(self, model_id: str) -> Model:
        (found,) = [item for item in self.library.models() if item.manifest.model_id == model_id]
        return found

    def status(self, model_id: str) -> str:
        model = self.model(model_id)
        return self.library.view(
            model, progress=0.0 if self.keeper.progress(model) is not None else None
        ).status

    async def get(self, reference: str, choice: Any = "any") -> Any:
        from peatnet.views import SourceChoice

        target = self.library.find(reference)
        info, _ = await self.keeper.get(target, SourceChoice(choice), None)
        return info


@asynccontextmanager
async def world(
    root: Path,
    *peers: MemoryPeer,
    trusted: tuple[KeyPair, ...] = (THEM,),
    lasting: bool = True,
    **changes: Any,
) -> AsyncIterator[World]:
    """A data directory that is worked in for as long as the context lasts."""
    settings = {"trusted_publishers": [str(keys.peer_id) for keys in trusted]} | changes
    with open_library(config_of(root, **settings)) as library:
        network, blobs, on_change = MemoryPeers(*peers), list[Hash](), list[Callable[[], None]]()

        def changed(_: Model) -> None:
            for callback in on_change:
                callback()

        keeper = Keeper(
            library,
            network,
            random.Random(0),
            lasting=lasting,
            on_change=changed,
            on_blob=blobs.append,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(keeper.run)
            try:
                yield World(library, keeper, network, blobs, on_change)
            finally:
                nursery.cancel_scope.cancel()


def signed(
    path: Path, model_id: str, sequence: int = 1, keys: KeyPair = THEM, **changes: Any
) -> bytes:
    """The record of a manifest of this file."""
    return record_of(keys, manifest_of(path, model_id, **changes), sequence)
