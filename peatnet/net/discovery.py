"""mDNS: what py-libp2p's discovery hears on the local network, handed to the dialer.

The announcing and listening is py-libp2p's (the libp2p mDNS specification, over zeroconf); its callback runs in
a zeroconf thread and only fills the peer store, so here it is brought into trio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import trio
from libp2p.discovery.events.peerDiscovery import peerDiscovery
from libp2p.discovery.mdns.mdns import create_mdns_discovery

from peatnet.log import get_logger
from peatnet.net.addresses import announced_by_peer

if TYPE_CHECKING:
    # libp2p brings trio-typing, whose stubs hide trio's own types from the type checker.
    from libp2p.peer.peerinfo import PeerInfo
    from trio_typing import TaskStatus

# Seconds between two looks at this machine's addresses.
LOOK_EVERY = 15.0

log = get_logger(__name__)

Learn = Callable[[str, Iterable[str]], None]


def announce_by_mdns(mdns: Any, addresses: Callable[[], list[str]]) -> None:
    """Have py-libp2p announce these addresses.

    By itself it announces what it listens on as that stands: of a node that listens everywhere, 0.0.0.0, where nobody
    reaches it.

    Args:
        mdns: py-libp2p's MDNSDiscovery, not started yet.
        addresses: asked once, when it begins.
    """
    mdns.broadcaster._resolve_host_addrs = addresses  # noqa: SLF001  # the one place where it asks


async def keep_mdns_current(host: Any, addresses: Callable[[], list[str]]) -> None:
    """Begin mDNS anew whenever this machine's addresses have changed, until cancelled.

    It joins the multicast groups of the interfaces that have an address when it begins, announces once, and asks three times.
    So a node that was started before its network was there, as at boot, would be found by nobody and find nobody.

    Args:
        host: py-libp2p's BasicHost, with mDNS running.
        addresses: where others can dial us.
    """
    announced = addresses()
    while True:
        await trio.sleep(LOOK_EVERY)
        if (current := addresses()) == announced:
            continue
        log.info("mdns begins anew", addresses=current)
        try:
            # Whoever ends the node just now would leave one of the two running; it takes a second or two.
            with trio.CancelScope(shield=True):
                old, host.mDNS = host.mDNS, await trio.to_thread.run_sync(_begun, host, addresses)
                announced = current
                _clean_up(host.mDNS)
                old._cleanup_cancel_scope.cancel()  # noqa: SLF001  # as its `stop`, which blocks for a second
                old._cleanup_cancel_scope = None  # noqa: SLF001
                await trio.to_thread.run_sync(old.stop)
        except Exception as exc:  # noqa: BLE001  # zeroconf raises what it likes where interfaces come and go
            log.warning("mdns does not work here now", error=repr(exc))


def _begun(host: Any, addresses: Callable[[], list[str]]) -> Any:
    mdns = create_mdns_discovery(host.get_network(), host=host)
    announce_by_mdns(mdns, addresses)
    mdns.broadcaster.register()
    return mdns


def _clean_up(mdns: Any) -> None:
    """The rest of what its `start` does, in the thread that may."""
    mdns._cleanup_cancel_scope = trio.CancelScope()  # noqa: SLF001
    mdns._cleanup_task = trio.lowlevel.spawn_system_task(mdns._cleanup_loop_with_scope)  # noqa: SLF001


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
