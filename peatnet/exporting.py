"""A copy of a blob where the user wants one, with word of how far the copying is."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import trio

from peatnet.fetching import REPORT_INTERVAL
from peatnet.views import Progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peatnet.blobs import BlobInfo, Store


async def export(
    store: Store,
    info: BlobInfo,
    out: Path,
    by_source: dict[str, int],
    progress: Callable[[Progress], None] | None,
    *,
    force: bool,
) -> Path:
    """Put a copy of a complete blob where the user wants it, see ``Store.export``; returns where.

    Args:
        store: where the blob is.
        info: which.
        out: where the copy is to be.
        by_source: whence its bytes came, for the progress.
        progress: called in the trio thread, at once, then a few times a second; where the file system shares blocks, once.
        force: also in the place of a file.

    Cancellation: ends between two pieces, and leaves nothing at ``out``.
    """
    told_at = monotonic()

    def tell(copied: int) -> None:
        if progress is not None:
            size = info.size
            told = Progress(
                size, size, 0.0, None, by_source, received_bytes=size, copied_bytes=copied
            )
            progress(told)

    def copied(done: int) -> None:
        nonlocal told_at
        trio.from_thread.check_cancelled()
        if monotonic() - told_at >= REPORT_INTERVAL:
            trio.from_thread.run_sync(tell, done)
            told_at = monotonic()

    tell(0)
    copy = partial(store.export, info.hash, out, force=force, progress=copied)
    await trio.to_thread.run_sync(copy)
    return out
