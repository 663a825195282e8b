"""What a node does about a blob that turned out to be damaged when it was about to be served."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from peatnet.concurrency import Stirring, cancellable
from peatnet.errors import PeatnetError
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.library import Library

log = get_logger(__name__)


async def mend(library: Library, wake: Callable[[], None]) -> None:
    """Let go of what was set aside as damaged, so that it is fetched anew, until cancelled.

    Args:
        library: what the node has.
        wake: has the node look at what is to be fetched.
    """
    stirring, token = Stirring(), trio.lowlevel.current_trio_token()

    def found() -> None:
        with suppress(
            trio.RunFinishedError
        ):  # the thread that found it was slower than the end of it all
            token.run_sync_soon(stirring.stir, idempotent=True)

    library.store.tell_of_damage(found)
    event = stirring.event
    while True:
        await event.wait()
        event = stirring.event
        try:
            await trio.to_thread.run_sync(library.sweep, cancellable())
        except PeatnetError as exc:
            log.error("damaged blob not let go of", error=exc.message)  # noqa: TRY400  # no bug
        wake()
