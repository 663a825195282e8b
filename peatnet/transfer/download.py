"""One download from beginning to end: open the partial, fetch, check the whole, commit."""

from __future__ import annotations

from functools import partial as bind
from typing import TYPE_CHECKING

import trio

from peatnet.blobs import WholeHasher
from peatnet.errors import IntegrityError, LocalProtocolError
from peatnet.transfer.engine import Engine
from peatnet.transfer.progress import Progress, Stage
from peatnet.transfer.settings import DownloadSettings

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from peatnet.blobs import BlobInfo, ChunkTable, Hash, PartialBlob, Store
    from peatnet.transfer.budget import DownloadBudget
    from peatnet.transfer.source import Source

PRIORITIES = range(1, 6)
_DEFAULTS = DownloadSettings()


def checked_priority(priority: int) -> int:
    """The priority itself.

    Raises:
        LocalProtocolError: it is not one of 1 to 5.
    """
    if priority not in PRIORITIES:
        raise LocalProtocolError(f"download: priority {priority} is not one of 1 to 5")
    return priority


class Download:
    """One blob being fetched. Made once, run once; belongs to the trio thread.

    Args:
        store: where the blob goes.
        hash: the blob's name, BLAKE3 of its bytes.
        table: the chunk table; from a signed manifest, or taken from a peer (then see ``table_signed``).
        sha256: hex SHA-256 that the bytes must have too; None or "" where it is not known.
        rng: breaks the swarm's ties.
        settings: limits and times.
        on_ban: called with a source's name and a reason when it sent bytes that do not match the table.
        table_signed: False when nobody trusted vouches for the table. A chunk that does not match it may then be
            the right one, so nobody is reported to ``on_ban``; the sender is only left out of this download.
        priority: 1 (most urgent) to 5, among this node's downloads and, as far as they believe it, among those who
            ask the same holders.
        budget: what the node's downloads share; None where nothing bounds this one.
        pin: the reason for which the complete blob is pinned, in place of the pin that a download has; None leaves
            that one.
        clock: seconds, never backwards, on the same scale as trio's clock, by which the engine sleeps.

    Attributes:
        contradicted: the bytes are the blob, but do not have the SHA-256: whoever gave that is wrong, not who sent them.
    """

    def __init__(
        self,
        store: Store,
        hash: Hash,  # noqa: A002 - the word the whole project uses
        table: ChunkTable,
        *,
        sha256: str | None,
        rng: random.Random,
        settings: DownloadSettings = _DEFAULTS,
        on_ban: Callable[[str, str], None] | None = None,
        table_signed: bool = True,
        pin: str | None = None,
        priority: int = 3,
        budget: DownloadBudget | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.hash = hash
        self.table = table
        self._store = store
        self._sha256 = sha256.lower() if sha256 else None
        self.contradicted = False
        self._rng = rng
        self._settings = settings
        self._on_ban = on_ban if table_signed else None
        self._pin = pin
        self._priority = checked_priority(priority)
        self._budget = budget
        self._clock = clock
        self._stage = Stage.NEW
        self._engine: Engine | None = None
        self._waiting: dict[str, Source] = {}  # added before there was an engine
        self._watchers = trio.lowlevel.ParkingLot()

    def add_source(self, source: Source) -> bool:
        """Use one more source from now on; any time before or while ``run`` runs.

        Returns:
            Whether it is used. Not, when one of its name is alive already or was banned here, when its tier is
            not wanted, or when the download is past fetching.
        """
        if source.tier not in self._settings.swarm.tiers:
            return False
        if self._engine is not None:
            return self._engine.add(source)
        if self._stage in (Stage.NEW, Stage.OPENING) and source.name not in self._waiting:
            self._waiting[source.name] = source
            return True
        return False

    def remove_source(self, name: str) -> None:
        """Use a source no longer; its ``run`` is cancelled. Unknown names are ignored."""
        self._waiting.pop(name, None)
        if self._engine is not None:
            self._engine.remove(name)

    def set_priority(self, priority: int) -> None:
        """Make it more or less urgent, at any time.

        Raises:
            LocalProtocolError: the priority is not one of 1 to 5; nothing has changed then.
        """
        self._priority = checked_priority(priority)
        if self._engine is not None:
            self._engine.set_priority(priority)

    @property
    def priority(self) -> int:
        """1 (most urgent) to 5."""
        return self._priority

    @property
    def progress(self) -> Progress:
        """How far it is, now."""
        engine, size = self._engine, self.table.size
        if engine is None:
            there = size if self._stage is Stage.DONE else 0
            return Progress(self._stage, size, there, there, {}, 0.0, ())
        return Progress(
            stage=self._stage,
            size=size,
            verified_bytes=engine.swarm.verified_bytes,
            recovered_bytes=engine.partial.recovered_bytes,
            bytes_by_source=engine.swarm.bytes_by_source,
            rate=engine.rate(),
            alive=tuple(engine.links),
        )

    async def changed(self) -> None:
        """Wait for the next change of ``progress``; returns at once when there will be none.

        Changes come with each chunk: whoever shows them should sleep between calls. Cancellation is safe.
        """
        if self._stage in (Stage.DONE, Stage.STOPPED):
            await trio.lowlevel.checkpoint()
        else:
            await self._watchers.park()

    async def run(self) -> BlobInfo:
        """Fetch until every chunk is there and the whole is verified.

        Cancellation: sources are cancelled, what is there is flushed and kept; a later download of the same
        blob goes on from it. Waits for the disk, not for any source that obeys its own cancellation.

        Returns:
            The complete blob, as the store has it.

        Raises:
            NoSource: no source that has a missing chunk was alive for ``give_up_after`` seconds. A subclass,
                or IntegrityError, when all sources were lost in that one way. The partial is kept.
            IntegrityError: every chunk matched the table, the whole does not match its hash or the SHA-256:
                the table or the manifest is wrong. The partial is discarded.
            DiskFull, StorageError: from the store. The partial is kept.
            LocalProtocolError: it was run before.
        """
        if self._stage is not Stage.NEW:
            raise LocalProtocolError(f"download of {self.hash.hex()}: it was run before")
        end = Stage.STOPPED
        self._to(Stage.OPENING)
        try:
            info = await trio.to_thread.run_sync(self._store.info, self.hash)
            if info is None:
                info = await self._fetch()
            else:
                self._check_known(info)
            end = Stage.DONE
        finally:
            self._to(end)
        return info

    def _to(self, stage: Stage) -> None:
        self._stage = stage
        self._changed()

    def _changed(self) -> None:
        if self._watchers:
            self._watchers.unpark_all()

    async def _fetch(self) -> BlobInfo:
        partial = await trio.to_thread.run_sync(self._open)
        try:
            # SHA-256 takes four times as long as BLAKE3: only where a manifest wants it.
            hasher = WholeHasher(partial, sha256=self._sha256 is not None)
            self._engine = Engine(
                partial,
                hasher,
                rng=self._rng,
                settings=self._settings,
                priority=self._priority,
                budget=self._budget,
                on_ban=self._on_ban,
                on_change=self._changed,
                clock=self._clock,
            )
            self._to(Stage.FETCHING)
            await self._engine.run(list(self._waiting.values()))
            self._to(Stage.CHECKING)
            await self._engine.follower.finish()
            return await self._check(partial, hasher)
        finally:
            # Closing flushes, so it is not skipped when we are cancelled; closing twice does nothing.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(partial.close)

    def _open(self) -> PartialBlob:
        # Each chunk found on disk is hashed again, so another table than last time's does no harm.
        return self._store.start_partial(
            self.table,
            self.hash,
            replace=True,
            progress=lambda _: trio.from_thread.check_cancelled(),
        )

    async def _check(self, partial: PartialBlob, hasher: WholeHasher) -> BlobInfo:
        wrong = None
        if hasher.blake3 != self.hash:
            wrong = f"its bytes have BLAKE3 {hasher.blake3.hex()}"
        elif self._sha256 is not None and hasher.sha256 != self._sha256:
            self.contradicted = True
            wrong = f"its bytes have SHA-256 {hasher.sha256}, not {self._sha256}"
        with trio.CancelScope(shield=True):
            if wrong is None:
                commit = bind(self._store.commit, partial, sha256=hasher.sha256, pin=self._pin)
                return await trio.to_thread.run_sync(commit)
            await trio.to_thread.run_sync(self._store.discard, self.hash)
        raise IntegrityError(
            f"blob {self.hash.hex()}: {wrong}, though each chunk matched the chunk table",
            hint="the manifest or the table is wrong; what was fetched was thrown away",
        )

    def _check_known(self, info: BlobInfo) -> None:
        """A blob that is here already is not fetched, but a wrong SHA-256 is no less wrong."""
        if self._sha256 is not None and info.sha256 and info.sha256 != self._sha256:
            self.contradicted = True
            raise IntegrityError(
                f"blob {self.hash.hex()}: its bytes have SHA-256 {info.sha256}, not {self._sha256}",
                hint="the manifest is wrong: ask its publisher",
            )
