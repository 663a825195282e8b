"""Runs a loader, of either kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peatnet.deploy.commands import run_command
from peatnet.deploy.loaders import CommandLoader, LoadResult
from peatnet.deploy.requests import send_request
from peatnet.log import get_logger

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.deploy.loaders import LoaderConfig, LoadJob

log = get_logger(__name__)


async def run_loader(loader: LoaderConfig, job: LoadJob, *, cwd: Path, token: str) -> LoadResult:
    """Have a model loaded. Whatever a loader does wrong is a result and no exception.

    Cancellation: a command and all that it started are ended before this returns; a request is broken off.

    Args:
        loader: which.
        job: what is to be loaded.
        cwd: the directory that a command runs in.
        token: a random text that marks the processes of a command, see ``commands.end_marked``.
    """
    log.info("loading", model=job.model_id, version=job.version, loader=str(loader))
    try:
        if isinstance(loader, CommandLoader):
            result = await run_command(loader, job, cwd=cwd, token=token)
        else:
            result = await send_request(loader, job)
    except (
        Exception
    ) as exc:  # our bug: a loader must not end the node, and the model before it is to come back
        log.exception("loader not run", model=job.model_id, loader=str(loader))
        why = f"{loader} could not be run ({type(exc).__name__}); the log of the node says more"
        result = LoadResult(why)
    if result.loaded:
        log.info("loaded", model=job.model_id, version=job.version)
    else:
        last = result.lines[-1] if result.lines else ""
        log.warning("not loaded", model=job.model_id, version=job.version, reason=result.reason, last=last)  # fmt: skip
    return result
