"""How one blob gets here: find its chunk table, find its sources, run the engine, check the result.

A table that a trusted publisher signed is looked for among the peers until one matches. Without a signature a
peer's table is used on trial: each chunk is checked against it, the whole against the blob's hash, and a peer
whose table led astray is banned and the next one's tried. Where no peer has a table in time, the file behind a
download_url is fetched without one, and verified at its end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from peatnet.blobs import ChunkTable, Hash
from peatnet.concurrency import Stirring, bare_errors, cancellable
from peatnet.errors import IntegrityError, NoSource, RemoteProtocolError
from peatnet.log import get_logger
from peatnet.net.standing import Offence
from peatnet.swarm import SwarmSettings, Tier
from peatnet.transfer import Download, DownloadSettings, RateMeter
from peatnet.views import Progress, SourceChoice

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from peatnet.blobs import BlobInfo, Store
    from peatnet.config import Config
    from peatnet.library import Target
    from peatnet.transfer import Source
    from peatnet.transfer.budget import DownloadBudget

# How often the connected peers are looked over for new sources, in seconds; new connections and announcements
# are heard of at once.
LOOK_AROUND = 2.0
REPORT_INTERVAL = 0.1
HTTP_CONNECTIONS = 4
USUAL_PRIORITY = 3

log = get_logger(__name__)


class Peers(Protocol):
    """What fetching needs of the network."""

    @property
    def connected(self) -> frozenset[str]:
        """The peers that we are connected to."""
        ...

    def source(self, peer_id: str) -> Source:
        """A connected peer as a source."""
        ...

    def offend(self, peer_id: str, offence: Offence, reason: str) -> None:
        """Count a peer's offence."""
        ...


@dataclass(frozen=True, slots=True)
class _Offer:
    """A chunk table, and who gave it: None where a trusted publisher's signature stands behind it."""

    table: ChunkTable
    giver: str | None


