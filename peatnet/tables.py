"""Finding the chunk table of a blob: the signed one where a trusted publisher signed one, else one on trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from peatnet.blobs import ChunkTable
from peatnet.concurrency import Stirring
from peatnet.errors import NoSource, RemoteProtocolError
from peatnet.log import get_logger
from peatnet.net.standing import Offence
from peatnet.transfer import Source

if TYPE_CHECKING:
    from peatnet.blobs import Hash
    from peatnet.net.claims import Claims
    from peatnet.net.peer_source import GivenTable
    from peatnet.targets import Target

# How often the connected peers are looked over for new sources, in seconds; new connections and announcements
# are heard of at once.
LOOK_AROUND = 2.0
# The publisher is asked before all others, and these a few at a time: a table comes from one, and asking everybody
# at once is work for everybody. Nobody is waited for longer than this, in seconds, before the next few are asked.
HEAD_START = 0.3
ASK_AT_ONCE = 4

log = get_logger(__name__)


class Peer(Source, Protocol):
    """A peer, as a source and as who gives chunk tables."""

    async def given_table(self, blob: Hash) -> GivenTable | None:
        """Ask for a chunk table; None where there is none to give. Raises as ``Source.table``."""
        ...


class Peers(Protocol):
    """What fetching needs of the network."""

    @property
    def connected(self) -> frozenset[str]:
        """The peers that we are connected to."""
        ...

    @property
    def claims(self) -> Claims:
        """Who fetches what from its origin."""
        ...

    def source(self, peer_id: str) -> Peer:
        """A connected peer as a source."""
        ...

    def offend(self, peer_id: str, offence: Offence, reason: str) -> None:
        """Count a peer's offence."""
        ...


@dataclass(frozen=True, slots=True)
class Offer:
    """A chunk table, and who gave it: None where a trusted publisher's signature stands behind it.

    A giver that vouches for it says that it has verified the whole by it. Any other may be as new to the blob as we
    are, and pass on what somebody gave to it.
    """

    table: ChunkTable
    giver: str | None
    vouched: bool = False


class TableSearch:
    """Asks peers for the chunk table of one target.

    Args:
        target: what is wanted.
        stirring: stirred when a peer connects or announces this blob.

    Attributes:
        liars: peers that vouched for a wrong table, and are used for nothing any more.
        disagreeing: those whose table is not the signed one.
        misled: those who had a wrong table on trial, and are not asked for it again. They may get the right one, and
            the chunks by it, from others.
        publisher: who signed the manifest, and most likely has the blob; None without a manifest.
    """

    def __init__(self, target: Target, stirring: Stirring) -> None:
        manifest = target.model.manifest if target.model is not None else None
        self._what = str(target.model) if target.model is not None else f"blob {target.blob}"
        self._trusted = target.model is not None and target.model.trusted
        self._hint = manifest.chunks if manifest is not None else None
        self._size = manifest.size_bytes if manifest is not None else 0
        self._stirring = stirring
        self.publisher = target.model.publisher if target.model is not None else None
        self.liars: set[str] = set()
        self.disagreeing: set[str] = set()
        self.misled: set[str] = set()
        self._wrong: set[tuple[Hash, int, int]] = set()

    def of_one_chunk(self, blob: Hash) -> Offer | None:
        """The signed table of a blob that is one chunk, whose digest is the blob's own; None for any other."""
        if self._hint is None or not 0 < self._size <= self._hint.chunk_size:
            return None
        table = ChunkTable.of_one_chunk(blob, self._size, self._hint.chunk_size)
        return Offer(table, None) if self.is_signed(table) else None

    async def run(self, peers: Peers, blob: Hash) -> Offer:
        """Ask every peer that is or comes connected, again and again, until one has the table.

        Each peer is waited for by itself, so that one that never answers is in nobody's way. A table that nobody
        answers for waits a moment for one that somebody does.
        """
        found: list[Offer] = []
        asking: set[str] = set()
        answered = Stirring()

        async def ask(peer_id: str) -> None:
            offer = await self._ask_one(peers, blob, peer_id)
            asking.discard(peer_id)
            answered.stir()
            if offer is None:
                return
            found.append(offer)
            if not _is_sure(offer):
                await trio.sleep(HEAD_START)
            nursery.cancel_scope.cancel()

        async def look_around() -> None:
            while True:
                stirred = self._stirring.event
                useless = self.liars | self.disagreeing | self.misled
                unasked = peers.connected - useless - asking
                for group in self._in_groups(unasked):
                    for peer_id in group:
                        asking.add(peer_id)
                        nursery.start_soon(ask, peer_id)
                    with trio.move_on_after(HEAD_START):
                        while not asking.isdisjoint(group):
                            await answered.event.wait()
                with trio.move_on_after(LOOK_AROUND):
                    await stirred.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_around)
        return max(found, key=_is_sure)

    def _in_groups(self, peers: frozenset[str]) -> list[list[str]]:
        """Whom to ask in which order: the publisher alone, then a few at a time."""
        groups = (
            [[self.publisher]] if self.publisher is not None and self.publisher in peers else []
        )
        others = sorted(peers - {self.publisher})
        return groups + [others[i : i + ASK_AT_ONCE] for i in range(0, len(others), ASK_AT_ONCE)]

    async def _ask_one(self, peers: Peers, blob: Hash, peer_id: str) -> Offer | None:
        try:
            given = await peers.source(peer_id).given_table(blob)
        except NoSource as exc:
            log.debug("no chunk table", peer=peer_id, reason=exc.message)
            return None
        except RemoteProtocolError as exc:
            peers.offend(peer_id, Offence.MALFORMED, exc.message)
            return None
        if given is None or (offer := self._judge(given, peer_id)) is None:
            return None
        if offer.giver is not None and _shape(offer.table) in self._wrong:
            self.refute(peers, offer, "its chunk table had led astray before")
            return None
        return offer

    def _judge(self, given: GivenTable, peer_id: str) -> Offer | None:
        table = given.table
        if self.is_signed(table):
            return Offer(table, None)
        if self._trusted and self._hint is not None:
            # It may have cut the blob into chunks of another size, or it lies, or the publisher signed a wrong
            # hash: nobody can tell from here, so nobody is accused. Its table is of no use to this fetch.
            self.disagreeing.add(peer_id)
            log.warning("chunk table is not the signed one", peer=peer_id, target=self._what)
            return None
        if self._size and table.size != self._size:
            return None
        return Offer(table, peer_id, given.vouched)

    def refute(self, peers: Peers, offer: Offer, reason: str) -> None:
        """This table on trial is not the blob's: all chunks matched it, and the whole is not the blob.

        Who vouched for it lied. Who did not may be as honest as we are.
        """
        self._wrong.add(_shape(offer.table))
        if offer.giver is None:
            return
        if offer.vouched:
            self.liars.add(offer.giver)
            peers.offend(offer.giver, Offence.WRONG_TABLE, reason)
        else:
            self.misled.add(offer.giver)
            log.warning("a chunk table led astray", peer=offer.giver, target=self._what)

    def is_signed(self, table: ChunkTable) -> bool:
        """Whether a trusted publisher signed this table's hash."""
        return (
            self._trusted
            and self._hint is not None
            and table.table_hash.hex() == self._hint.table_hash
            and table.chunk_size == self._hint.chunk_size
        )


def _is_sure(offer: Offer) -> bool:
    return offer.giver is None or offer.vouched


def _shape(table: ChunkTable) -> tuple[Hash, int, int]:
    return table.table_hash, table.chunk_size, table.size
