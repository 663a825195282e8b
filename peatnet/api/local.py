"""The verbs without a running node: this process opens the data directory for as long as one verb takes."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import trio

from peatnet.api.verbs import VERBS, GetParams
from peatnet.errors import PeatnetError, UsageError
from peatnet.node import open_node
from peatnet.views import SourceChoice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from peatnet.config import Config
    from peatnet.node import Node

# A node that lives for one verb must not be in the way of the one that will run here.
_ANY_PORT = ["/ip4/0.0.0.0/tcp/0"]


def run_local(
    config: Config,
    verb: str,
    params: dict[str, Any],
    *,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> Any:
    """Open the data directory, run one verb, close it again.

    The network is used only by ``get``, and only for a blob that is not here.

    Raises:
        DataDirLocked: another process has it open.
        KeyboardInterrupt: SIGINT or SIGTERM came; the verb was cancelled and has cleaned up.
        PeatnetError: what the verb raised.
    """
    outcome = trio.run(_run, config, verb, params, on_progress or _ignore)
    if isinstance(outcome, PeatnetError):
        raise outcome
    return outcome


async def _run(
    config: Config, verb: str, params: dict[str, Any], emit: Callable[[dict[str, Any]], None]
) -> Any:
    outcome: Any = None
    interrupted = False

    async def cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        nonlocal interrupted
        async for _ in signals:
            interrupted = True
            scope.cancel()

    try:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_on_signal, signals, nursery.cancel_scope)
                outcome = await _run_verb(config, verb, params, emit)
                nursery.cancel_scope.cancel()
    except* PeatnetError as group:
        outcome = _first(group)
    if interrupted:
        raise KeyboardInterrupt
    return outcome


async def _run_verb(
    config: Config, name: str, params: dict[str, Any], emit: Callable[[dict[str, Any]], None]
) -> Any:
    verb = VERBS.get(name)
    if verb is None:
        raise UsageError(f"no verb {name!r}")
    parsed = verb.parse(params)
    async with open_node(config, network=False) as node:
        if not isinstance(parsed, GetParams) or not await _needs_peers(node, parsed):
            return await verb.run(node, parsed, emit)
    config = config.model_copy(update={"listen": _ANY_PORT})
    async with open_node(config, network=True) as node:
        return await verb.run(node, parsed, emit)


async def _needs_peers(node: Node, params: GetParams) -> bool:
    if params.source is SourceChoice.HTTP:
        return False
    try:
        wanted = (await node.show(params.reference)).blob_hash
    except PeatnetError:
        wanted = (
            params.reference.lower()
        )  # no model is called that here: a hash, or a model of others
    return not any(
        view.local_path and wanted and (view.blob_hash or "").startswith(wanted)
        for view in await node.models()
    )


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _ignore(_progress: dict[str, Any]) -> None:
    pass
