"""What a node sets right by itself: what a crash has left half done, and blobs that turned out to be damaged."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from peatnet.concurrency import Stirring, cancellable
from peatnet.errors import PeatnetError
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.blobs import BlobInfo
    from peatnet.library import Library
    from peatnet.targets import Model

# Models that are set ready together; whoever else changes states waits for so many.
_TOGETHER: Final = 128

log = get_logger(__name__)


async def finish_publishing(library: Library, on_model: Callable[[Model], None]) -> None:
    """Set ready what was published, or fetched with others, when the node ended before it was noted as ready.

    Args:
        library: what the node has.
        on_model: called with each model that is ready now.
    """
    # Most nodes have nothing of this; a thread looks, since there may be tens of thousands of models.
    left = await trio.to_thread.run_sync(left_unready, library)
    for start in range(0, len(left), _TOGETHER):
        some = left[start : start + _TOGETHER]
        # Somebody may have removed one meanwhile.
        ready = partial(library.set_ready_all, some, unknown_only=True)
        try:
            await trio.to_thread.run_sync(ready)
        except PeatnetError as exc:
            log.warning("models that are here not set ready", error=exc.message)
            return
        for model, _ in some:
            log.info("ready after all", model=str(model))
            on_model(model)


def left_unready(library: Library) -> list[tuple[Model, BlobInfo]]:
    """Models of trusted publishers that are here, complete, and of which nothing is remembered. Costs no disk.

    What somebody has removed is remembered as removed.
    """
    unknown = (
        model for model in library.models() if model.trusted and not library.states.knows(model.key)
    )
    return [(model, info) for model in unknown if (info := library.info_of(model)) is not None]


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
