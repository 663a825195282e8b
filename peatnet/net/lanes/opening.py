"""A node's lanes, both ways, tied to its libp2p host: who is banned or gone has none."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from peatnet.net.lanes.client import MAX_LANES, LaneClient
from peatnet.net.lanes.listening import lane_addresses, lane_listeners
from peatnet.net.lanes.server import LaneServer
from peatnet.net.standing import Offence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from peatnet.blobs import Store
    from peatnet.net.frames import FrameStream
    from peatnet.net.host import Host
    from peatnet.net.upload_gate import UploadGate

LANE_PROTOCOL = "/peatnet/lane/1"


class Lanes:
    """The lanes of one node. Made by :func:`open_lanes`."""

    def __init__(self, host: Host, server: LaneServer) -> None:
        self._host = host
        self.server = server
        self._threads = trio.CapacityLimiter(MAX_LANES)

    def to_peer(self, peer_id: str) -> LaneClient:
        """What opens lanes to this peer."""

        async def open_stream() -> FrameStream:
            return await self._host.open_stream(peer_id, LANE_PROTOCOL)

        def on_fault(what: str) -> None:
            self._host.offend(peer_id, Offence.MALFORMED, what)

        return LaneClient(
            peer_id, open_stream, lambda: self._host.address_of(peer_id), on_fault, self._threads
        )


class _User:
    def __init__(self, host: Host) -> None:
        self._host = host

    def is_banned(self, peer_id: str) -> bool:
        return self._host.is_banned(peer_id)

    def violated(self, peer_id: str, what: str) -> None:
        self._host.offend(peer_id, Offence.MALFORMED, what)


@asynccontextmanager
async def open_lanes(
    host: Host, store: Store, gate: UploadGate, listen: Sequence[str], port: int | None
) -> AsyncIterator[Lanes]:
    """Have lanes for as long as the context lasts.

    Args:
        host: whose peers may ask for them.
        store: what is served over them.
        gate: which all chunks pass.
        listen: the node's listening addresses, as configured.
        port: see :func:`peatnet.net.lanes.listening.lane_listeners`.

    Raises:
        ListenError: the port cannot be had.
    """
    server = LaneServer(store, gate, _User(host))
    async with lane_listeners(listen, port) as listeners, trio.open_nursery() as nursery:
        await nursery.start(server.run, listeners, lane_addresses(listeners))
        host.handle(LANE_PROTOCOL, server.offer)
        host.on_ban.append(server.shut)
        try:
            yield Lanes(host, server)
        finally:
            nursery.cancel_scope.cancel()
