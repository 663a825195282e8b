"""The other nodes that a node knows, as it shows them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from peatnet.views import PeerView

if TYPE_CHECKING:
    from peatnet.net.network import Network


def peer_views(network: Network) -> list[PeerView]:
    """Those that are known, connected or banned, by peer id."""
    known = network.dialer.known()
    banned = network.banned()
    now = datetime.now(UTC)
    views = []
    for peer_id in sorted({*known, *banned, *network.connected}):
        until = None
        if peer_id in banned:
            end = now + timedelta(seconds=banned[peer_id])
            until = end.isoformat(timespec="seconds").replace("+00:00", "Z")
        addrs = [f"{address}/p2p/{peer_id}" for address in known.get(peer_id, [])]
        views.append(
            PeerView(peer_id, addrs, peer_id in network.connected, until, network.lanes(peer_id))
        )
    return views