class BlobFetch:
    """Fetches one target. Made once, run once.

    Args:
        target: what is wanted.
        choice: where its bytes may come from.
        store: where they go.
        peers: the network; None without one.
        config: times.
        rng: breaks ties.
        budget: what the downloads of the node share; None for no bounds.
        stirring: stirred when a peer connects or announces this blob.
        on_chunks: called with the blob when its first chunk of this run is here.
    """

    def __init__(
        self,
        target: Target,
        choice: SourceChoice,
        *,
        store: Store,
        peers: Peers | None,
        config: Config,
        rng: random.Random,
        budget: DownloadBudget | None = None,
        stirring: Stirring,
        on_chunks: Callable[[Hash], None],
    ) -> None:
        manifest = target.model.manifest if target.model is not None else None
        self._blob = target.blob
        self._trusted = target.model is not None and target.model.trusted
        self._hint = manifest.chunks if manifest is not None else None
        self._size = manifest.size_bytes if manifest is not None else 0
        self._sha256 = (manifest.sha256 or None) if manifest is not None else None
        self._url = manifest.download_url if manifest is not None else None
        self._what = str(target.model) if target.model is not None else f"blob {target.blob}"
        self._store = store
        self._peers = peers if choice is not SourceChoice.HTTP else None
        if choice is SourceChoice.PEERS:
            self._url = None
        self._config = config
        self._rng = rng
        self._budget = budget
        self._priority = USUAL_PRIORITY
        self._download: Download | None = None
        self._stirring = stirring
        self._on_chunks = on_chunks
        self._liars: set[str] = set()
        self._disagreeing: set[str] = set()
        self._received = 0  # of a loose fetch
        self.progress = Progress(self._size, 0, 0.0, None, {})

    def set_priority(self, priority: int) -> None:
        """Make it more or less urgent, 1 (most) to 5, any time."""
        self._priority = priority
        if self._download is not None:
            self._download.set_priority(priority)

    async def run(self) -> BlobInfo:
        """Fetch and verify.

        Cancellation: what is here stays, and a later fetch goes on from it.

        Raises:
            NoSource: nobody delivered, for ``give_up_after_s``.
            HttpSourceError: the server behind download_url failed.
            IntegrityError: the bytes contradict the manifest.
            DiskFull, StorageError: from the store.
        """
        info = await trio.to_thread.run_sync(self._look)
        if info is not None:
            return info
        if self._peers is None and self._url is None:
            raise NoSource(
                f"{self._what} has no download_url",
                hint="run a node (`peatnet up`) that can reach peers",
            )
        while True:
            offer = await self._find_table()
            if offer is None or self._blob is None:
                return await self._fetch_loose()
            try:
                with bare_errors():
                    return await self._fetch_chunks(self._blob, offer)
            except IntegrityError as exc:
                if offer.giver is None or self._peers is None:
                    raise
                self._liars.add(offer.giver)
                self._peers.offend(offer.giver, Offence.WRONG_TABLE, exc.message)

    def _look(self) -> BlobInfo | None:
        if self._blob is not None:
            return self._store.info(self._blob)
        return self._store.find_sha256(self._sha256) if self._sha256 else None

    # The table

    async def _find_table(self) -> _Offer | None:
        """The chunk table to fetch by; None means that the URL is to be fetched from without one."""
        if self._blob is None:
            if self._url is None:
                raise NoSource(f"{self._what}: its manifest names neither a blob nor a URL")
            return None
        known = await trio.to_thread.run_sync(self._store.partial_table, self._blob)
        if known is not None and self._is_signed(known):
            return _Offer(known, None)
        if self._peers is None:
            return None
        patience = (
            self._config.give_up_after_s
            if self._url is None
            else self._config.http_fallback_after_s
        )
        found: list[_Offer] = []
        with trio.move_on_after(patience):
            found.append(await self._ask_until_found(self._peers, self._blob))
        if found:
            return found[0]
        if self._url is None:
            others = len(self._disagreeing)
            raise NoSource(
                f"no peer has {self._what}"
                + (f" with the signed chunk table; {others} have another" if others else ""),
                hint="`peatnet peers` shows whom this node is connected to",
            )
        log.info("no peer has the chunk table; using the download_url", blob=self._blob.hex())
        return None

    async def _ask_until_found(self, peers: Peers, blob: Hash) -> _Offer:
        """Ask every peer that is or comes connected, again and again, until one has the table.

        Each peer is waited for by itself, so that one that never answers is in nobody's way.
        """
        found: list[_Offer] = []
        asking: set[str] = set()

        async def ask(peer_id: str) -> None:
            offer = await self._ask_one(peers, blob, peer_id)
            asking.discard(peer_id)
            if offer is not None and not found:
                found.append(offer)
                nursery.cancel_scope.cancel()

        async def look_around() -> None:
            while True:
                stirred = self._stirring.event
                for peer_id in sorted(peers.connected - self._liars - self._disagreeing - asking):
                    asking.add(peer_id)
                    nursery.start_soon(ask, peer_id)
                with trio.move_on_after(LOOK_AROUND):
                    await stirred.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_around)
        return found[0]

    async def _ask_one(self, peers: Peers, blob: Hash, peer_id: str) -> _Offer | None:
        try:
            table = await peers.source(peer_id).table(blob)
        except NoSource as exc:
            log.debug("no chunk table", peer=peer_id, reason=exc.message)
            return None
        except RemoteProtocolError as exc:
            peers.offend(peer_id, Offence.MALFORMED, exc.message)
            return None
        return self._judge_table(table, peer_id) if table is not None else None

    def _judge_table(self, table: ChunkTable, peer_id: str) -> _Offer | None:
        if self._is_signed(table):
            return _Offer(table, None)
        if self._trusted and self._hint is not None:
            # It may have cut the blob into chunks of another size, or it lies, or the publisher signed a wrong
            # hash: nobody can tell from here, so nobody is accused. Its table is of no use to this fetch.
            self._disagreeing.add(peer_id)
            log.warning("chunk table is not the signed one", peer=peer_id, target=self._what)
            return None
        if self._size and table.size != self._size:
            return None
        return _Offer(table, peer_id)

    def _is_signed(self, table: ChunkTable) -> bool:
        return (
            self._trusted
            and self._hint is not None
            and table.table_hash.hex() == self._hint.table_hash
            and table.chunk_size == self._hint.chunk_size
        )

    # The bytes

    async def _fetch_chunks(self, blob: Hash, offer: _Offer) -> BlobInfo:
        if self._size and offer.table.size != self._size:
            raise IntegrityError(
                f"{self._what}: its manifest says {self._size} bytes, "
                f"its chunk table {offer.table.size}",
                hint="the manifest is wrong: ask its publisher",
            )
        tiers = frozenset(
            tier
            for tier, wanted in ((Tier.PEER, self._peers), (Tier.HTTP, self._url))
            if wanted is not None
        )
        settings = DownloadSettings(
            swarm=SwarmSettings(tiers=tiers, fallback_after=self._config.http_fallback_after_s),
            give_up_after=self._config.give_up_after_s,
        )
        download = Download(
            self._store,
            blob,
            offer.table,
            sha256=self._sha256,
            rng=self._rng,
            settings=settings,
            on_ban=self._banned,
            table_signed=offer.giver is None,
            priority=self._priority,
            budget=self._budget,
        )
        self._download = download
        earlier = dict(self.progress.bytes_by_source)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feed_sources, download, offer.table)
            nursery.start_soon(self._report, download, earlier)
            try:
                info = await download.run()
            finally:
                self._note_progress(download, earlier)
                nursery.cancel_scope.cancel()
        return info

    async def _feed_sources(self, download: Download, table: ChunkTable) -> None:
        if self._url is not None:
            from peatnet.net.http_source import HttpSource  # noqa: PLC0415  # httpx takes long to import

            download.add_source(
                HttpSource(
                    self._url,
                    size=table.size,
                    chunk_size=table.chunk_size,
                    connections=HTTP_CONNECTIONS,
                )
            )
        while True:
            stirred = self._stirring.event
            if self._peers is not None:
                for peer_id in sorted(self._peers.connected - self._liars):
                    download.add_source(self._peers.source(peer_id))
            with trio.move_on_after(LOOK_AROUND):
                await stirred.wait()

    async def _report(self, download: Download, earlier: dict[str, int]) -> None:
        announced = False
        while True:
            await download.changed()
            self._note_progress(download, earlier)
            if not announced and self.progress.verified_bytes:
                self._on_chunks(download.hash)
                announced = True
            await trio.sleep(REPORT_INTERVAL)

    def _note_progress(self, download: Download, earlier: dict[str, int]) -> None:
        now = download.progress
        total = dict(earlier)
        for source, count in now.bytes_by_source.items():
            total[source] = total.get(source, 0) + count
        verified = max(now.verified_bytes, self.progress.verified_bytes)
        self.progress = Progress(
            now.size, verified, now.rate, now.eta, total, received_bytes=verified
        )

    def _banned(self, source: str, reason: str) -> None:
        kind, _, name = source.partition(":")
        if kind == "peer" and self._peers is not None:
            self._peers.offend(name, Offence.CORRUPT_CHUNK, reason)
        else:
            log.warning("source sent wrong bytes", source=source, reason=reason)

    async def _fetch_loose(self) -> BlobInfo:
        from peatnet.net.http_loose import fetch_loose  # noqa: PLC0415  # httpx takes long to import
        from peatnet.net.http_source import HttpSource  # noqa: PLC0415  # httpx takes long to import

        url, size = self._url, self._size
        name = self._blob or (Hash.parse(self._sha256) if self._sha256 else None)
        if url is None or name is None or not size:
            raise NoSource(
                f"{self._what}: without a chunk table, its manifest must give size_bytes, "
                "and sha256 or blob_hash",
                hint="ask its publisher for a complete manifest",
            )
        loose = await trio.to_thread.run_sync(self._store.start_loose, name, size)
        source = HttpSource(url, size=size, chunk_size=size).name
        meter = RateMeter(trio.current_time())
        earlier = self._received = loose.received

        def progress(received: int) -> None:
            # Not verified: that comes at the end, for the whole at once. Never shown as verified.
            nonlocal earlier
            if received < self._received:
                earlier = 0  # the server's file has changed, and is fetched anew
            meter.add(max(0, received - self._received))
            self._received = received
            rate = meter.rate(trio.current_time())
            self.progress = replace(
                self.progress,
                received_bytes=max(received, self.progress.received_bytes),
                rate=rate,
                eta_s=(size - received) / rate if rate > 0 else None,
                bytes_by_source={source: received - earlier},
            )

        progress(loose.received)
        try:
            await fetch_loose(
                url,
                loose,
                size=size,
                connections=HTTP_CONNECTIONS,
                progress=progress,
            )
            adopt = partial(
                self._store.adopt_loose,
                loose,
                expect_sha256=self._sha256,
                expect_blob_hash=self._blob,
                progress=cancellable(),
            )
            info = await trio.to_thread.run_sync(adopt)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(loose.close)
        self.progress = Progress(
            info.size,
            info.size,
            0.0,
            0.0,
            self.progress.bytes_by_source,
            received_bytes=info.size,
        )
        return info
