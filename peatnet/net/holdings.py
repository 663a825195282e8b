"""What a downloader is told of a holder's chunks in one session, checked before the engine hears of it.

Both carriers, stream and lane, give what comes in to one :class:`Holdings`, which sees to what docs/protocol.md says:
an answer to a question only, pushes only to one who watches, and no chunk told twice, so that nobody can keep us busy
with news for ever. No I/O and no engine: it says what to tell the link. What it raises as RemoteProtocolError is an offence.

A carrier does this with a reply, before and after it reads the payload::

    HaveReply   holdings.expect(reply, length); link.has(holdings.have(reply, payload))
    More        holdings.expect(reply, length); gained = holdings.more(reply, payload)
                link.has(None) if gained is None else link.gained(gained)
    Refusal     of number HAVE_NUMBER: link.has(holdings.refusal(refusal)); of a chunk, LATER: see Patience
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peatnet.blobs import Bitmap
from peatnet.errors import NoSource, RemoteProtocolError
from peatnet.net.blob_messages import (
    BUSY,
    MAX_MORE,
    HaveReply,
    HaveRequest,
    More,
    Refusal,
    unpack_indices,
)
from peatnet.net.standing import Allowance

if TYPE_CHECKING:
    from peatnet.blobs import ChunkTable, Hash

# The number of the standing question. That of a chunk request is its index plus one, since a chunk is asked for at
# most once at a time in one session.
HAVE_NUMBER = 0
# A holder begins anew when its own download is stopped and started. More often than this is a flood.
ANEW_RATE = 1.0
ANEW_BURST = 20.0


class Holdings:
    """One session's view of what its holder has. Belongs to one thread.

    Args:
        peer_id: the holder, for messages.
        blob: what is fetched.
        table: its chunk table.
        watch: whether the questions ask for pushes.
    """

    def __init__(self, peer_id: str, blob: Hash, table: ChunkTable, *, watch: bool) -> None:
        self._peer_id = peer_id
        self._blob = blob
        self._table = table
        self._watch = watch
        self._asked = False  # and not answered yet
        self._ever_answered = False
        self._here: Bitmap | None = (
            None  # as told; None where the holder had nothing when it spoke last
        )
        self._anew = Allowance(ANEW_RATE, ANEW_BURST)

    @property
    def asked(self) -> bool:
        """Whether the question is out. It may be put again when it is not."""
        return self._asked

    def question(self, priority: int) -> HaveRequest:
        """The question what the holder has, which is sent now."""
        self._asked = True
        return HaveRequest(HAVE_NUMBER, self._blob, self._watch, priority)

    def expect(self, reply: HaveReply | More, length: int) -> None:
        """Check the length of a payload before it is read.

        Raises:
            RemoteProtocolError: it is none that could be.
        """
        if isinstance(reply, More):
            fits = not length if reply.full else 0 < length <= 4 * MAX_MORE
        else:
            n_chunks = -(-reply.size // reply.chunk_size)
            fits = length == (0 if reply.full else (n_chunks + 7) // 8)
        if not fits:
            raise RemoteProtocolError(f"{self._peer_id}: news of {length} bytes")

    def have(self, reply: HaveReply, payload: bytes, now: float) -> bytes | None:
        """Take what is told to be there in place of all before: the bitmap for the link, None for all chunks.

        Args:
            reply: the header.
            payload: the bitmap, whose length was checked.
            now: seconds, on any clock.

        Raises:
            NoSource: the blob is cut into other chunks there.
            RemoteProtocolError: nobody asked, or the bitmap claims chunks that the blob does not have.
        """
        if reply.number != HAVE_NUMBER or not (self._asked or self._pushed(now)):
            raise RemoteProtocolError(f"{self._peer_id}: an answer that nobody asked for")
        self._asked = False
        self._ever_answered = True
        table = self._table
        if (reply.size, reply.chunk_size, reply.table_hash) != (
            table.size,
            table.chunk_size,
            table.table_hash,
        ):
            # No offence: it may have the blob from another publisher, who cut it in another way, or hold
            # the table of somebody who lied to it.
            raise NoSource(f"{self._peer_id}: its chunk table is not this download's")
        n_chunks = table.n_chunks
        self._here = Bitmap.full(n_chunks) if reply.full else Bitmap.from_bytes(payload, n_chunks)
        return None if reply.full else payload

    def more(self, reply: More, payload: bytes) -> tuple[int, ...] | None:
        """Take a push: the indices for the link, None for all chunks.

        Raises:
            RemoteProtocolError: nobody watches, or it names what is not there or was named before.
        """
        here = self._here
        if not self._watch or here is None or reply.number != HAVE_NUMBER or here.all():
            raise RemoteProtocolError(f"{self._peer_id}: news that nobody asked for")
        if reply.full:
            self._here = Bitmap.full(len(here))
            return None
        indices = unpack_indices(payload)
        for index in indices:
            if index >= len(here) or not here.set(index):
                raise RemoteProtocolError(f"{self._peer_id}: news of chunk {index}")
        return indices

    def refusal(self, refusal: Refusal) -> bytes:
        """Take a refusal of the question: the bitmap for the link, which is empty.

        Raises:
            NoSource: the peer has no room for us.
            RemoteProtocolError: nobody asked.
        """
        if not self._asked:
            raise RemoteProtocolError(f"{self._peer_id}: an answer that nobody asked for")
        self._asked = False
        self._ever_answered = True
        if refusal.reason == BUSY:
            raise NoSource(f"{self._peer_id}: busy")
        # It has nothing yet. It will tell when it gets some.
        self._here = None
        return bytes((self._table.n_chunks + 7) // 8)

    def _pushed(self, now: float) -> bool:
        """Whether the holder may begin anew without being asked."""
        if not self._watch or not self._ever_answered:
            return False
        if self._here is not None and self._here.all():
            return False  # who has all has nothing to add
        return self._anew.take(now)


class Patience:
    """How often a holder may say ``later`` in one session: once for each chunk."""

    def __init__(self) -> None:
        self._put_off: set[int] = set()

    def has_for(self, index: int) -> bool:
        """Whether the chunk may be put off: not, when it was before. Then the refusal is a failure like others."""
        if index in self._put_off:
            return False
        self._put_off.add(index)
        return True
