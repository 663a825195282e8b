"""Removing a model's file from a node: first nothing fetches it, then it is in service nowhere, then it goes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from peatnet.errors import InUse, NotFound

if TYPE_CHECKING:
    from peatnet.keeper import Keeper
    from peatnet.library import Library
    from peatnet.targets import Target


async def remove(library: Library, keeper: Keeper, target: Target, *, force: bool) -> int:
    """Remove the file of a model, or a blob, complete or not; returns the bytes freed.

    Raises:
        InUse: it is pinned, in service or another model's file, too (and no ``force`` is given), or being served.
        NotFound: it is not here; nothing is changed.
    """
    model, activator = target.model, library.activator
    blob = target.blob if model is None else library.kept_as(model)
    if blob is None:
        raise NotFound(f"{model or target.blob} is not here")
    serving = activator.slots_with(blob)
    if serving and not force:
        raise InUse(
            f"{model or blob} is in service, as {', '.join(serving)}",
            hint="deploy another one first; --force takes it out of service",
        )
    take_away = partial(library.remove, blob, of=model, force=force)
    async with keeper.stopped(target):
        if not force:
            return await trio.to_thread.run_sync(take_away)
        async with activator.without(blob) as retired:
            try:
                return await trio.to_thread.run_sync(take_away)
            except NotFound:
                if not retired:
                    raise
                return 0  # somebody had taken its file away; that it is not in service any more is what was done
