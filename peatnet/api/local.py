"""The verbs without a running node: this process opens the data directory for as long as one verb takes."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import trio

from peatnet.api.verbs import VERBS, GetParams
from peatnet.concurrency import first_error
from peatnet.config import FetchPolicy
from peatnet.errors import NotFound, PeatnetError, UsageError
from peatnet.opening import open_node
from peatnet.views import SourceChoice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from peatnet.config import Config
    from peatnet.node import Node

_HASH_DIGITS = 64

# Finding a node on the local network and reading its catalogue takes two or three seconds.
_HEAR_WITHIN_S = 10.0

# What a verb does in a worker thread cannot always be cut short. A process that was told to stop ends after
# this time all the same; the store is made to survive that.
STOP_WITHIN_S = 3.0
EXIT_INTERRUPTED = 130


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
    watchdog = threading.Timer(STOP_WITHIN_S, os._exit, [EXIT_INTERRUPTED])
    watchdog.daemon = True

    async def cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        nonlocal interrupted
        async for _ in signals:
            interrupted = True
            scope.cancel()
            if not watchdog.is_alive():
                watchdog.start()

    try:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_on_signal, signals, nursery.cancel_scope)
                outcome = await _run_verb(config, verb, params, emit)
                nursery.cancel_scope.cancel()
    except* PeatnetError as group:
        outcome = first_error(group)
    finally:
        watchdog.cancel()
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
    async with open_node(config, network=False, verb=name) as node:
        if not isinstance(parsed, GetParams) or not await _needs_peers(node, parsed):
            return await verb.run(node, parsed, emit)
    # A node that lives for one verb is not in the way of the one that will run here, and fetches nothing else.
    config = config.model_copy(update={"listen": ["/ip4/0.0.0.0/tcp/0"], "fetch": FetchPolicy.NONE})
    async with open_node(config, lasting=False, verb=name) as node:
        await _hear_of(node, parsed.reference)
        return await verb.run(node, parsed, emit)


async def _needs_peers(node: Node, params: GetParams) -> bool:
    if params.source is SourceChoice.HTTP:
        return False
    try:
        return not await node.is_here(params.reference)
    except NotFound:
        return True  # a model that only others know


async def _hear_of(node: Node, reference: str) -> None:
    """Wait until the peers have told what this model is; a whole hash needs no telling."""
    if not (node.config.mdns or node.config.peers):
        return
    with trio.move_on_after(min(_HEAR_WITHIN_S, node.config.give_up_after_s)):
        async with node.subscribe() as changes:
            while len(reference) != _HASH_DIGITS:
                try:
                    await node.show(reference)
                except NotFound:
                    await changes.receive()
                else:
                    return


def _ignore(_progress: dict[str, Any]) -> None:
    pass
