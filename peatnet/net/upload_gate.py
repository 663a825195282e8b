"""The one gate of a node that every chunk goes through on its way out, over a stream or a lane.

So does a piece of a chunk table that is as long as a chunk. Shorter answers do not wait; they are charged.

Who may send next, and when, is decided by :mod:`peatnet.swarm.uploads`; what is put off because another downloader
has it, by :mod:`peatnet.swarm.spread`. This puts both behind a lock, since lanes live in worker threads, and wakes
the queue when a limit lets the next chunk go.
"""

from __future__ import annotations

import math
import time
from enum import Enum, auto
from threading import Lock, RLock
from typing import TYPE_CHECKING

import trio

from peatnet.blobs import MIN_CHUNK_SIZE
from peatnet.swarm.spread import Spread
from peatnet.swarm.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Callable

    # libp2p brings trio-typing, whose stubs hide trio's own types from the type checker.
    from peatnet.blobs import Hash
    from peatnet.swarm.flows import Job

# A piece of a chunk table that has so many bytes waits for its turn like a chunk: no chunk is smaller.
WAITS_FROM = MIN_CHUNK_SIZE


class _State(Enum):
    WAITING = auto()
    GOING = auto()
    ENDED = auto()


class UploadGate:
    """Decides when chunks go out. Thread-safe; one a node.

    Args:
        rate: bytes a second of all uploads together; None for no limit.
        per_peer: bytes a second to one peer; None for no limit.
        clock: seconds, never backwards, the same in all threads.

    Raises:
        LocalProtocolError: a rate is not above 0.
    """

    def __init__(
        self,
        *,
        rate: float | None = None,
        per_peer: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._lock = Lock()
        self._uploads = Uploads(rate, per_peer, clock())
        self._spread = Spread()
        self._passes: dict[Job, Pass] = {}
        self._sent_bytes = 0
        self._trio: trio.lowlevel.TrioToken | None = None
        self._stir = trio.Event()
        self._armed = math.inf  # when `run` wakes by itself
        self._looking = False  # `run` is about to see when that is

    @property
    def rates(self) -> tuple[float | None, float | None]:
        """The limits: on all uploads together, and on one peer."""
        return self._uploads.rate, self._uploads.per_peer

    @property
    def sent_bytes(self) -> int:
        """Bytes of chunks and answers that were sent, to anybody, since the gate was made."""
        return self._sent_bytes

    def set_rates(self, rate: float | None, per_peer: float | None) -> None:
        """Change the limits; what waits is let out as the new ones allow.

        Raises:
            LocalProtocolError: a rate is not above 0; nothing has changed then.
        """
        with self._lock:
            self._uploads.set_rates(rate, per_peer, self._clock())
        self._let_out()

    def joined(self, blob: Hash, peer_id: str) -> None:
        """A session in which a peer downloads this blob has begun; `left` is to be told of its end."""
        with self._lock:
            self._spread.joined(blob, peer_id)

    def left(self, blob: Hash, peer_id: str) -> None:
        """Such a session has ended."""
        with self._lock:
            self._spread.left(blob, peer_id)

    def defers(self, blob: Hash, n_chunks: int, index: int, peer_id: str) -> bool:
        """Whether a request is to be answered with ``no: later``. Only complete holders ask.

        At most once for one peer and chunk, for as long as the peer is here. Where it is False the chunk counts as
        given to that peer, unless its pass ends without it having been sent.
        """
        with self._lock:
            return self._spread.defers(blob, n_chunks, index, peer_id)

    def submit(
        self,
        blob: Hash,
        index: int | None,
        peer_id: str,
        priority: int,
        size: int,
        go: Callable[[], None],
    ) -> Pass:
        """A chunk wants to go out.

        The caller bounds how many of them wait: a few for each session.

        Args:
            blob: whose chunk it is.
            index: its number; None for a piece of the blob's chunk table.
            peer_id: who gets it.
            priority: 1 (most urgent) to 5, as the peer says.
            size: its bytes.
            go: called exactly once when it may be sent, from any thread, perhaps before this returns; never after
                the pass was withdrawn. It must be quick and must not raise.

        Raises:
            LocalProtocolError: the priority or the size is out of bounds.
        """
        with self._lock:
            job = self._uploads.submit(peer_id, priority, size, self._clock())
            ticket = self._passes[job] = Pass(self, job, blob, index, go)
        self._let_out()
        return ticket

    def charge(self, peer_id: str, size: int) -> None:
        """An answer of so many bytes, perhaps none, goes to a peer now. See that `answer_wait` is 0 before."""
        if size:
            with self._lock:
                self._uploads.charge(peer_id, size, self._clock())
                self._sent_bytes += size

    def answer_wait(self, peer_id: str) -> float:
        """Seconds until the next question of a peer may be answered, over whatever it comes; 0 for now."""
        with self._lock:
            now = self._clock()
            return self._uploads.answer_at(peer_id, now) - now

    def _end(self, ticket: Pass, *, sent: bool) -> None:
        with self._lock:
            job = ticket.job
            if self._passes.pop(job, None) is not None:
                self._uploads.withdraw(job)
            else:
                self._uploads.done(job, self._clock())
            if sent:
                self._sent_bytes += job.size
            elif ticket.index is not None:
                self._spread.not_given(ticket.blob, ticket.index, job.flow.peer_id)
        self._let_out()

    def _let_out(self) -> None:
        """Call ``go`` of all that may go now, without the lock: it may come back here."""
        while True:
            with self._lock:
                now = self._clock()
                job = self._uploads.next(now)
                if job is None:
                    self._wake_at(self._uploads.next_wakeup(now))
                    return
                ticket = self._passes.pop(job)
            ticket.let_go()

    def _wake_at(self, due: float) -> None:
        """Have `run` look again at this time. Under the lock, in any thread."""
        if due < self._armed:
            self._armed = due
            if self._trio is not None and not self._looking:
                self._trio.run_sync_soon(self._stir.set)

    async def run(self) -> None:
        """Let chunks out when the limits' time comes, until cancelled. One task of the node runs this."""
        self._trio = trio.lowlevel.current_trio_token()
        try:
            while True:
                self._stir = trio.Event()
                with self._lock:
                    self._armed = math.inf
                    self._looking = True
                self._let_out()
                with self._lock:
                    self._looking = False
                with trio.move_on_after(max(0.0, self._armed - self._clock())):
                    await self._stir.wait()
        finally:
            self._trio = None


class Pass:
    """One chunk's way through the gate, or that of a piece of a table."""

    __slots__ = ("_gate", "_go", "_lock", "_state", "blob", "index", "job")

    def __init__(
        self, gate: UploadGate, job: Job, blob: Hash, index: int | None, go: Callable[[], None]
    ) -> None:
        self.job = job
        self.blob = blob
        self.index = index
        self._gate = gate
        self._go = go
        self._state = _State.WAITING
        # Held while `go` runs, so that it has either run or never will when `withdraw` returns.
        self._lock = RLock()

    def done(self, sent: bool) -> None:  # noqa: FBT001  # one fact, named by the method
        """The chunk was handed to the kernel, or failed; to be told after ``go``. Said again, it changes nothing."""
        self._finish(sent=sent)

    def withdraw(self) -> None:
        """The chunk is not wanted any more. If ``go`` was called before, this is ``done(False)``."""
        self._finish(sent=False)

    def let_go(self) -> None:
        """The gate's side: its time has come."""
        with self._lock:
            if self._state is _State.WAITING:
                self._state = _State.GOING
                self._go()

    def _finish(self, *, sent: bool) -> None:
        with self._lock:
            if self._state is _State.ENDED:
                return
            self._state = _State.ENDED
        self._gate._end(self, sent=sent)  # noqa: SLF001  # the two are one thing
