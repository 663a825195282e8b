"""Sending through the upload gate from a trio task: wait for the turn, send, and give the place back in time."""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from peatnet.blobs import Hash
    from peatnet.net.blob_answers import Answer
    from peatnet.net.frames import FrameStream
    from peatnet.net.upload_gate import Pass, UploadGate

# What takes longer than this to send, but at most twice as long, keeps its place in the gate no longer: a peer that
# reads nothing must not hold up the others.
PLACE_PATIENCE = 3.0


class Turns:
    """The places in the gate of what goes out over one stream. Made in the trio thread, and used there.

    Args:
        gate: which all of it passes.
        frames: the stream.
    """

    def __init__(self, gate: UploadGate, frames: FrameStream) -> None:
        self._gate = gate
        self._frames = frames
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()
        self._places: set[Pass] = set()

    async def send(self, blob: Hash, index: int | None, priority: int, answer: Answer) -> None:
        """Send a frame when its turn has come.

        Args:
            blob: what it is of.
            index: of its chunk; None where it is no single chunk.
            priority: 1 (most urgent) to 5.
            answer: the frame.

        Cancellation: its place is given back. A frame that has begun may be cut.

        Raises:
            PeerLost: the peer is gone, or takes bytes too slowly.
        """
        may_go = trio.Event()
        go = partial(self._let_go, may_go)
        size = memoryview(answer.payload).nbytes
        place = self._gate.submit(blob, index, self._frames.peer_id, priority, size, go)
        try:
            await may_go.wait()
            self._places.add(place)
            await self._frames.send(*answer)
            place.done(sent=True)
        finally:
            self._places.discard(place)
            place.withdraw()  # nothing, when it is done

    def _let_go(self, may_go: trio.Event) -> None:
        """Any thread: the time has come."""
        if threading.get_ident() == self._thread:
            may_go.set()
        else:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(may_go.set)

    async def free_places(self) -> None:
        """Give back places that are kept for too long, until cancelled. One task of the stream runs this."""
        seen: set[Pass] = set()
        while True:
            await trio.sleep(PLACE_PATIENCE)
            for place in self._places & seen:
                place.done(sent=True)
            seen = set(self._places)
