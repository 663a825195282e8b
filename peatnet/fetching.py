"""How one blob gets here: find its chunk table, find its sources, run the engine, check the result.

A table that a trusted publisher signed is looked for among the peers until one matches. Without a signature a
peer's table is used on trial: each chunk is checked against it, the whole against the blob's hash, and where it led
astray the next peer's is tried. Whoever had vouched for it is banned. Where no peer has a table in time, the file behind a
download_url is fetched without one, and verified at its end.
"""

from __future__ import annotations

from enum import Enum, auto
from functools import cached_property, partial
from typing import TYPE_CHECKING

import trio

from peatnet.blobs import Hash
from peatnet.concurrency import Stirring, bare_errors
from peatnet.errors import HttpSourceError, IntegrityError, NoSource
from peatnet.log import get_logger
from peatnet.loose import HTTP_CONNECTIONS, LooseFetch
from peatnet.net.standing import Offence
from peatnet.origin import Scout, Turn
from peatnet.swarm import SwarmSettings, Tier
from peatnet.tables import HEAD_START, LOOK_AROUND, Offer, Peers, TableSearch
from peatnet.transfer import Download, DownloadSettings
from peatnet.views import Progress, SourceChoice

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from peatnet.blobs import BlobInfo, ChunkTable, Store
    from peatnet.config import Config
    from peatnet.targets import Target
    from peatnet.transfer.budget import DownloadBudget

REPORT_INTERVAL = 0.25
USUAL_PRIORITY = 3
# How long a node lets others fetch from the origin while it gets nothing itself: a file without a chunk table passes on
# nothing before it is complete, so that depends on its size, at a supposed rate; bounded, since claims may be lies.
LOOSE_PATIENCE = 60.0
SUPPOSED_RATE = 4e6
LONGEST_PATIENCE = 900.0
CHUNK_PATIENCE = 20.0

log = get_logger(__name__)


class _Origin(Enum):
    """How a download by a chunk table uses the origin, if not as a fallback."""

    AT_ONCE = auto()
    NEVER = auto()


class _OriginDisagrees(IntegrityError):
    """The origin's bytes are not what a chunk table on trial says."""


