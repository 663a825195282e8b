"""The libp2p host: Noise and yamux over TCP, nothing else, and guards that keep a stranger's bytes from killing it.

py-libp2p 0.8.1 lets an exception in any stream handler or gossip task end the whole host. So every inbound
stream goes through one guard, which tells peers that went away from peers that misbehave, and counts the
latter's offence. A banned peer is cut off at once and turned away at the door until its ban has ended. py-libp2p
never redials (see ``dialer``) and offers plaintext unless told otherwise; see ``connections`` and ``muxer`` for
more of what it leaves to us.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import trio
from libp2p import new_host
from libp2p.abc import INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.ping import ID as PING
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.exceptions import RateLimitError
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from peatnet.errors import ListenError, NoSource, PeatnetError, PeerLost, RemoteProtocolError
from peatnet.log import get_logger
from peatnet.net.addresses import check_can_listen, to_announce
from peatnet.net.connections import Connections, connection_config, resource_manager
from peatnet.net.discovery import announce_by_mdns, keep_mdns_current
from peatnet.net.effort import Efforts
from peatnet.net.frames import FrameStream
from peatnet.net.identity_keys import refuse_other_keys
from peatnet.net.negotiation import OneTripClient, OneTripServer, bound_messages
from peatnet.net.noise import NoiseTransport
from peatnet.net.quick_lock import spare_turns
from peatnet.net.quiet import silence_libraries
from peatnet.net.standing import Offence, Standing

if TYPE_CHECKING:
    # libp2p brings trio-typing, whose stubs hide trio's own types from the type checker.
    from libp2p.abc import IHost, INetConn, INetStream, INetwork
    from trio_typing import TaskStatus


STREAM_TIMEOUT = 10.0
# Once, on a busy machine, the news that a connection had ended did not come. A look this often, in seconds, finds
# peers that are gone without it.
LOOK_AGAIN = 2.0

StreamHandler = Callable[[FrameStream], Awaitable[object]]


class PeerCallback(Protocol):
    """Told when the first connection to a peer opens, and when the last one ends."""

    def __call__(self, peer_id: str, /, *, connected: bool) -> None:
        """Hear of it; must not block or raise."""
        ...


log = get_logger(__name__)


class Host:
    """A running libp2p host. Made by :func:`open_host`.

    Attributes:
        peer_id: our own peer id, as base58 text.
        standing: offences and bans, shared by all that deals with peers.
        efforts: what each peer may make us do, shared likewise.
        on_change: called when a peer's first connection opens or its last one ends.
        on_ban: called with a peer id when it is banned.
    """

    def __init__(self, host: IHost, peer_id: str) -> None:
        self.peer_id = peer_id
        self.standing = Standing()
        self.efforts = Efforts()
        self.libp2p = host
        self.on_change: list[PeerCallback] = []
        self.on_ban: list[Callable[[str], None]] = []
        self._connected: set[str] = set()
        self._nursery: trio.Nursery | None = None
        network: Any = host.get_network()
        self._connections = Connections(network, self._admits, self._violated, self.efforts)
        self._library_handler = host._swarm_stream_handler  # type: ignore[attr-defined]  # noqa: SLF001  # the one door that all inbound streams pass
        network.set_stream_handler(self._guard_stream)
        network.register_notifee(_Notifee(self))

    @property
    def listening(self) -> list[str]:
        """The addresses that the host listens on, without the peer id."""
        return [str(address) for address in self.libp2p.get_transport_addrs()]

    @property
    def addrs(self) -> list[str]:
        """Full addresses that other machines can dial: ``/ip4/…/tcp/…/p2p/PEER_ID``."""
        return [f"{address}/p2p/{self.peer_id}" for address in to_announce(self.listening)]

    @property
    def connected(self) -> frozenset[str]:
        """The peers that a connection is open to."""
        return frozenset(self._connected)

    def handle(self, protocol: str, handler: StreamHandler) -> None:
        """Serve inbound streams of a protocol. The stream is ended when the handler returns or raises."""

        async def run(stream: INetStream) -> None:
            peer_id = _peer_of(stream)
            frames = FrameStream(stream, peer_id, self.efforts.of(peer_id))
            try:
                await handler(frames)
                await frames.finish()
            except RemoteProtocolError as exc:
                self.offend(frames.peer_id, Offence.MALFORMED, exc.message)
            except NoSource as exc:
                log.debug("stream ended", peer=frames.peer_id, reason=exc.message)
            except PeatnetError as exc:
                log.error("stream failed here", peer=frames.peer_id, reason=exc.message)  # noqa: TRY400  # our disk, one line is enough
            except Exception:  # our bug, not the peer's fault: one stream must not end the node
                log.exception("stream handler failed", peer=frames.peer_id, protocol=protocol)
            finally:
                await frames.reset()

        self.libp2p.set_stream_handler(TProtocol(protocol), run)

    async def connect(self, peer_id: str, addresses: Sequence[str]) -> None:
        """Have a connection to this peer, at one of these addresses.

        Raises:
            PeerLost: no address worked, another peer answered there, or the peer is banned.
        """
        if self.is_banned(peer_id):
            raise PeerLost(f"{peer_id}: banned")
        if not self._connections.is_open(peer_id):
            await self._connections.dial(peer_id, addresses)

    def address_of(self, peer_id: str) -> str | None:
        """The IP address at the other end of a connection to this peer, if there is one."""
        return self._connections.address_of(peer_id)

    def round_trip(self, peer_id: str) -> float:
        """Seconds to this peer and back at least; 0 where that is not known."""
        return self._connections.round_trip(peer_id)

    async def disconnect(self, peer_id: str) -> None:
        """Cut all connections to a peer, at once."""
        await self._connections.cut(peer_id)

    async def open_stream(self, peer_id: str, protocol: str) -> FrameStream:
        """Open a stream to a connected peer.

        Cancellation: a stream that opens all the same is reset.

        Raises:
            PeerLost: not connected, banned, or the peer does not speak the protocol.
        """
        if peer_id not in self._connected or self.is_banned(peer_id) or self._nursery is None:
            raise PeerLost(f"{peer_id}: not connected")
        # In a task of the host's: py-libp2p forgets streams whose opening is cancelled.
        opening = _Opening(peer_id, protocol)
        self._nursery.start_soon(self._open, opening)
        try:
            await opening.done.wait()
        except trio.Cancelled:
            opening.unwanted = True
            await opening.drop()
            raise
        if opening.stream is None:
            raise PeerLost(f"{peer_id}: no {protocol} stream: {opening.error:.200}")
        return FrameStream(opening.stream, peer_id)

    async def _open(self, opening: _Opening) -> None:
        try:
            with trio.fail_after(STREAM_TIMEOUT):
                opening.stream = await self.libp2p.new_stream(
                    ID.from_base58(opening.peer_id), [TProtocol(opening.protocol)]
                )
        except (BaseLibp2pError, RateLimitError, OSError, ValueError, trio.TooSlowError) as exc:
            opening.error = repr(exc)
        finally:
            opening.done.set()
        if opening.unwanted:
            await opening.drop()

    def is_banned(self, peer_id: str) -> bool:
        """Whether the peer is banned now."""
        return self.standing.is_banned(peer_id, trio.current_time())

    def offend(self, peer_id: str, offence: Offence, reason: str) -> None:
        """Count a peer's offence; a ban is logged by name and cuts its connections."""
        if peer_id == self.peer_id or self.is_banned(peer_id):
            return
        banned = self.standing.offend(peer_id, offence, trio.current_time())
        log.warning("offence", peer=peer_id, kind=offence.value, reason=reason)
        if banned:
            log.warning("banned", peer=peer_id, reason=reason)
            for callback in self.on_ban:
                callback(peer_id)
            self._cut_soon(peer_id)

    def _cut_soon(self, peer_id: str) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self.disconnect, peer_id)

    def _admits(self, peer_id: str) -> bool:
        return not self.is_banned(peer_id)

    def _violated(self, peer_id: str, what: str) -> None:
        self.offend(peer_id, Offence.MALFORMED, what)

    async def _guard_stream(self, stream: INetStream) -> None:
        # Our own handlers let nothing out (see `handle`): what comes here is py-libp2p's.
        peer_id = _peer_of(stream)
        spare_turns(stream)
        try:
            if self.is_banned(peer_id):
                await stream.reset()
            else:
                await self._library_handler(stream)
                if not stream.muxed_stream.closed:  # type: ignore[attr-defined]  # of the one class that there is
                    # py-libp2p's handlers close our side. It would stay, with what comes on it, as long as the connection.
                    await FrameStream(stream, peer_id).finish()
        except (
            BaseLibp2pError,
            OSError,
            trio.BrokenResourceError,
            trio.ClosedResourceError,
        ) as exc:
            log.debug("stream failed", peer=peer_id, error=repr(exc))
            await stream.reset()
        except Exception as exc:  # noqa: BLE001  # one stream must not end the node; garbage raises anything
            self.offend(peer_id, Offence.MALFORMED, f"{type(exc).__name__} on a libp2p stream")
            await stream.reset()

    def connection_changed(self, peer_id: str, *, opened: bool) -> None:
        """Note that a connection opened or closed; py-libp2p's notifee calls this."""
        if opened:
            if self.is_banned(peer_id):
                self._cut_soon(peer_id)  # banned while it was being admitted
                return
            if peer_id in self._connected:
                return
            self._connected.add(peer_id)
        else:
            if self._connections.is_open(peer_id) or peer_id not in self._connected:
                return
            self._connected.discard(peer_id)
        log.info("peer connected" if opened else "peer left", peer=peer_id)
        for callback in self.on_change:
            callback(peer_id, connected=opened)

    def _notice_lost_peers(self) -> None:
        """Let go of peers whose connections have all ended without py-libp2p having said so."""
        for peer_id in [peer for peer in self._connected if not self._connections.is_open(peer)]:
            self._cut_soon(peer_id)
            self.connection_changed(peer_id, opened=False)

    async def run_helpers(self, *, task_status: TaskStatus[None]) -> None:
        """Hold the nursery that bans and disconnects run in, and keep an eye on the connections."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                while True:
                    await trio.sleep(LOOK_AGAIN)
                    self._notice_lost_peers()
            finally:
                self._nursery = None
                # Whatever waits for a socket anywhere stops waiting.
                await self._connections.close()


@dataclass(slots=True)
class _Opening:
    """A stream being opened, by a task that outlives the one that wants it."""

    peer_id: str
    protocol: str
    done: trio.Event = field(default_factory=trio.Event)
    stream: INetStream | None = None
    error: str = ""
    unwanted: bool = False

    async def drop(self) -> None:
        if self.stream is not None:
            with trio.CancelScope(shield=True):
                await self.stream.reset()


def _ask_nothing(_peer_id: ID, *, reason: str) -> None:  # noqa: ARG001  # py-libp2p gives it
    return None


def _peer_of(stream: INetStream) -> str:
    return str(stream.muxed_conn.peer_id)


class _Notifee(INotifee):
    """Hands py-libp2p's connection events to the host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def connected(self, _network: INetwork, conn: INetConn) -> None:
        self._host.connection_changed(str(conn.muxed_conn.peer_id), opened=True)

    async def disconnected(self, _network: INetwork, conn: INetConn) -> None:
        self._host.connection_changed(str(conn.muxed_conn.peer_id), opened=False)

    async def opened_stream(self, _network: INetwork, _stream: INetStream) -> None:
        return None

    async def closed_stream(self, _network: INetwork, _stream: INetStream) -> None:
        return None

    async def listen(self, _network: INetwork, _multiaddr: Multiaddr) -> None:
        return None

    async def listen_close(self, _network: INetwork, _multiaddr: Multiaddr) -> None:
        return None


