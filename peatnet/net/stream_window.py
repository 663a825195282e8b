"""How much a peer may send on a stream before it is read, and how that grows.

py-libp2p's receive windows grow to 16 MiB, and its readers send a frame of credit for nearly every read. Here a window grows as in
go-yamux, up to a limit, and credit is granted exactly, in large pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from peatnet.net.quick_lock import QuickLock

if TYPE_CHECKING:
    from libp2p.stream_muxer.yamux.yamux import YamuxStream

# py-libp2p's writers look for credit every 10 ms, so no round trip is shorter than that to a window.
SHORTEST_ROUND_TRIP = 0.01


class _WriterLock:
    """What py-libp2p's streams need of their ReadWriteLock."""

    def __init__(self) -> None:
        self._lock = QuickLock()

    def write_lock(self) -> QuickLock:
        """To be held while a frame is made."""
        return self._lock


def limit_window(stream: YamuxStream, limit: int) -> None:
    """Let a stream's receive window grow to ``limit`` only, and grant credit exactly, in large pieces.

    Credit is due once half the window has been read; the window doubles while that happens within four round trips.
    """
    # Nothing is waited for under either: the frame that was made is written without them.
    stream.window_lock = QuickLock()  # type: ignore[assignment]
    stream.rw_lock = _WriterLock()  # type: ignore[assignment]
    unreported = 0

    async def release(bytes_read: int = 0) -> None:
        nonlocal unreported
        unreported += bytes_read
        if unreported < stream.target_recv_window // 2:
            return
        now = trio.current_time()
        credit, unreported = unreported, 0
        quick = now - stream.epoch_start < 4 * max(stream.conn.rtt(), SHORTEST_ROUND_TRIP)
        if quick and stream.target_recv_window < limit:
            credit += stream.target_recv_window
            stream.target_recv_window *= 2
        stream.epoch_start = now
        stream.recv_window += credit
        await stream.send_window_update(credit)

    stream._auto_tune_and_send_window_update = release  # type: ignore[method-assign]  # noqa: SLF001  # called after each read