def no_url(target: Target) -> NoSource:
    """The error where only HTTP is wanted, and there is no URL. The target's name stands beside it wherever it is shown.

    Whoever can tell beforehand begins no fetch: it would end one that runs, and be told of as the model's failure.
    """
    what = "its manifest has no download_url"
    if target.model is None:
        what = "no manifest is known here that says at which download_url it is"
    return NoSource(what, hint="without `--source http`, other nodes are asked")


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
        self._target = target
        self._named = target.blob is not None
        # A blob that was said to have our SHA-256, and who said so. One is followed in a fetch: the next lie would be
        # as easy.
        self._told: tuple[Hash, str] | None = None
        self._turn: Turn | None = None
        self.progress = Progress(self._size, 0, 0.0, None, {})

    @cached_property
    def _search(self) -> TableSearch:
        return TableSearch(self._target, self._stirring)  # what came in a group never needs one

    def set_priority(self, priority: int) -> None:
        """Make it more or less urgent, 1 (most) to 5, any time."""
        self._priority = priority
        if self._download is not None:
            self._download.set_priority(priority)

    def came_whole(self, info: BlobInfo, source: str | None) -> None:
        """It came in a group, and need not be run."""
        by_source = {source: info.size} if source is not None else {}
        self.progress = Progress(
            info.size, info.size, 0.0, None, by_source, received_bytes=info.size
        )

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
            raise no_url(self._target)
        try:
            info = await self._run()
            if not self._named and self._peers is not None and self._sha256 is not None:
                self._peers.claims.learn(Hash.parse(self._sha256), info.hash)
                if self._told is not None and self._told[0] != info.hash:
                    self._peers.claims.disbelieve(self._told[1])
            return info
        finally:
            if self._turn is not None:
                self._turn.release()

    async def _run(self) -> BlobInfo:
        while True:
            offer = await self._find_table()
            if offer is None or self._blob is None:
                return await self._fetch_loose()
            try:
                with bare_errors():
                    fetch = self._fetch_chunks if self._named else self._fetch_told
                    return await fetch(self._blob, offer)
            except IntegrityError as exc:
                # Of a peer's table of the blob that the manifest names, the blob's own hash is the judge.
                download = self._download
                innocent = self._named and download is not None and download.contradicted
                if offer.giver is None or download is None or self._peers is None or innocent:
                    raise
                self._misled(self._peers, offer, download, exc)

    def _misled(self, peers: Peers, offer: Offer, download: Download, exc: IntegrityError) -> None:
        """Something is wrong, by a table that no trusted publisher signed."""
        if not download.contradicted:
            if download.progress.verified_bytes == offer.table.size:
                self._search.refute(peers, offer, exc.message)
            else:
                # All sources sent other chunks than it says: it may be right, and they not.
                self._search.misled.add(str(offer.giver))
        elif self._told is not None:
            peers.claims.disbelieve(self._told[1])
        if not self._named:
            self._blob = None

    def _look(self) -> BlobInfo | None:
        if self._blob is not None:
            return self._store.info(self._blob)
        return self._store.find_sha256(self._sha256) if self._sha256 else None

    # The table

    async def _find_table(self) -> Offer | None:
        """The chunk table to fetch by; None means that the URL is to be fetched from without one."""
        if self._blob is None:
            if self._url is None:
                raise NoSource(f"{self._what}: its manifest names neither a blob nor a URL")
            return await self._wait_for_turn(None)
        known = await trio.to_thread.run_sync(self._store.partial_table, self._blob)
        if known is not None and self._search.is_signed(known):
            return Offer(known, None)
        if self._peers is None:
            return None
        if (only := self._search.of_one_chunk(self._blob)) is not None:
            return only
        patience = (
            self._config.give_up_after_s
            if self._url is None
            else self._config.http_fallback_after_s
        )
        found = list[Offer]()
        with trio.move_on_after(patience):
            found.append(await self._search.run(self._peers, self._blob))
        if found:
            return found[0]
        if self._url is None:
            others = len(self._search.disagreeing)
            raise NoSource(
                f"no peer has {self._what}"
                + (f" with the signed chunk table; {others} have another" if others else ""),
                hint="`peatnet peers` shows whom this node is connected to",
            )
        log.info("no peer has the chunk table; using the download_url", blob=self._blob.hex())
        return await self._wait_for_turn(self._blob)

    async def _wait_for_turn(self, blob: Hash | None) -> Offer | None:
        """Wait for a place at the origin; a chunk table that turns up in the meantime is as good."""
        peers, name = self._peers, self._loose_name()
        if peers is None or name is None:
            return None
        turn, found = self._turn_at(peers, name), list[Offer]()
        if turn.held:
            return None

        async def search() -> None:
            found.append(await self._search.run(peers, blob or await self._told_blob(peers)))
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if blob is not None or self._told is None:
                nursery.start_soon(search)
            await turn.take(self._patience, lambda: 0)
            nursery.cancel_scope.cancel()
        return found[0] if found else None

    async def _told_blob(self, peers: Peers) -> Hash:
        """Wait until somebody says which blob has the SHA-256 that is wanted. The bytes will tell."""
        sha256 = Hash.parse(self._sha256 or "")
        while (told := peers.claims.told(sha256)) is None:
            await peers.claims.stirring.event.wait()
        self._told = told
        self._blob, by_whom = told
        log.info("told which blob it is", blob=self._blob.hex(), peer=by_whom)
        return self._blob

    @property
    def _patience(self) -> float:
        """How long a fetch without a chunk table of its own goes by what others do, and say."""
        return min(LOOSE_PATIENCE + self._size / SUPPOSED_RATE, LONGEST_PATIENCE)

    def _turn_at(self, peers: Peers, name: Hash) -> Turn:
        if self._turn is None:
            self._turn = Turn(peers.claims, name, lambda: bool(peers.connected), self._rng)
        return self._turn

    def _loose_name(self) -> Hash | None:
        """What the file is known by while its chunk table is not known."""
        if self._named:
            return self._blob
        return Hash.parse(self._sha256) if self._sha256 else None

    # The bytes

    async def _fetch_told(self, blob: Hash, offer: Offer) -> BlobInfo:
        """Fetch a blob of which somebody says that it has the SHA-256, which only the whole can prove.

        Who says so may be lying, and deliver as slowly as it likes. So after a while the origin takes part whether or
        not peers deliver; and where it has other bytes, the whole is fetched from there. If that is wrong, the word
        may still be true.
        """
        try:
            with trio.move_on_after(self._patience) as limit, bare_errors():
                info = await self._fetch_chunks(blob, offer)
            if limit.cancelled_caught:
                with bare_errors():
                    info = await self._fetch_chunks(blob, offer, use=_Origin.AT_ONCE)
        except _OriginDisagrees as exc:
            log.warning("the origin has another file", blob=blob.hex(), reason=exc.message)
        else:
            return info
        await trio.to_thread.run_sync(self._store.discard, blob)
        try:
            return await self._fetch_loose()
        except (IntegrityError, HttpSourceError) as exc:
            log.warning("the origin is no help", blob=blob.hex(), reason=exc.message)
        return await self._fetch_chunks(blob, offer, use=_Origin.NEVER)

    async def _fetch_chunks(
        self, blob: Hash, offer: Offer, *, use: _Origin | None = None
    ) -> BlobInfo:
        if self._size and offer.table.size != self._size:
            raise IntegrityError(
                f"{self._what}: its manifest says {self._size} bytes, "
                f"its chunk table {offer.table.size}",
                hint="the manifest is wrong: ask its publisher",
            )
        url = None if use is _Origin.NEVER else self._url
        tiers = frozenset(
            tier
            for tier, wanted in ((Tier.PEER, self._peers), (Tier.HTTP, url))
            if wanted is not None
        )
        fallback = 0.0 if use is _Origin.AT_ONCE else self._config.http_fallback_after_s
        settings = DownloadSettings(
            swarm=SwarmSettings(tiers=tiers, fallback_after=fallback),
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
            nursery.start_soon(self._feed_peers, download)
            if url is not None:
                at_once = use is _Origin.AT_ONCE
                nursery.start_soon(self._feed_origin, download, offer.table, url, at_once)
            nursery.start_soon(self._report, download, earlier)
            try:
                info = await download.run()
            finally:
                self._note_progress(download, earlier)
                nursery.cancel_scope.cancel()
        return info

    async def _feed_peers(self, download: Download) -> None:
        first = self._search.publisher
        if self._peers is not None and first in self._peers.connected - self._search.liars:
            # Who most likely has all of it, before those who most likely have nothing yet.
            download.add_source(self._peers.source(str(first)))
            with trio.move_on_after(HEAD_START):
                while not download.progress.verified_bytes:
                    await download.changed()
        while self._peers is not None:
            stirred = self._stirring.event
            others = sorted(self._peers.connected - self._search.liars)
            self._rng.shuffle(others)  # or a fleet that begins together would ask one node first
            for peer_id in others:
                download.add_source(self._peers.source(peer_id))
            with trio.move_on_after(LOOK_AROUND):
                await stirred.wait()

    async def _feed_origin(
        self,
        download: Download,
        table: ChunkTable,
        url: str,
        at_once: bool,  # noqa: FBT001  # for start_soon
    ) -> None:
        """Use the origin when the swarm wants it, and it is our turn.

        Raises:
            _OriginDisagrees: it has other bytes than a blob of which somebody says that it is the right one.
        """
        from peatnet.net.http_source import HttpSource  # noqa: PLC0415  # httpx takes long to import

        origin = HttpSource(
            url, size=table.size, chunk_size=table.chunk_size, connections=HTTP_CONNECTIONS
        )
        if self._peers is not None:
            scout = Scout(origin.name)
            download.add_source(scout)
            await scout.wanted.wait()
            patience = min(CHUNK_PATIENCE, self._config.give_up_after_s / 2)
            turn = self._turn_at(self._peers, download.hash)
            await turn.take(patience, lambda: 0 if at_once else download.progress.verified_bytes)
            while origin.name in download.progress.alive:
                await download.changed()  # the scout is on its way out
        download.add_source(origin)
        if not self._named:
            await origin.contradicted.wait()
            raise _OriginDisagrees(
                f"{origin.name}: its bytes are not those of blob {download.hash}"
            )

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
        name = self._loose_name()
        if self._url is None or name is None or not self._size:
            raise NoSource(
                f"{self._what}: without a chunk table, its manifest must give size_bytes, "
                "and sha256 or blob_hash",
                hint="ask its publisher for a complete manifest",
            )
        fetch = LooseFetch(
            self._url,
            name,
            self._size,
            sha256=self._sha256,
            blob=self._blob if self._named else None,
            store=self._store,
            progress=self.progress,
            tell=partial(setattr, self, "progress"),
        )
        return await fetch.run(self._budget, self._priority)