@asynccontextmanager
async def open_host(seed: bytes, listen: Sequence[str], *, mdns: bool) -> AsyncIterator[Host]:
    """Run a libp2p host for as long as the context lasts.

    Args:
        seed: 32 bytes, of our Ed25519 identity.
        listen: listening addresses, ``/ip4/…/tcp/…``.
        mdns: announce ourselves and listen for others on the local network.

    Raises:
        ListenError: an address cannot be listened on.
        UsageError: an address is not of the form above.
    """
    for text in listen:
        check_can_listen(text)
    silence_libraries()
    refuse_other_keys()
    bound_messages()
    key_pair = create_new_key_pair(seed)
    noise = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
    libp2p_host = new_host(
        key_pair=key_pair,
        sec_opt={NOISE_PROTOCOL_ID: noise},
        muxer_opt={TProtocol(YAMUX_PROTOCOL_ID): Yamux},
        enable_mDNS=mdns,
        connection_config=connection_config(),
        resource_manager=resource_manager(),
        disable_identify_address_discovery=True,
    )
    basic: Any = libp2p_host  # a BasicHost
    basic.multiselect_client = OneTripClient()
    basic.multiselect = OneTripServer(basic.multiselect.handlers)
    # It would ask each peer what it is, and remember for ever what each has said, up to a megabyte. We answer, but do not ask.
    basic._schedule_identify = _ask_nothing  # noqa: SLF001  # the one door
    basic.remove_stream_handler(ID_PUSH)
    # For ever it would keep a set for each peer that has ever asked; and the muxer has pings of its own.
    basic.remove_stream_handler(PING)
    host = Host(libp2p_host, str(ID.from_pubkey(key_pair.public_key)))
    if mdns:
        announce_by_mdns(basic.mDNS, lambda: to_announce(host.listening))
    async with libp2p_host.run(listen_addrs=[Multiaddr(text) for text in listen]):
        if len(host.listening) < len(listen):
            raise ListenError(
                f"cannot listen on all of {', '.join(listen)}; listening on {host.listening}"
            )
        async with trio.open_nursery() as nursery:
            await nursery.start(host.run_helpers)
            if mdns:
                nursery.start_soon(keep_mdns_current, basic, lambda: to_announce(host.listening))
            try:
                yield host
            finally:
                nursery.cancel_scope.cancel()
