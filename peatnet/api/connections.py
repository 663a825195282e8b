"""The control socket's connections: HTTP/1.1 by hypercorn, each on its own.

hypercorn's own ``serve`` runs all connections in one nursery: an error that leaves one of them ends them all, and with
them the node. Such errors do happen: a client that goes away is answered from two tasks, its reader's and its
request's, and either may find the other at the socket.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from peatnet.concurrency import first_error
from peatnet.log import get_logger

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = get_logger(__name__)


async def serve_connections(app: ASGIApp, descriptor: int, *, max_head: int) -> None:
    """Answer whoever connects, until cancelled. An error in one connection ends that connection.

    Args:
        app: gives the answers.
        descriptor: a listening stream socket, which is closed at the end.
        max_head: the longest head of a request, in bytes.
    """
    config = Config()
    # Startup lines say nothing that the node has not said; a verb's crash is an error and is logged.
    config.errorlog = logging.getLogger("peatnet.api")
    config.errorlog.setLevel(logging.WARNING)
    config.accesslog = None
    config.h11_max_incomplete_size = max_head
    config.include_server_header = False
    wrapped, context = ASGIWrapper(cast("Any", app)), WorkerContext(None)

    async def serve_one(stream: Any) -> None:
        try:
            await TCPServer(wrapped, config, context, ConnectionState({}), stream)
        except* Exception as group:  # noqa: BLE001  # one connection must not end the others, nor the node
            log.warning("a control connection failed", error=repr(first_error(group)))

    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)  # noqa: FBT003  # the standard library's signature
    async with trio.SocketListener(trio.socket.from_stdlib_socket(listener)) as accepting:
        await trio.serve_listeners(serve_one, [accepting])
