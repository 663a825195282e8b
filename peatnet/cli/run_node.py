"""The body of ``peatnet up``: node and control socket under one nursery, ended by a signal."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import trio

from peatnet.api import control_socket, serve_control
from peatnet.cli.errors import EXIT_BUG
from peatnet.cli.output import print_line
from peatnet.log import get_logger
from peatnet.opening import open_node

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from peatnet.config import Config

_log = get_logger("peatnet.up")

# A clean stop takes well under a second. One that hangs is cut off in time for service managers and people;
# the store is made to survive that.
_STOP_WITHIN_S = 4.5
# How long a thread may hold the interpreter while others wait. With Python's 5 ms, a thread that has been put off its core
# while it holds it is asked for it two hundred times a second by each of the others, lanes' threads mostly; each time is
# a switch between threads. Nothing here computes for long without waiting for something.
_SWITCH_INTERVAL_S = 0.02


def run_node(config: Config) -> None:
    """Run a node in the foreground until SIGTERM or SIGINT; then stop cleanly and return.

    Raises:
        PeatnetError: the node could not start, or could not go on.
    """
    trio.run(_up, config)


async def _up(config: Config) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            leave: list[Callable[[], Awaitable[None]]] = []
            nursery.start_soon(_stop_on_signal, signals, leave, nursery.cancel_scope)
            async with open_node(config) as node, trio.open_nursery() as serving:
                await serving.start(serve_control, node, control_socket(config.data_dir))
                _spare_the_collector()
                sys.setswitchinterval(_SWITCH_INTERVAL_S)
                print_line(json.dumps({"peer_id": node.peer_id, "addrs": node.addrs}))
                _log.info("ready", data_dir=str(config.data_dir))
                leave.append(node.fleet.leave)
                await trio.sleep(math.inf)
    _log.info("stopped")


def _spare_the_collector() -> None:
    """Take what is there now out of the garbage collector's rounds.

    Some hundred thousand objects of imported modules never go away, and looking at all of them again and again took
    a fifth of a busy node's time, with every thread waiting. What comes from now on is collected as ever.
    """
    gc.collect()
    gc.freeze()


async def _stop_on_signal(
    signals: object, leave: list[Callable[[], Awaitable[None]]], scope: trio.CancelScope
) -> None:
    async for number in signals:  # type: ignore[attr-defined]  # trio does not name this type
        _log.info("stopping", signal=signal.Signals(number).name)
        watchdog = threading.Timer(_STOP_WITHIN_S, _give_up_stopping)
        watchdog.daemon = True
        watchdog.start()
        for say_so in leave:
            await say_so()
        scope.cancel()
        return


def _give_up_stopping() -> None:
    _log.error("stopping took too long: ending at once", limit_s=_STOP_WITHIN_S)
    sys.stderr.flush()
    os._exit(EXIT_BUG)
