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
    from peatnet.net.lanes.client import SpareTicket
    from peatnet.net.lanes.sockets import LaneSocket
    from peatnet.net.upload_gate import UploadGate

LANE_PROTOCOL = "/peatnet/lane/1"


class Lanes:
    """The lanes of one node. Made by :func:`open_lanes`."""

    def __init__(self, host: Host, server: LaneServer) -> None:
        self._host = host
        self.server = server
        self._threads = trio.CapacityLimiter(MAX_LANES)
        self._open: dict[str, set[LaneSocket]] = {}
        self._spare: dict[str, list[SpareTicket]] = {}

    def count(self, peer_id: str) -> int:
        """How many lanes there are with this peer, both ways."""
        return self.server.count(peer_id) + len(self._open.get(peer_id, ()))

    def shut(self, peer_id: str) -> None:
        """Close all lanes with a peer at once, both ways, and open no more with what it gave us: it may not know that any more."""
        self.server.shut(peer_id)
        self._spare.get(peer_id, []).clear()
        for lane in self._open.get(peer_id, ()):
            lane.shut()

    def peer_changed(self, peer_id: str, *, connected: bool) -> None:
        """Close its lanes when a peer has gone: nobody feels the pulse of those."""
        if not connected:
            self.shut(peer_id)
            self._forget_idle()

    def _forget_idle(self) -> None:
        for peer_id in [peer for peer, lanes in self._open.items() if not lanes]:
            if peer_id not in self._host.connected:
                del self._open[peer_id]
                self._spare.pop(peer_id, None)

    def to_peer(self, peer_id: str) -> LaneClient:
        """What opens lanes to this peer."""

        async def open_stream() -> FrameStream:
            return await self._host.open_stream(peer_id, LANE_PROTOCOL)

        def on_fault(what: str) -> None:
            self._host.offend(peer_id, Offence.MALFORMED, what)

        return LaneClient(
            peer_id,
            open_stream,
            lambda: self._host.address_of(peer_id),
            lambda: self._host.round_trip(peer_id),
            on_fault,
            self._threads,
            self._open.setdefault(peer_id, set()),
            self._spare.setdefault(peer_id, []),
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
        lanes = Lanes(host, server)
        host.on_ban.append(lanes.shut)
        host.on_change.append(lanes.peer_changed)
        try:
            yield lanes
        finally:
            nursery.cancel_scope.cancel()
