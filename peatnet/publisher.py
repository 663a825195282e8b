"""The publisher: files become models that all nodes hear of; small ones in groups.

A file by itself costs a dozen syncs and commits. Small files that are published at the same time, by one caller or by
many, share them: while a group is being written, those that come wait, and are the next one. Nothing is promised less for
that. A group's blobs are on disk, complete, before its records are signed and written (all in one transaction, before
anybody hears of them), and those before its models get their names; only then do its callers hear that it is done. So
a crash leaves each model published, with its blob, or not at all.

Whatever cannot be had that way (the disk refused, an unfinished download of the same blob) is published by itself, which
knows what to say of it.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import trio

from peatnet.blobs import AddMode
from peatnet.concurrency import cancellable
from peatnet.errors import PeatnetError
from peatnet.ledger import Draft
from peatnet.library import PUBLISHING
from peatnet.log import get_logger
from peatnet.publishing import SmallFile, fill_in, let_go, read_small, take_file
from peatnet.records import Record, RecordType
from peatnet.targets import Model

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from peatnet.blobs import Hash
    from peatnet.keeper import Keeper
    from peatnet.library import Library
    from peatnet.models import ModelManifest
    from peatnet.publishing import Publication

    Progress = Callable[[int], None]

MAX_GROUP = 128
# Bytes of a group that are in memory.
MAX_BYTES = 4 * 1024 * 1024

log = get_logger(__name__)


class Publisher:
    """Publishes for one node. Belongs to the trio thread.

    Args:
        library: where blobs, records and names go.
        keeper: starts no fetch of what is being published.
        tell: called with each record and its blob, once both are on disk and the model is ready: tells the others.
    """

    def __init__(
        self, library: Library, keeper: Keeper, tell: Callable[[Record, Hash], Awaitable[None]]
    ) -> None:
        self._library = library
        self._keeper = keeper
        self._tell = tell
        self._waiting: deque[SmallFile] = deque()
        # Held by whoever writes a group. It goes to those who wait in the order in which they came.
        self._writing = trio.Lock()

    async def publish(self, wanted: Publication, progress: Progress | None = None) -> ModelManifest:
        """Publish one file; see :meth:`peatnet.node.Node.publish`."""
        small = await trio.to_thread.run_sync(read_small, wanted, cancellable(progress))
        if small is not None:
            await self._publish_together([small])
            if small.error is not None:
                raise small.error
            if small.record is not None:
                await self._tell(small.record, small.blob.hash)
                return small.manifest
        return await self._publish_alone(wanted, progress)

    async def publish_all(
        self, wanted: Sequence[Publication], progress: Progress | None = None
    ) -> list[ModelManifest | PeatnetError]:
        """Publish several files; see :meth:`peatnet.node.Node.publish_all`."""
        results: dict[int, ModelManifest | PeatnetError] = {}
        done = 0

        def report(hashed: int) -> None:
            if progress is not None:
                progress(done + hashed)

        while len(results) < len(wanted):
            # Results are known from the beginning on, without a gap.
            begin = len(results)
            read = partial(_read_group, wanted[begin : begin + MAX_GROUP], cancellable(report))
            group = await trio.to_thread.run_sync(read)
            await self._publish_together([each for each in group if isinstance(each, SmallFile)])
            for number, each in enumerate(group, begin):
                if isinstance(each, PeatnetError):
                    results[number] = each
                elif each is not None and each.error is not None:
                    results[number] = each.error
                elif each is not None and each.record is not None:
                    results[number] = each.manifest
                    done += each.manifest.size_bytes
                    await self._tell(each.record, each.blob.hash)
                else:
                    try:
                        manifest = await self._publish_alone(wanted[number], report)
                    except PeatnetError as exc:
                        results[number] = exc
                    else:
                        results[number] = manifest
                        done += manifest.size_bytes
        return [results[number] for number in range(len(wanted))]

    # Small files, together

    async def _publish_together(self, files: Sequence[SmallFile]) -> None:
        """Settle each of these: a record, an error, or neither where it must be published by itself.

        Cancellation: those that are not being written yet are not published.
        """
        self._waiting.extend(files)
        try:
            async with self._writing:
                while any(file in self._waiting for file in files):
                    await self._write_group()
        except trio.Cancelled:
            for file in files:
                if file in self._waiting:
                    self._waiting.remove(file)
            # Another caller may be writing some of them.
            with trio.CancelScope(shield=True):
                async with self._writing:
                    pass
            raise

    async def _write_group(self) -> None:
        group: list[SmallFile] = []
        size = 0
        while self._waiting and len(group) < MAX_GROUP:
            size += len(self._waiting[0].blob.data)
            if size > MAX_BYTES and group:
                break
            group.append(self._waiting.popleft())
        names = {file.blob.hash for file in group}
        # All of it happens, or nothing. The keeper would fetch what is signed and not yet ready.
        with (
            trio.CancelScope(shield=True),
            self._keeper.claimed(*(name.hex() for name in names)),
            self._library.store.held(names, PUBLISHING),
        ):
            try:
                await self._store(group)
            except PeatnetError as exc:
                log.warning("not published together", files=len(group), error=exc.message)
                for file in group:
                    file.record = file.error = None

    async def _store(self, group: Sequence[SmallFile]) -> None:
        library = self._library
        add = partial(library.store.add_small, [file.blob for file in group])
        infos = await trio.to_thread.run_sync(add)
        # What was here already may have been cut otherwise, or lack its SHA-256.
        usual = [
            (file, info)
            for file in group
            if (info := infos.get(file.blob.hash)) is not None
            and (info.table, info.sha256) == (file.blob.table, file.blob.sha256)
        ]
        drafts = [
            Draft(RecordType.MANIFEST, file.manifest.key, file.manifest.to_json())
            for file, _ in usual
        ]
        ready = []
        for (file, info), signed in zip(usual, await library.ledger.sign_all(drafts), strict=True):
            if isinstance(signed, Record):
                file.record = signed
                ready.append((Model(signed, file.manifest, trusted=True), info))
            else:
                file.error = signed
        await trio.to_thread.run_sync(library.set_ready_all, ready)

    # One file, of any length, any way

    async def _publish_alone(self, wanted: Publication, progress: Progress | None) -> ModelManifest:
        store, path = self._library.store, wanted.path
        take = partial(take_file, store, path, wanted.mode, cancellable(progress))
        info = await trio.to_thread.run_sync(take)
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            # As with a group.
            with trio.CancelScope(shield=True), self._keeper.claimed(info.hash.hex()):
                signed = fill_in(wanted.manifest, path, info)
                record = await self._library.ledger.sign(
                    RecordType.MANIFEST, signed.key, signed.to_json()
                )
                model = Model(record, signed, trusted=True)
                await trio.to_thread.run_sync(self._library.set_ready, model, info)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(store.unpin, info.hash, PUBLISHING)
        await self._tell(record, info.hash)
        if wanted.mode is AddMode.MOVE:
            await trio.to_thread.run_sync(let_go, path, info)
        return signed


def _read_group(
    wanted: Sequence[Publication], progress: Progress
) -> list[SmallFile | PeatnetError | None]:
    """Read the first of these that make a group: a small file, an error, or None for one to publish by itself."""
    group: list[SmallFile | PeatnetError | None] = []
    size = 0

    def report(hashed: int) -> None:
        progress(size + hashed)

    for each in wanted:
        try:
            file = read_small(each, report)
        except PeatnetError as exc:
            group.append(exc)
            continue
        group.append(file)
        if file is None:
            break  # takes its time, and what comes after it should not wait in memory
        size += len(file.blob.data)
        if size > MAX_BYTES:
            break
    return group
