"""Everything a node does with other nodes, behind one object: host, gossip, dialer, catalogue sync, blobs.

It wires the room's parts together and decides when they act: records are announced as they come, presence now
and then and soon after a change, and catalogues are brought together on connecting, when a peer's digest
differs from ours, and every minute with somebody, whatever gossip may have lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from peatnet.blobs import Hash
from peatnet.concurrency import Stirring
from peatnet.errors import NoSource, PeatnetError, RemoteProtocolError, SignatureError, UsageError
from peatnet.log import get_logger
from peatnet.net.addresses import parse_dial_address, to_announce
from peatnet.net.blob_server import BlobServer
from peatnet.net.catalogue_sync import CatalogueSync
from peatnet.net.claims import Claims
from peatnet.net.dialer import Dialer
from peatnet.net.discovery import watch_mdns
from peatnet.net.gossip import Gossip, TakeStatus, open_gossip
from peatnet.net.host import Host, PeerCallback, open_host
from peatnet.net.lanes import Lanes, open_lanes
from peatnet.net.node_status import NodeStatus
from peatnet.net.peer_source import PeerSource
from peatnet.net.presence import MAX_GAINED, Presence
from peatnet.net.remembered import Allowances
from peatnet.net.small_server import SmallServer
from peatnet.net.small_stream import SMALL_PROTOCOL
from peatnet.net.standing import Allowance, Offence
from peatnet.net.upload_gate import UploadGate
from peatnet.records import Outcome, PeerId

if TYPE_CHECKING:
    # libp2p brings trio-typing, whose stubs hide trio's own types from the type checker.
    import random

    from trio_typing import TaskStatus

    from peatnet.blobs import Store
    from peatnet.net.frames import FrameStream
    from peatnet.net.ports import RecordKeeper, Taken

BLOB_PROTOCOL = "/peatnet/blob/1"
CATALOGUE_PROTOCOL = "/peatnet/catalogue/1"

PRESENCE_INTERVAL = 15.0
# Changes within this time go out in one message.
PRESENCE_DELAY = 0.25
# That blobs were gained is told after about so long, by each node at a moment of its own: nodes that fetch together gain
# together, and whoever fetches from us hears of each chunk without gossip.
GAINED_DELAY = 2.0
# Messages a second, and the burst, at most; half of what others let pass, see `gossip`.
PRESENCE_RATE = 0.5
PRESENCE_BURST = 10.0
SYNC_INTERVAL = 60.0
# The least time between two exchanges with one peer whose digest differs: gossip may be on its way.
SYNC_PAUSE = 5.0
# Records a second that one peer may bring in exchanges though they are no news, or not of anybody that we trust, and the burst: more than all that
# a catalogue keeps of untrusted publishers. What is beyond is waited for.
VAIN_RATE = 500.0
VAIN_BURST = 5000.0
# How long, in seconds, the one of two that does not begin the exchange when they meet waits for the other to.
FIRST_MOVE = 1.0
# One that was put off while another ran is looked at again after so long, in seconds.
LOOK_AGAIN = 0.5

# Where nodes with our identity were, we among them, of which so many are remembered: each other one is logged once, beyond that none.
MAX_OURSELVES = 64

log = get_logger(__name__)

OnBlob = Callable[[str, Hash], None]
OnStatus = Callable[[str, int, NodeStatus], None]


class Network:
    """A node's place among the others. Made by :func:`open_network`.

    Attributes:
        on_peer: called when a peer connects or leaves.
        on_gained: called with (peer id, blob) when a connected peer says that it has gained some of a blob.
        on_status: called with (peer id, sequence number, status) when any node of the network tells its status.
        gate: which all chunks pass on their way out.
        claims: who fetches what from its origin.
    """

    def __init__(
        self,
        host: Host,
        keeper: RecordKeeper,
        rng: random.Random,
        gate: UploadGate,
        lanes: Lanes | None,
    ) -> None:
        self.gate = gate
        self.claims = Claims(host.peer_id, trio.current_time, self._presence_changed)
        self.on_peer: list[PeerCallback] = []
        self.on_gained: list[OnBlob] = []
        self.on_status: list[OnStatus] = []
        self._host = host
        self._keeper = keeper
        self._rng = rng
        self._lanes = lanes
        self.dialer = Dialer(host, rng)
        self._gossip: Gossip | None = None
        self._sync = CatalogueSync(keeper.catalogue, self._take_from_sync)
        self._gained: dict[Hash, None] = {}
        self._presence_at = 0.0  # on trio's clock
        self._presence_hurried = Stirring()
        self._vain = Allowances(VAIN_RATE, VAIN_BURST)
        self._synced_at: dict[
            str, float
        ] = {}  # when an exchange with a peer began last, by us or by it
        self._syncing: set[str] = set()
        self._sync_again: set[str] = set()  # peers with whom an exchange was wanted while one ran
        self._put_off: set[str] = set()  # peers with whom one was wanted too soon after the last
        self._digests: dict[str, bytes] = {}  # what connected peers last told of their catalogues
        self._ourselves: set[str] = set()  # where mDNS has found our identity
        self._nursery: trio.Nursery | None = None
        host.on_change.append(self._peer_changed)

    @property
    def addrs(self) -> list[str]:
        """Full addresses that other machines can dial."""
        return self._host.addrs

    @property
    def connected(self) -> frozenset[str]:
        """The peers that we are connected to."""
        return self._host.connected

    def lanes(self, peer_id: str) -> int:
        """How many bulk lanes there are with a peer, both ways."""
        return self._lanes.count(peer_id) if self._lanes is not None else 0

    def banned(self) -> dict[str, float]:
        """Banned peers, each with the seconds that its ban still lasts."""
        now = trio.current_time()
        return {peer: until - now for peer, until in self._host.standing.banned(now).items()}

    def source(self, peer_id: str) -> PeerSource:
        """This peer as a source of chunks."""

        def opening(protocol: str) -> Callable[[], Awaitable[FrameStream]]:
            return partial(self._host.open_stream, peer_id, protocol)

        def fault(what: str) -> None:
            self._host.offend(peer_id, Offence.MALFORMED, what)

        lanes = self._lanes.to_peer(peer_id) if self._lanes is not None else None
        return PeerSource(peer_id, opening(BLOB_PROTOCOL), fault, lanes, opening(SMALL_PROTOCOL))

    def offend(self, peer_id: str, offence: Offence, reason: str) -> None:
        """Count an offence of a peer; see :mod:`peatnet.net.standing`."""
        self._host.offend(peer_id, offence, reason)

    async def announce(self, envelope: bytes) -> None:
        """Gossip a record. Peers that miss it get it by catalogue sync."""
        if self._gossip is not None:
            await self._gossip.publish_record(envelope)
        self._presence_changed()  # our digest has

    async def tell_status(self, status: NodeStatus) -> None:
        """Gossip our status, which must be bounded. Before the network runs, nobody hears it."""
        if self._gossip is not None:
            await self._gossip.publish_status(status)

    @property
    def announced(self) -> list[str]:
        """Where others are told to dial us, without the peer id."""
        return to_announce(self._host.listening)

    def remember(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Look for a node where it was in an earlier run. What is no address is found out when it is dialled."""
        try:
            PeerId.parse(peer_id)
        except UsageError as exc:  # the disk has changed it
            log.warning("a known node is not looked for", peer=peer_id, reason=exc.message)
        else:
            self.dialer.remember(peer_id, addresses)

    def found_nearby(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Note where mDNS says that a peer is. Where it is said of ourselves, another node has our identity."""
        told = list(addresses)
        if peer_id != self._host.peer_id:
            self.dialer.learn(peer_id, told)
            return
        if not told or len(self._ourselves) >= MAX_OURSELVES:
            return
        strange = self._ourselves.union(self.announced).isdisjoint(told)
        self._ourselves.update(told)  # ours, too: they may be told of once more when we have moved
        if strange:
            # The others take the two for one, and who is connected to one of them hears nothing of the other.
            log.warning(
                "another node has this one's identity; one of them needs a data directory that was not copied",
                peer=peer_id,
                addresses=told,
            )

    def forget(self, peer_id: str) -> None:
        """Do not look for a node any more."""
        self.dialer.forget(peer_id)

    def sync_with_all(self) -> None:
        """Bring catalogues together with all connected peers soon, as after a change of trust."""
        self._synced_at.clear()
        # What runs already goes by how things were when it began, and may lack what counts only now.
        self._sync_again |= self._syncing
        for peer_id in self._host.connected:
            self._sync_soon(peer_id)

    def announce_blob(self, blob: Hash) -> None:
        """Tell peers soon that we have (some of) this blob."""
        self._gained[blob] = None
        self._presence_within(GAINED_DELAY * self._rng.uniform(0.5, 1.5))

    # What peers send

    async def _judge_record(self, forwarder: str, envelope: bytes) -> bool:
        (taken,) = await self._take(forwarder, [envelope])
        return taken.outcome in {Outcome.ACCEPTED, Outcome.DUPLICATE}

    async def _take_from_sync(self, peer_id: str, envelopes: list[bytes]) -> None:
        results = await self._take(peer_id, envelopes)
        # Each has taken us the check of a signature. One that was lacking is worth it, if we trust whoever signed it.
        is_trusted = self._keeper.catalogue.is_trusted
        accepted = [taken.record for taken in results if taken.outcome is Outcome.ACCEPTED]
        worth_it = sum(record is not None and is_trusted(record.publisher) for record in accepted)
        now = trio.current_time()
        await trio.sleep(self._vain.of(peer_id).owe(len(results) - worth_it, now))
        if any(taken.outcome is Outcome.ACCEPTED for taken in results):
            self._presence_changed()  # the others may lack it as we did; whoever gossips a record tells all

    async def _take(self, peer_id: str, envelopes: list[bytes]) -> list[Taken]:
        results = await self._keeper.take(envelopes, peer_id)
        for taken in results:
            if taken.fault is not None:
                kind = "bad signature" if isinstance(taken.fault, SignatureError) else "bad record"
                reason = f"{kind}: {taken.fault.message}"
                self._host.offend(peer_id, Offence.BAD_RECORD, reason)
            elif taken.record is not None and taken.outcome is not Outcome.ACCEPTED:
                log.debug(
                    "record ignored", outcome=taken.outcome, key=taken.record.key, peer=peer_id
                )
        return results

    def _presence_changed(self) -> None:
        self._presence_within(PRESENCE_DELAY)

    def _presence_within(self, seconds: float) -> None:
        at = trio.current_time() + seconds
        if at < self._presence_at:
            self._presence_at = at
            self._presence_hurried.stir()

    def _take_presence(self, sender: str, presence: Presence) -> None:
        if sender == self._host.peer_id or self._host.is_banned(sender):
            return
        self.dialer.learn(sender, presence.addresses)
        if sender not in self._host.connected:
            return
        self.claims.heard(sender, presence.claims, presence.learned)
        for blob in presence.gained:
            for callback in self.on_gained:
                callback(sender, blob)
        self._digests[sender] = presence.digest
        self._sync_if_different(sender)

    def _differs(self, peer_id: str) -> bool:
        """Whether a peer has said that its catalogue is not ours."""
        digest = self._digests.get(peer_id)
        return digest is not None and digest != self._keeper.catalogue.digest()

    def _take_status(self, sender: str, sequence: int, status: NodeStatus) -> None:
        if sender == self._host.peer_id or self._host.is_banned(sender):
            return
        for callback in self.on_status:
            callback(sender, sequence, status)

    def _peer_changed(self, peer_id: str, *, connected: bool) -> None:
        if connected:
            self._meet(peer_id)
            self._presence_changed()
        else:
            self._synced_at.pop(peer_id, None)
            self._digests.pop(peer_id, None)
            self.claims.gone(peer_id)
        for callback in self.on_peer:
            callback(peer_id, connected=connected)

    # What we do by ourselves

    def _meet(self, peer_id: str) -> None:
        """Bring catalogues together with a peer that has just connected.

        One exchange serves both, so one of the two begins it: the one with the smaller peer id. The other looks after
        a while whether it has.
        """
        if self._host.peer_id < peer_id:
            self._sync_soon(peer_id)
        elif self._nursery is not None:
            self._nursery.start_soon(self._sync_unless_met, peer_id)

    async def _sync_unless_met(self, peer_id: str) -> None:
        met_at = trio.current_time()
        await trio.sleep(FIRST_MOVE)
        if self._sync.is_answering(peer_id) or self._synced_at.get(peer_id, -1.0) >= met_at:
            return
        if peer_id in self.connected:
            self._sync_soon(peer_id)

    async def _answer_sync(self, frames: FrameStream) -> None:
        began = trio.current_time()
        if await self._sync.answer(frames) and frames.peer_id in self.connected:
            self._synced_at[frames.peer_id] = began

    def _sync_if_different(self, peer_id: str) -> None:
        if not self._differs(peer_id):
            return
        if self._sync.is_answering(peer_id):
            self._put_off_sync(peer_id, trio.current_time() + LOOK_AGAIN)
        else:
            self._sync_soon(peer_id)

    def _sync_soon(self, peer_id: str) -> None:
        if self._nursery is None:
            return
        now = trio.current_time()
        soonest = self._synced_at.get(peer_id, -SYNC_PAUSE) + SYNC_PAUSE
        if peer_id in self._syncing or now < soonest:
            self._put_off_sync(peer_id, max(soonest, now + LOOK_AGAIN))
            return
        self._synced_at[peer_id] = now
        self._syncing.add(peer_id)
        self._nursery.start_soon(self._sync_with, peer_id)

    def _put_off_sync(self, peer_id: str, at: float) -> None:
        """Look again later: what is under way may bring what is lacking, or have begun before the peer had it."""
        if self._nursery is not None and peer_id not in self._put_off:
            self._put_off.add(peer_id)
            self._nursery.start_soon(self._sync_later, peer_id, at)

    async def _sync_later(self, peer_id: str, at: float) -> None:
        await trio.sleep_until(at)
        self._put_off.discard(peer_id)
        self._sync_if_different(peer_id)

    async def _sync_with(self, peer_id: str) -> None:
        try:
            frames = await self._host.open_stream(peer_id, CATALOGUE_PROTOCOL)
            try:
                await self._sync.ask(frames)
                await frames.finish()
            finally:
                await frames.reset()
        except NoSource as exc:
            log.debug("catalogue sync failed", peer=peer_id, reason=exc.message)
        except RemoteProtocolError as exc:
            self._host.offend(peer_id, Offence.MALFORMED, exc.message)
        except PeatnetError as exc:
            log.error("records not kept", reason=exc.message)  # noqa: TRY400  # our disk, one line is enough
        finally:
            self._syncing.discard(peer_id)
            if peer_id in self._sync_again:
                self._sync_again.discard(peer_id)
                self._synced_at.pop(peer_id, None)
                self._sync_soon(peer_id)

    async def _sync_now_and_then(self) -> None:
        while True:
            await trio.sleep(SYNC_INTERVAL * self._rng.uniform(0.75, 1.25))
            self._keeper.catalogue.reconsider()
            peers = sorted(self._host.connected)
            if peers:
                self._sync_soon(self._rng.choice(peers))

    async def _send_presence(self, gossip: Gossip) -> None:
        allowance = Allowance(PRESENCE_RATE, PRESENCE_BURST)
        while True:
            await trio.sleep(allowance.wait(trio.current_time()))
            allowance.take(trio.current_time())
            while (now := trio.current_time()) < self._presence_at:
                with trio.move_on_at(self._presence_at):
                    await self._presence_hurried.event.wait()
            self._presence_at = now + PRESENCE_INTERVAL * self._rng.uniform(0.75, 1.25)
            gained = list(self._gained)[:MAX_GAINED]
            for blob in gained:
                del self._gained[blob]
            if self._gained:
                self._presence_changed()
            digest = self._keeper.catalogue.digest()
            await gossip.publish_presence(
                Presence(to_announce(self._host.listening), digest, gained, *self.claims.to_tell())
            )

    async def run(self, gossip: Gossip, *, task_status: TaskStatus[None]) -> None:
        """Do all that a node does by itself, until cancelled."""
        self._gossip = gossip
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.dialer.run)
            nursery.start_soon(self._sync_now_and_then)
            nursery.start_soon(self._send_presence, gossip)
            self.sync_with_all()  # those that connected before this ran
            task_status.started()

    @property
    def handlers(self) -> dict[str, Callable[[FrameStream], Awaitable[None]]]:
        """Our inbound protocols that this object serves itself."""
        return {CATALOGUE_PROTOCOL: self._answer_sync}

    @property
    def judges(
        self,
    ) -> tuple[
        Callable[[str, bytes], Awaitable[bool]], Callable[[str, Presence], None], TakeStatus
    ]:
        """What gossip asks about records, presence and status."""
        return self._judge_record, self._take_presence, self._take_status


@asynccontextmanager
async def open_network(
    seed: bytes,
    keeper: RecordKeeper,
    store: Store,
    *,
    listen: Sequence[str],
    peers: Sequence[str],
    mdns: bool,
    rng: random.Random,
    bulk: bool = True,
    bulk_port: int | None = None,
    upload_limit: float | None = None,
    peer_upload_limit: float | None = None,
    gossip_counter: int = 0,
) -> AsyncIterator[Network]:
    """Take part in the network for as long as the context lasts.

    Args:
        seed: 32 bytes, of our Ed25519 identity.
        keeper: keeps the catalogue, which gossip and sync bring up to date.
        store: what is served to peers.
        listen: listening addresses, ``/ip4/…/tcp/…``.
        peers: peers to stay connected to, ``/ip4/…/tcp/…/p2p/…``.
        mdns: find and be found on the local network.
        rng: spreads retries and intervals over time.
        bulk: have bulk lanes; without them all chunks go over libp2p streams, both ways.
        bulk_port: where they are listened for; see :func:`peatnet.net.lanes.lane_listeners`.
        upload_limit: bytes a second of chunks to all peers together; None for no limit.
        peer_upload_limit: the same to each one of them.
        gossip_counter: where the numbers of our gossip messages begin at the least.

    Raises:
        ListenError: an address cannot be listened on.
        UsageError: an address is malformed.
    """
    wanted = [parse_dial_address(text) for text in peers]
    gate = UploadGate(rate=upload_limit, per_peer=peer_upload_limit)
    async with open_host(seed, listen, mdns=mdns) as host, AsyncExitStack() as stack:
        lanes = None
        if bulk:
            lanes = await stack.enter_async_context(
                open_lanes(host, store, gate, listen, bulk_port)
            )
        network = Network(host, keeper, rng, gate, lanes)
        host.handle(BLOB_PROTOCOL, BlobServer(store, gate).serve)
        host.handle(SMALL_PROTOCOL, SmallServer(store, gate).serve)
        for protocol, handler in network.handlers.items():
            host.handle(protocol, handler)
        async with (
            open_gossip(host, *network.judges, gossip_counter) as gossip,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(gate.run)
            await nursery.start(network.run, gossip)
            if mdns:
                await nursery.start(watch_mdns, network.found_nearby)
            for address, peer_id in wanted:
                network.dialer.want(peer_id, [address])
            try:
                yield network
            finally:
                nursery.cancel_scope.cancel()
