"""The control API: what a node can be asked by the other programs of its user, and how to ask.

One table of verbs, served over a Unix socket in the data directory or run within the asking process.
Names are loaded when first used: the command line asks whether a node runs before it needs any of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peatnet.api.calls import call as call
    from peatnet.api.calls import node_is_running as node_is_running
    from peatnet.api.client import ControlClient as ControlClient
    from peatnet.api.server import serve_control as serve_control
    from peatnet.api.socket_path import control_socket as control_socket

_HOME = {
    "ControlClient": "client",
    "call": "calls",
    "control_socket": "socket_path",
    "node_is_running": "calls",
    "serve_control": "server",
}

__all__ = sorted(_HOME)  # noqa: PLE0605  # a list of strings, built from _HOME


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"peatnet.api.{home}"), name)
