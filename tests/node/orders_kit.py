"""What the tests of update commands share: a data directory with an executor, loaders that note what they are told."""

from __future__ import annotations

import json
import random
import zlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio
from support.files import make_model
from support.records import manifest_of, record_of
from support.waiting import until

from node.node_kit import THEM, MemoryPeer, World, hash_of, world
from peatnet.config import FetchPolicy
from peatnet.executor import Executor
from peatnet.loader_settings import LoaderSettings
from peatnet.models import ModelManifest, ModelUpdateCommand, Timestamp
from peatnet.records import Cancellation, KeyPair, RecordType, command_key, sign_record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from peatnet.net.node_status import CommandReport

SIZE = 70_000
TIME = Timestamp("2026-01-02T03:04:05Z")


def file_of(root: Path, name: str) -> Path:
    """The file of a model, ``id@version``; other bytes for each."""
    folder = root.parent / "files"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.safetensors"
    return path if path.exists() else make_model(path, SIZE, zlib.crc32(name.encode()))


def manifest_text(path: Path, name: str, **changes: Any) -> dict[str, Any]:
    model_id, _, version = name.partition("@")
    return manifest_of(path, model_id, version=version or "1", **changes)


def command_of(
    manifest: dict[str, Any],
    sequence: int,
    *targets: str,
    keys: KeyPair = THEM,
    command_id: str | None = None,
    **changes: Any,
) -> bytes:
    """The record of an update command."""
    command = ModelUpdateCommand(
        command_id=command_id or f"command-{sequence}",
        manifest=ModelManifest.from_json(json.dumps(manifest)),
        target_nodes=targets,
        timestamp=TIME,
        **changes,
    )
    key = command_key(manifest["model_id"], str(command.command_id))
    body = command.to_json().encode()
    return sign_record(keys, RecordType.COMMAND, key, sequence, body).envelope


def cancellation_of(model_id: str, command_id: str, sequence: int, keys: KeyPair = THEM) -> bytes:
    body = Cancellation(model_id=model_id, command_id=command_id)
    kind = RecordType.CANCELLATION
    return sign_record(keys, kind, body.key, sequence, body.to_json().encode()).envelope


def record(manifest: dict[str, Any], sequence: int = 1, keys: KeyPair = THEM) -> bytes:
    return record_of(keys, manifest, sequence)


@dataclass
class Orders:
    """A world with an executor, and what that told."""

    world: World
    executor: Executor
    root: Path
    reports: list[CommandReport] = field(default_factory=list)

    async def hear(self, *envelopes: bytes) -> None:
        await self.world.hear(*envelopes)
        self.executor.wake()

    def told(self, command_id: str) -> str | None:
        """The last word on a command."""
        found = [each.outcome.value for each in self.reports if each.command_id == command_id]
        return found[-1] if found else None

    def reason(self, command_id: str) -> str:
        return [each.reason for each in self.reports if each.command_id == command_id][-1]

    async def wait(self, command_id: str, outcome: str) -> None:
        await until(
            lambda: self.told(command_id) == outcome, f"{command_id} {outcome}: {self.reports}"
        )

    def started(self) -> list[str]:
        """What loaders were started for."""
        log = self.root / "loaded"
        return log.read_text().split() if log.exists() else []

    def serving(self, slot: str = "m") -> str | None:
        """What the link of a slot leads to, by its bytes."""
        link = self.root / "models" / slot / "current"
        if not link.exists():
            return None
        files = (self.root.parent / "files").iterdir()
        bytes_there = link.read_bytes()
        return next(path.stem for path in files if path.read_bytes() == bytes_there)


LOADER = LoaderSettings(
    command=(
        "/bin/sh",
        "-c",
        """
        echo "$MODEL_ID@$MODEL_VERSION" >> loaded
        if [ -e "wait-$MODEL_ID@$MODEL_VERSION" ]; then exec sleep 1000; fi
        test -s "$MANIFEST_PATH" && test ! -e "fail-$MODEL_ID@$MODEL_VERSION"
        """,
    )
)


@asynccontextmanager
async def orders(
    root: Path, *names: str, gate: trio.Event | None = None, **changes: Any
) -> AsyncIterator[Orders]:
    """A node that follows commands, and a peer that has the files of these models."""
    peer = MemoryPeer("peer", gate=gate)
    for name in names:
        peer.add(file_of(root, name))
    settings = {"fetch": FetchPolicy.NONE, "loaders": {"safetensors": LOADER}} | changes
    async with world(root, peer, **settings) as here, trio.open_nursery() as nursery:
        reports: list[CommandReport] = []
        executor = Executor(
            here.library,
            here.keeper,
            random.Random(0),
            tell=reports.append,
            on_model=lambda _: None,
        )
        await nursery.start(executor.run)
        try:
            yield Orders(here, executor, root, reports)
        finally:
            nursery.cancel_scope.cancel()


def blob_of(root: Path, name: str) -> str:
    return hash_of(file_of(root, name)).hex()
