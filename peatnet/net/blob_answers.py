"""What a holder answers in one session of ``/peatnet/blob/1``, whatever carries it: a stream or a lane.

Nothing here waits for the network, so trio tasks and worker threads use it alike. A carrier makes one
:class:`Answers` for each stream or lane, and does this with what comes in::

    have    send answers.have(request)
    table   send answers.table(request); a long piece passes the gate first, like a chunk
    get     refusal = answers.want(request); send it if there is one. Otherwise, when the chunk's turn comes:
            view = buffer[: answers.length_of(index)]
            if answers.read(index, view): pass the gate, then send chunk_header(request) and the view
            else: send refused(request, ABSENT)

Before a request for another blob than ``answers.blob`` is answered, the chunks wanted before must have been sent.
Where ``answers.cold_for(request)`` is true the answer takes a look at the disk: not for the trio thread.

News, for those who watch. ``on_news`` is called, in any thread, when there may be some; ``answers.news()`` then gives
the next push, or None. It is called once and not again before ``news()`` has returned None: so call ``news()``
again and again, in whatever rhythm (see :mod:`peatnet.net.blob_news`), until it returns None. What ``have`` and
``news`` return must go out in the order in which they were called; both may be called by different threads.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from peatnet.errors import NotFound, StorageError
from peatnet.net.blob_messages import (
    ABSENT,
    LATER,
    MAX_MORE,
    USUAL_PRIORITY,
    ChunkReply,
    ChunkRequest,
    HaveReply,
    HaveRequest,
    More,
    Refusal,
    Request,
    TableReply,
    TableRequest,
    pack_indices,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from peatnet.blobs import Hash, Reader, Store
    from peatnet.net.upload_gate import UploadGate


class Answer(NamedTuple):
    """A frame that is ready to be sent."""

    header: dict[str, Any]
    payload: Buffer = b""


def refused(request: Request, reason: str) -> Answer:
    """A refusal of this request."""
    return Answer(Refusal(request.number, reason).header())


def chunk_header(request: ChunkRequest) -> dict[str, Any]:
    """The header of the chunk that was asked for."""
    return ChunkReply(request.number, request.index).header()


class Answers:
    """One session's state: the blob asked for last, and what its downloader has been told of it. Thread-safe.

    Args:
        store: where the blobs are.
        peer_id: who asks.
        gate: knows what others got, and is told who downloads. Chunks have to pass it, which is the carrier's to do.
        on_news: see the module's docstring; must be quick and not raise.

    Attributes:
        blob: the one that was asked for last.
        priority: of the session's download, 1 (most urgent) to 5.
    """

    def __init__(
        self,
        store: Store,
        peer_id: str,
        gate: UploadGate,
        on_news: Callable[[], None],
    ) -> None:
        self.blob: Hash | None = None
        self.priority = USUAL_PRIORITY
        self._store = store
        self._peer_id = peer_id
        self._gate = gate
        self._wake = on_news
        # Guards everything below. Taken before the other, which guards the reader while a chunk is read: trio's
        # thread must not wait for the disk, but when the reader is closed.
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._reader: Reader | None = None
        self._joined = False  # the gate knows of us
        self._closed = False
        self._watch: int | None = None  # the number of the have request that watches
        self._said = False  # the watcher was told the blob's shape and what was here at the mark
        self._mark = 0

    def cold_for(self, request: Request) -> bool:
        """Whether answering this may need the disk."""
        reader = self._reader
        return request.blob != self.blob or (
            isinstance(request, HaveRequest) and (reader is None or reader.stale)
        )

    @property
    def cold(self) -> bool:
        """Whether ``news`` may need the disk."""
        reader = self._reader
        return self._watch is not None and (reader is None or reader.stale)

    def have(self, request: HaveRequest) -> Answer:
        """What is here. From now on ``news`` tells what comes, if the request watches.

        Raises:
            StorageError: the blob cannot be opened.
        """
        with self._lock:
            self._turn_to(request.blob)
            self.priority = request.priority
            self._stop_watching()
            if request.watch and not self._closed:
                self._join()
                self._watch = request.number
                self._store.wake_on_news(request.blob, self._wake)
            self._freshen()
            reply = self._state(request.number)
            if reply is None:
                self._said = False
                return refused(request, ABSENT)
            return reply

    def table(self, request: TableRequest) -> Answer:
        """A piece of the chunk table; empty beyond its end.

        Raises:
            StorageError: the blob cannot be opened.
        """
        with self._lock:
            self._turn_to(request.blob)
            if self._reader is None:
                return refused(request, ABSENT)
            digests = memoryview(self._reader.table.digests)
            piece = digests[request.first * 32 : (request.first + request.count) * 32]
            return Answer(TableReply(request.number).header(), piece)

    def want(self, request: ChunkRequest) -> Answer | None:
        """Judge a request for a chunk: a refusal, or None where the chunk is to be sent.

        Raises:
            StorageError: the blob cannot be opened.
        """
        with self._lock:
            self._turn_to(request.blob)
            reader = self._reader
            if reader is None or not reader.has(request.index):
                return refused(request, ABSENT)
            self._join()
            if reader.complete and self._gate.defers(
                request.blob, reader.n_chunks, request.index, self._peer_id
            ):
                return refused(request, LATER)
            return None

    def length_of(self, index: int) -> int:
        """Bytes of a chunk that was wanted; 0 where it cannot be had any more."""
        reader = self._reader
        return 0 if reader is None or not reader.has(index) else reader.table.length_of(index)

    def read(self, index: int, view: memoryview) -> bool:
        """Read a chunk that was wanted, filling the view; False where it cannot be had any more. Uses the disk."""
        with self._reading:
            # The blob may have been thrown away and begun anew, and be cut otherwise.
            if self._reader is None or not view or self.length_of(index) != len(view):
                return False
            try:
                self._reader.read_into(index, view)
            except (NotFound, StorageError):
                # Thrown away meanwhile, or the disk failed us: we do not have it. `verify` finds out why.
                return False
            return True

    def news(self) -> Answer | None:
        """The next push, or None where there is nothing new to tell.

        Raises:
            StorageError: the blob cannot be opened.
        """
        with self._lock:
            if self._watch is None or self.blob is None:
                return None
            news = self._news(self._watch)
            if news is None and self._watch is not None:
                # Wait first, look afterwards, and nothing is missed.
                self._store.wake_on_news(self.blob, self._wake)
                news = self._news(self._watch)
                if news is not None:
                    self._store.let_sleep(self.blob, self._wake)
            return news

    def close(self) -> None:
        """End the session; a read under way is waited for. Closing again does nothing."""
        with self._lock:
            self._closed = True
            self._leave()

    # All below: under the lock.

    def _turn_to(self, blob: Hash) -> None:
        if blob == self.blob or self._closed:
            return
        self._leave()
        self.blob = blob
        self._reader = self._store.open_reader(blob)

    def _leave(self) -> None:
        self._stop_watching()
        if self._joined and self.blob is not None:
            self._gate.left(self.blob, self._peer_id)
        self._joined = False
        self._drop_reader()

    def _drop_reader(self) -> None:
        with self._reading:
            if self._reader is not None:
                self._reader.close()
            self._reader = None

    def _join(self) -> None:
        if not self._joined and not self._closed and self.blob is not None:
            self._joined = True
            self._gate.joined(self.blob, self._peer_id)

    def _stop_watching(self) -> None:
        if self._watch is not None and self.blob is not None:
            self._watch = None
            self._store.let_sleep(self.blob, self._wake)

    def _freshen(self) -> None:
        """Have a reader that tells how things are now, if there is anything to read."""
        if self.blob is None or self._closed:
            return
        if self._reader is not None and not self._reader.stale:
            return
        self._drop_reader()
        self._reader = self._store.open_reader(self.blob)
        self._said = False

    def _state(self, number: int) -> Answer | None:
        """All that is here, marked as said; None where the blob is not."""
        reader = self._reader
        if reader is None:
            return None
        table, full = reader.table, self._verified(reader)
        bitmap, self._mark = reader.mark()
        self._said = True
        if int.from_bytes(bitmap, "little").bit_count() == table.n_chunks:
            self._stop_watching()  # there is nothing to add
        reply = HaveReply(number, table.size, table.chunk_size, table.table_hash, full)
        return Answer(reply.header(), b"" if full else bitmap)

    def _verified(self, reader: Reader) -> bool:
        """Whether the whole was found to be the blob, by this table.

        Who says that it has all answers for its table. All chunks of one that nobody signed may be here and match it,
        and be something else.
        """
        info = self._store.info(reader.hash) if reader.complete else None
        return info is not None and info.table == reader.table

    def _news(self, number: int) -> Answer | None:
        self._freshen()
        reader = self._reader
        if reader is None:
            return None
        if not self._said:
            # Worth a word as soon as there is a chunk. The shape comes first, or again.
            return self._state(number) if any(reader.mark()[0]) else None
        if reader.complete:
            self._stop_watching()
            return Answer(More(number, full=True).header())
        gained = reader.gained(self._mark, MAX_MORE)
        if not gained:
            return None
        self._mark += len(gained)
        return Answer(More(number, full=False).header(), pack_indices(gained))
