"""mDNS: what py-libp2p's discovery hears on the local network, handed to the dialer.

The announcing and listening is py-libp2p's (the libp2p mDNS specification, over zeroconf); its callback runs in
a zeroconf thread and only fills the peer store, so here it is brought into trio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import trio
from libp2p.discovery.events.peerDiscovery import peerDiscovery

from peatnet.log import get_logger
from peatnet.net.addresses import announced_by_peer

if TYPE_CHECKING:
    # libp2p brings trio-typing, whose stubs hide trio's own types from the type checker.
    from libp2p.peer.peerinfo import PeerInfo
    from trio_typing import TaskStatus

log = get_logger(__name__)

Learn = Callable[[str, Iterable[str]], None]


def announce_by_mdns(mdns: Any, addresses: Callable[[], list[str]]) -> None:
    """Have py-libp2p announce these addresses.

    By itself it announces what it listens on as that stands: of a node that listens everywhere, 0.0.0.0, where nobody
    reaches it.

    Args:
        mdns: py-libp2p's MDNSDiscovery, not started yet.
        addresses: asked once, when the host listens.
    """
    mdns.broadcaster._resolve_host_addrs = addresses  # noqa: SLF001  # the one place where it asks


async def watch_mdns(learn: Learn, *, task_status: TaskStatus[None]) -> None:
    """Call ``learn(peer id, addresses)`` for every peer that mDNS finds, until cancelled."""
    token = trio.lowlevel.current_trio_token()

    def found(info: PeerInfo) -> None:
        peer_id = str(info.peer_id)
        addresses = announced_by_peer(address.to_bytes() for address in info.addrs)
        try:
            token.run_sync_soon(learn, peer_id, addresses)
        except trio.RunFinishedError:
            return  # heard while the node was stopping
        log.debug("mdns found", peer=peer_id, addresses=addresses)

    peerDiscovery.register_peer_discovered_handler(found)
    try:
        task_status.started()
        await trio.sleep_forever()
    finally:
        peerDiscovery.unregister_peer_discovered_handler(found)
