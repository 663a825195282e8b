"""The holder's side of lanes: gives out tickets, accepts connections, keeps the lanes and their bounds.

A connection costs a stranger a handshake and gets it nothing: without a ticket it is closed without a word, and its
address counted. Handshakes and lanes run in worker threads of a limiter of their own, so that neither can keep the
rest of the node from its threads.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from peatnet.errors import PeatnetError, PeerLost, RemoteProtocolError
from peatnet.log import get_logger
from peatnet.net.lanes.holder import Holder
from peatnet.net.lanes.messages import (
    BUSY,
    OFF,
    LaneOffer,
    NoLane,
    decode_lane_request,
    decode_ticket,
)
from peatnet.net.lanes.sockets import LaneSocket
from peatnet.net.lanes.threads import in_lane_thread
from peatnet.net.lanes.tickets import AddressStanding, Tickets
from peatnet.net.lanes.tls import new_identity

if TYPE_CHECKING:
    # libp2p brings trio-typing, whose stubs hide trio's own types from the type checker.
    from collections.abc import Sequence

    from trio_typing import TaskStatus

    from peatnet.blobs import Store
    from peatnet.net.frames import FrameStream
    from peatnet.net.upload_gate import Pass, UploadGate

# Time for TLS, and again for the ticket.
HANDSHAKE_TIMEOUT = 5.0
# Connections that have not shown a ticket yet, from one IP address and in all; more are closed at once.
MAX_PENDING_PER_ADDRESS = 16
MAX_PENDING = 64
# Lanes that one peer may have open, and all together.
MAX_LANES_PER_PEER = 16
MAX_LANES = 64
# When all are taken, one on which nothing was asked for this long gives way, as with streams.
GIVES_WAY_AFTER = 5.0
# A chunk whose time has come and that is not sent after this long, but at most twice as long, keeps its place in the
# gate no longer: neither one who takes no bytes nor one whose next request comes in drips must hold up the others.
PLACE_PATIENCE = 3.0

log = get_logger(__name__)


class LaneUser(Protocol):
    """What lanes need to know of the node's peers."""

    def is_banned(self, peer_id: str) -> bool:
        """Whether nothing is to be had for this peer."""
        ...

    def violated(self, peer_id: str, what: str) -> None:
        """Count that a peer broke the protocol."""
        ...


@dataclass(slots=True, eq=False)
class _Lane:
    peer_id: str
    socket: LaneSocket
    holder: Holder
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    leaving: bool = False


