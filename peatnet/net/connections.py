"""Connections of one host: how they are dialled and accepted, within limits, and how they are cut.

py-libp2p 0.8.1's swarm leaves things to be wished for, and this module puts itself in their place:

- Its inbound slots are never given back, so that 256 connections, one after the other, close the door for ever.
- It dials one address of a peer's, of its own choosing, leaves out loopback where there are others, and after a
  failure refuses to dial the peer again for a minute. Here all addresses are tried, in the order given.
- It connects by itself to whomever anybody has mentioned, banned or not, and remembers for ever who has left. Here only the
  dialer does.
- It does not know where a connection over IPv6 comes from.
- Closing waits for the peer to take some bytes. Here a connection can be cut at once.
- It tells four listeners of each stream that opens or ends, each in a task of its own. None of them does anything about it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import RateLimitError
from libp2p.peer.id import ID
from libp2p.rcmgr import new_resource_manager
from multiaddr import Multiaddr

from peatnet.errors import PeerLost
from peatnet.log import get_logger
from peatnet.net.muxer import Muxer
from peatnet.net.muxer_selector import MuxerSelector
from peatnet.net.round_trip import nearest
from peatnet.net.tcp import party, remote_address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from peatnet.net.effort import Efforts

MAX_CONNECTIONS = 256
MAX_CONNECTIONS_PER_PEER = 4
# Inbound connections from one IP address: some fleets share one, but none may take all slots.
MAX_INBOUND_PER_ADDRESS = 128
DIAL_TIMEOUT = 10.0
CLOSE_TIMEOUT = 1.0
# The next address is tried when one has not answered for this long, or has failed.
NEXT_ADDRESS_AFTER = 0.5

log = get_logger(__name__)


def connection_config() -> ConnectionConfig:
    """Limits for py-libp2p's swarm; its own health checks stay off.

    Its health checks ping over streams, one connection after the other, and wait for ever when closing a frozen
    one; ``muxer`` feels each connection's pulse instead.
    """
    return ConnectionConfig(
        max_connections=MAX_CONNECTIONS,
        high_watermark=MAX_CONNECTIONS,
        low_watermark=0,
        min_connections=0,
        max_connections_per_peer=MAX_CONNECTIONS_PER_PEER,
    )


def resource_manager() -> Any:
    """py-libp2p's accounting without its breakers, which strangers' failures would trip for everybody."""
    return new_resource_manager(
        enable_metrics=False,
        enable_memory_limits=False,
        enable_memory_pooling=False,
        enable_circuit_breaker=False,
        enable_graceful_degradation=False,
    )


def _forget(_peer_id: ID) -> None:
    return None


async def _nothing() -> None:
    await trio.lowlevel.checkpoint()


def _only_of_connections(notify: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def notify_listeners(event: str, *what: object) -> None:
        if event not in {"opened_stream", "closed_stream"}:
            await notify(event, *what)

    return notify_listeners


class Connections:
    """Dials, accepts and cuts for one swarm.

    Args:
        swarm: py-libp2p's; not running yet. Its muxer and its accepting are replaced.
        admits: whether connections with this peer are wanted.
        on_violation: called with a peer and what it did that no honest one could have done.
        efforts: what each peer may make us do.
    """

    def __init__(
        self,
        swarm: Any,
        admits: Callable[[str], bool],
        on_violation: Callable[[str, str], None],
        efforts: Efforts,
    ) -> None:
        self._swarm = swarm
        self._efforts = efforts
        self._inbound: Counter[str] = Counter()
        swarm.upgrader.muxer_multistream = MuxerSelector(admits, on_violation, efforts)
        swarm.auto_connector.start = _nothing
        swarm.auto_connector.record_disconnect = _forget
        swarm._notify = _only_of_connections(swarm._notify)  # noqa: SLF001  # all events pass it
        swarm.retry_config = RetryConfig(max_retries=0)
        swarm._do_handle_inbound_connection = self._accept  # noqa: SLF001  # the one place where slots are held

    async def _accept(self, stream: Any, listener: Multiaddr, _event: object) -> None:
        """Hold an inbound connection, and with it a slot, until it ends."""
        remote = remote_address(stream)
        address = party(remote[0]) if remote is not None else ""
        self._inbound[address] += 1
        connection = RawConnection(stream, initiator=False)
        try:
            if self._inbound[address] <= MAX_INBOUND_PER_ADDRESS:
                await self._efforts.answer(address)
                muxer = await self._swarm.upgrade_inbound_raw_conn(connection, listener)
                await muxer.event_closed.wait()
        finally:
            self._inbound[address] -= 1
            if not self._inbound[address]:
                del self._inbound[address]
            with trio.CancelScope(shield=True):
                await connection.close()

    def is_open(self, peer_id: str) -> bool:
        """Whether there is a connection to this peer whose muxer still runs."""
        return any(
            not connection.muxed_conn.is_closed
            for connection in self._swarm.get_connections(ID.from_base58(peer_id))
        )

    def address_of(self, peer_id: str) -> str | None:
        """The IP address at the other end of a connection to this peer, if there is one."""
        for connection in self._swarm.get_connections(ID.from_base58(peer_id)):
            if not connection.muxed_conn.is_closed:
                remote = connection.muxed_conn.get_remote_address()
                if remote is not None:
                    return str(remote[0])
        return None

    def round_trip(self, peer_id: str) -> float:
        """Seconds to a peer and back at least; 0 where that is not known."""
        return nearest(
            *(
                connection.muxed_conn.round_trip()
                for connection in self._swarm.get_connections(ID.from_base58(peer_id))
                if isinstance(connection.muxed_conn, Muxer) and not connection.muxed_conn.is_closed
            )
        )

    async def dial(self, peer_id: str, addresses: Sequence[str]) -> None:
        """Connect to a peer at any of its addresses; the first one that answers as this peer wins.

        Raises:
            PeerLost: none did within DIAL_TIMEOUT seconds.
        """
        errors: list[str] = []
        with trio.move_on_after(DIAL_TIMEOUT):
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    failed = trio.Event()
                    nursery.start_soon(
                        self._dial_one, peer_id, address, nursery.cancel_scope, failed, errors
                    )
                    with trio.move_on_after(NEXT_ADDRESS_AFTER):
                        await failed.wait()
        if not self.is_open(peer_id):
            why = "; ".join(errors) or f"no answer in {DIAL_TIMEOUT:.0f} s"
            raise PeerLost(f"{peer_id}: cannot be reached: {why:.300}")

    async def _dial_one(
        self,
        peer_id: str,
        address: str,
        all_dials: trio.CancelScope,
        failed: trio.Event,
        errors: list[str],
    ) -> None:
        try:
            await self._swarm.dial_addr(Multiaddr(address), ID.from_base58(peer_id))
        except (BaseLibp2pError, RateLimitError, OSError, ValueError) as exc:
            errors.append(f"{address}: {exc}")
            failed.set()
        else:
            all_dials.cancel()

    async def cut(self, peer_id: str) -> None:
        """Close all connections to a peer at once, without a word."""
        for connection in self._swarm.get_connections(ID.from_base58(peer_id)):
            await self._cut(connection)

    async def close(self) -> None:
        """Stop listening, and close all connections at once. Not cancelled; bounded in time."""
        # py-libp2p's listeners live in system tasks and are not closed where its run is cancelled.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT):
            for listener in list(self._swarm.listeners.values()):
                await listener.close()
        for connection in self._swarm.get_connections():
            await self._cut(connection)

    async def _cut(self, connection: Any) -> None:
        if isinstance(connection.muxed_conn, Muxer):
            await connection.muxed_conn.abort()
