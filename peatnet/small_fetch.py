"""Small blobs that the policy wants, fetched in groups: one stream, one write to the disk for all of a group.

A fetch of its own costs a small blob far more than its bytes: a stream, an engine, a file that grows, transactions and
syncs. Here a group of them is asked for over one stream, kept in memory, checked, and stored together. Whatever can't
be had that way (the peer hasn't got it, is busy or gone, sent wrong bytes; the disk refused) is left to the ordinary
fetch, which knows what to do about each.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import trio

from peatnet.blobs import SmallBlob
from peatnet.concurrency import Stirring
from peatnet.errors import IntegrityError, NoSource, PeatnetError, RemoteProtocolError
from peatnet.jobs import retry_key
from peatnet.log import get_logger
from peatnet.net.small_stream import MAX_BLOB, Wanted
from peatnet.tables import TableSearch
from peatnet.transfer.budget import Pacer

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from peatnet.blobs import BlobInfo, ChunkTable, Hash
    from peatnet.library import Library
    from peatnet.retrying import RetryKey
    from peatnet.tables import Peers
    from peatnet.targets import Model, Target
    from peatnet.transfer.budget import DownloadBudget
    from peatnet.views import SourceChoice

    Wish = tuple[Target, SourceChoice]

LARGEST = MAX_BLOB
# Fewer are fetched one by one, which shares them among all peers.
MIN_GROUP = 8
MAX_GROUP = 128
# Bytes of a group that are in memory; and groups at once: one is fetched while another is stored.
MAX_BYTES = 4 * 1024 * 1024
MAX_GROUPS = 2
# Peers that are asked, one after the other, for what the ones before had not; and the time for all of them. Who waits
# for one blob of a group waits for the group.
MAX_PEERS = 3
PATIENCE = 10.0
USUAL_PRIORITY = 3

log = get_logger(__name__)


@runtime_checkable
class GivesSmall(Protocol):
    """A source that can be asked for many small blobs at once."""

    async def small(
        self,
        wanted: Sequence[Wanted],
        pace: Callable[[], Awaitable[None]],
        take: Callable[[int, bytes], None],
    ) -> None:
        """See :meth:`peatnet.net.peer_source.PeerSource.small`."""
        ...


@dataclass(slots=True, eq=False)
class Member:
    """One of a group.

    Attributes:
        target: what is wanted: this model, which is this blob.
        key: what it is noted under when it can't be had this way.
        twin: another model has the same blob; its turn comes when this one's has ended.
        wanted: whether anybody still waits for it.
        storing: it is on its way to the disk, which can't be stopped.
        info: the verified blob, its model ready; None where it was not had this way.
        source: who sent it.
    """

    target: Target
    model: Model
    blob: Hash
    key: RetryKey
    twin: bool = False
    wanted: bool = True
    storing: bool = False
    info: BlobInfo | None = None
    source: str | None = None


class SmallFetches:
    """The groups of one node. Belongs to the trio thread.

    Args:
        library: where the blobs go.
        peers: the network; None without one.
        rng: whom to ask.
        budget: what the downloads of the node share; None for no bounds.
    """

    def __init__(
        self,
        library: Library,
        peers: Peers | None,
        rng: random.Random,
        budget: DownloadBudget | None,
    ) -> None:
        self._library = library
        self._peers = peers
        self._rng = rng
        self._budget = budget
        self._running = 0
        self._waiting: deque[Target] = deque()
        # By name, the records whose blobs could not be had in a group.
        self._singly: dict[str, bytes] = {}

    def pick(self, queue: deque[Wish]) -> deque[Wish]:
        """Look over all that is wanted and due; what will be fetched in groups waits here, the rest is returned.

        What waited here before is forgotten.
        """
        self._singly = {
            name: record
            for name, record in (retry_key(target) for target, _ in queue)
            if self._singly.get(name) == record
        }
        small: deque[Target] = deque()
        others: deque[Wish] = deque()
        for wish in queue:
            if self._takes(wish[0]):
                small.append(wish[0])
            else:
                others.append(wish)
        if len(small) < MIN_GROUP:
            self._waiting.clear()
            return queue
        self._waiting = small
        return others

    def _takes(self, target: Target) -> bool:
        if self._peers is None or not self._peers.connected or target.model is None:
            return False
        manifest, (name, record) = target.model.manifest, retry_key(target)
        return (
            target.blob is not None
            and 0 < manifest.size_bytes <= LARGEST
            and manifest.chunks is not None
            and manifest.size_bytes <= manifest.chunks.chunk_size
            and self._singly.get(name) != record
            and self._library.store.info(target.blob) is None
        )

    def again(self, name: str) -> None:
        """Somebody who has it has come."""
        self._singly.pop(name, None)

    def begin(self, may_start: Callable[[Target], bool]) -> list[Member]:
        """Make the next group, which is to be :meth:`run` then; empty where none is to be begun now.

        Args:
            may_start: says whether a target is to be fetched still.
        """
        group: dict[str, Member] = {}
        size = 0
        while self._waiting and self._running < MAX_GROUPS and len(group) < MAX_GROUP:
            target = self._waiting[0]
            model, blob, key = target.model, target.blob, retry_key(target)
            if key[0] in group:
                group[key[0]].twin = True
            elif model is not None and blob is not None and may_start(target):
                size += model.manifest.size_bytes
                if size > MAX_BYTES:
                    break
                group[key[0]] = Member(target, model, blob, key)
            self._waiting.popleft()
        self._running += bool(group)
        return list(group.values())

    async def run(self, group: Sequence[Member]) -> None:
        """Fetch a group. At the end each member is here and ready (``info``), or left to the ordinary fetch.

        Cancellation: what was not on its way to the disk is dropped.
        """
        got: dict[Member, SmallBlob] = {}
        try:
            try:
                with trio.move_on_after(PATIENCE):
                    await self._fetch(group, got)
            except* PeatnetError as exc:
                # A stream that broke just when the time was over.
                log.debug("small blobs: fetch ended", reason=str(exc.exceptions[0]))
            await self._store({member: blob for member, blob in got.items() if member.wanted})
        except PeatnetError as exc:
            log.warning("small blobs not stored together", count=len(got), error=exc.message)
        finally:
            self._running -= 1
            for member in group:
                if member.info is None:
                    name, record = member.key
                    self._singly[name] = record

    # The bytes

    async def _fetch(self, group: Sequence[Member], got: dict[Member, SmallBlob]) -> None:
        tables = {member: table for member in group if (table := _table(member)) is not None}
        if not tables:
            return
        unit = -(-sum(table.size for table in tables.values()) // len(tables))
        # A request counts as one of the mean size, so all of them count as what they are.
        with Pacer(self._budget, USUAL_PRIORITY, unit) as pacer:
            for peer_id in self._whom_to_ask(group):
                left = [m for m in tables if m not in got and m.wanted]
                if left:
                    await self._ask(peer_id, left, tables, pacer.wait, got)

    def _whom_to_ask(self, group: Sequence[Member]) -> list[str]:
        """Whoever published most of them is the likeliest to have them."""
        published = [member.model.publisher for member in group]
        peers = sorted(self._peers.connected if self._peers is not None else ())
        self._rng.shuffle(peers)
        peers.sort(key=published.count, reverse=True)
        return peers[:MAX_PEERS]

    async def _ask(
        self,
        peer_id: str,
        members: list[Member],
        tables: dict[Member, ChunkTable],
        pace: Callable[[], Awaitable[None]],
        got: dict[Member, SmallBlob],
    ) -> None:
        if self._peers is None or peer_id not in self._peers.connected:
            return
        source = self._peers.source(peer_id)
        if not isinstance(source, GivesSmall):
            return

        def take(number: int, data: bytes) -> None:
            member = members[number]
            if not tables[member].matches(0, data):
                raise IntegrityError(f"what was sent as {member.blob} is something else")
            sha256 = member.model.manifest.sha256
            computed = hashlib.sha256(data).hexdigest() if sha256 else None
            # Where the manifest contradicts the blob that it names, the ordinary fetch finds the words.
            if not sha256 or computed == sha256.lower():
                got[member] = SmallBlob(member.blob, tables[member], computed, data)
                member.source = source.name

        try:
            await source.small([Wanted(m.blob, tables[m].size) for m in members], pace, take)
        except IntegrityError as exc:
            # It was not asked which table it goes by: only the ordinary fetch can tell a lie from a mistake.
            log.info("small blobs: wrong bytes", peer=peer_id, reason=exc.message)
        except (NoSource, RemoteProtocolError) as exc:
            # Of what breaks the protocol, the source itself has told those who count offences.
            log.debug("small blobs: peer of no use", peer=peer_id, reason=exc.message)

    # The disk

    async def _store(self, got: dict[Member, SmallBlob]) -> None:
        if not got:
            return
        for member in got:
            member.storing = True
        library = self._library

        def store() -> list[tuple[Member, BlobInfo]]:
            infos = library.store.add_small(list(got.values()))
            # One that was here already may lack the SHA-256 that the manifest gives.
            done = [
                (member, info)
                for member in got
                if (info := infos.get(member.blob)) is not None
                and (info.sha256 is not None or not member.model.manifest.sha256)
            ]
            library.set_ready_all([(member.model, info) for member, info in done])
            return done

        for member, info in await trio.to_thread.run_sync(store):
            member.info = info
        log.info("verified together", blobs=len(got), bytes=sum(len(b.data) for b in got.values()))


def _table(member: Member) -> ChunkTable | None:
    """The signed table of a blob of one chunk, whose digest is the blob's own; None where it is not signed so."""
    search = TableSearch(member.target, Stirring())
    offer = search.of_one_chunk(member.blob)
    return offer.table if offer is not None else None