class LaneServer:
    """Serves blobs over lanes.

    Args:
        store: where the blobs are.
        gate: which all chunks pass.
        user: the node's opinion of peers.
        tickets: who may come, by trio's clock; None for the usual ones.
    """

    def __init__(
        self, store: Store, gate: UploadGate, user: LaneUser, tickets: Tickets | None = None
    ) -> None:
        self.tickets = tickets or Tickets(os.urandom)
        self.port = 0
        self.addresses: list[str] = []
        self._store = store
        self._gate = gate
        self._user = user
        self._identity = new_identity()
        self._standing = AddressStanding()
        self._pending: Counter[str] = Counter()
        self._lanes: set[_Lane] = set()
        self._telling: set[Holder] = set()
        # No more threads than connections that are let in: nobody waits for one.
        self._threads = trio.CapacityLimiter(MAX_PENDING + MAX_LANES)

    async def offer(self, frames: FrameStream) -> None:
        """Answer a peer that asks for lanes, on a stream of LANE_PROTOCOL.

        Raises:
            PeerLost: the stream ended.
            RemoteProtocolError: the peer sent something else.
        """
        request = decode_lane_request((await frames.receive(max_payload=0)).fields)
        answer: LaneOffer | NoLane = NoLane(OFF)
        if self.port:
            room = MAX_LANES_PER_PEER - self.count(frames.peer_id)
            count = min(request.count, room) if self._find_room() is not None else 0
            tickets = self.tickets.issue(frames.peer_id, count, trio.current_time())
            answer = NoLane(BUSY)
            if tickets:
                answer = LaneOffer(
                    self.port,
                    self.addresses,
                    self._identity.fingerprint,
                    tickets,
                    max(1, int(self.tickets.life)),
                )
        await frames.send(answer.header())

    def count(self, peer_id: str) -> int:
        """How many lanes a peer has open to us."""
        return sum(lane.peer_id == peer_id for lane in self._lanes)

    def shut(self, peer_id: str) -> None:
        """Close a peer's lanes at once, and make its tickets worthless."""
        self.tickets.withdraw(peer_id)
        for lane in self._lanes:
            if lane.peer_id == peer_id:
                lane.socket.shut()
                lane.scope.cancel()

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        addresses: Sequence[str],
        *,
        task_status: TaskStatus[None],
    ) -> None:
        """Accept and serve until cancelled; all lanes are closed then, their threads waited for.

        Args:
            listeners: on one port, each on an address of its own. Closed at the end.
            addresses: where others reach them: ``/ip4/…/tcp/…``.
            task_status: started when connections are accepted.
        """
        self.port = listeners[0].socket.getsockname()[1]
        self.addresses = list(addresses)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._accept, listeners)
                nursery.start_soon(self._free_places)
                task_status.started()
        finally:
            self.port = 0

    async def _free_places(self) -> None:
        seen: set[Pass] = set()
        while True:
            await trio.sleep(PLACE_PATIENCE)
            found = {lane.holder.place_out for lane in self._lanes}
            out = {place for place in found if place is not None}
            for place in out & seen:
                place.done(sent=True)
            seen = out

    async def _accept(self, stream: trio.SocketStream) -> None:
        """Serve one connection. Nothing but cancellation comes out: it would end the node."""
        with socket.socket(fileno=stream.socket.detach()) as sock:
            try:
                await self._serve(sock, sock.getpeername()[0])
            except PeerLost as exc:
                log.debug("lane ended", reason=exc.message)
            except OSError as exc:
                log.debug("lane failed", error=repr(exc))
            except PeatnetError as exc:
                log.error("lane failed here", reason=exc.message)  # noqa: TRY400  # our disk, one line is enough
            except Exception:  # our bug, not the peer's fault: one lane must not end the node
                log.exception("lane failed")

    async def _serve(self, sock: socket.socket, address: str) -> None:
        now = trio.current_time()
        if (
            self._standing.refuses(address, now)
            or self._pending[address] >= MAX_PENDING_PER_ADDRESS
            or self._pending.total() >= MAX_PENDING
        ):
            return
        lane = LaneSocket(sock, self._identity.context, server=True)
        try:
            peer_id = await self._admit(lane, address)
            if peer_id is not None:
                await self._serve_peer(lane, peer_id)
        finally:
            lane.close()

    async def _admit(self, lane: LaneSocket, address: str) -> str | None:
        """The peer that a connection belongs to, by its ticket; None where it is to be closed."""
        self._pending[address] += 1
        try:
            ticket = await in_lane_thread(lambda: _read_ticket(lane), lane.shut, self._threads)
            peer_id = self.tickets.redeem(ticket, trio.current_time())
            reason = "not a ticket of ours"
        except (PeerLost, RemoteProtocolError) as exc:
            peer_id, reason = None, exc.message
        finally:
            self._pending[address] -= 1
            if not self._pending[address]:
                del self._pending[address]
        if peer_id is None:
            log.debug("no lane", address=address, reason=reason)
            if self._standing.failed(address, trio.current_time()):
                log.warning("lanes refused", address=address, reason=reason)
            return None
        if self._user.is_banned(peer_id) or self.count(peer_id) >= MAX_LANES_PER_PEER:
            return None
        return peer_id if self._make_room() else None

    def _find_room(self) -> _Lane | bool | None:
        """True where one more lane can be had, or else the lane that can give way; None where none can."""
        if len(self._lanes) < MAX_LANES:
            return True
        staying = [lane for lane in self._lanes if not lane.leaving]
        if not staying:
            return None
        idle_longest = min(staying, key=lambda lane: lane.holder.idle_since)
        idle = time.monotonic() - idle_longest.holder.idle_since
        return None if idle < GIVES_WAY_AFTER else idle_longest

    def _make_room(self) -> bool:
        found = self._find_room()
        if isinstance(found, _Lane):
            found.leaving = True
            found.scope.cancel()
        return found is not None

    async def _serve_peer(self, socket: LaneSocket, peer_id: str) -> None:
        holder = Holder(self._store, self._gate, socket, peer_id, self._telling)
        lane = _Lane(peer_id, socket, holder)
        self._lanes.add(lane)
        try:
            with lane.scope:
                await in_lane_thread(lane.holder.run, socket.shut, self._threads)
        except RemoteProtocolError as exc:
            self._user.violated(peer_id, exc.message)
        finally:
            self._lanes.discard(lane)


def _read_ticket(lane: LaneSocket) -> bytes:
    """In a worker thread: TLS, then the first frame."""
    lane.shake_hands(HANDSHAKE_TIMEOUT)
    fields, _ = lane.receive(max_payload=0, limit=HANDSHAKE_TIMEOUT)
    return decode_ticket(fields)
