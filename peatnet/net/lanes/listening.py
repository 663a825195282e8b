"""Where lanes are listened for: at the addresses of the node itself, on one port of their own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from peatnet.errors import ListenError
from peatnet.log import get_logger
from peatnet.net.addresses import parse_listen_address, to_announce

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

MAX_PORT = 65_535

log = get_logger(__name__)


@asynccontextmanager
async def lane_listeners(
    configured: Sequence[str], port: int | None
) -> AsyncIterator[list[trio.SocketListener]]:
    """Listen for lanes at each of the node's listening addresses.

    Args:
        configured: those addresses, ``/ip4/…/tcp/…``, as they were configured.
        port: for lanes; 0 for any free one, None for the one after the first address's, or, where that is taken or
            the first address lets the system choose, any free one.

    Raises:
        ListenError: the port that was set cannot be had.
    """
    hosts = list(dict.fromkeys(parse_listen_address(text)[0] for text in configured))
    wanted = _next_port(parse_listen_address(configured[0])[1]) if port is None else port
    try:
        listeners = await _listen(hosts, wanted)
    except OSError as exc:
        if port:
            raise ListenError(
                f"cannot listen on port {port} for bulk lanes: {exc.strerror or exc}",
                hint="choose another one with --bulk-port, or do without: --no-bulk",
            ) from exc
        if not wanted:
            raise ListenError(f"cannot listen for bulk lanes: {exc.strerror or exc}") from exc
        try:
            listeners = await _listen(hosts, 0)
        except OSError as again:
            raise ListenError(f"cannot listen for bulk lanes: {again.strerror or again}") from again
        taken = listeners[0].socket.getsockname()[1]
        log.warning("the usual port for bulk lanes is taken", usual=wanted, instead=taken)
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()


def lane_addresses(listeners: Sequence[trio.SocketListener]) -> list[str]:
    """What to tell peers, as for the node's own addresses."""
    texts = []
    for listener in listeners:
        host, port = listener.socket.getsockname()[:2]
        texts.append(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}")
    return to_announce(texts)


def _next_port(port: int) -> int:
    return port + 1 if 0 < port < MAX_PORT else 0


async def _listen(hosts: Sequence[str], port: int) -> list[trio.SocketListener]:
    """One listener a host, all on one port.

    Raises:
        OSError: not to be had.
    """
    listeners: list[trio.SocketListener] = []
    try:
        for host in hosts:
            listeners += await trio.open_tcp_listeners(port, host=host)
            port = listeners[0].socket.getsockname()[1]
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners
