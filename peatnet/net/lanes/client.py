"""The downloader's way to a lane: ask over libp2p, connect, compare the certificate, hand over the ticket."""

from __future__ import annotations

import hashlib
import hmac
import socket
import threading
from typing import TYPE_CHECKING, NamedTuple

import trio

from peatnet.concurrency import bare_errors
from peatnet.errors import NoSource, PeerLost, RemoteProtocolError
from peatnet.log import get_logger
from peatnet.net.lanes.count import first_count
from peatnet.net.lanes.messages import (
    MAX_LANES_PER_DOWNLOAD,
    LaneOffer,
    LaneRequest,
    NoLane,
    TicketFrame,
    decode_lane_answer,
    decode_ok,
)
from peatnet.net.lanes.sockets import LaneSocket
from peatnet.net.lanes.threads import in_lane_thread
from peatnet.net.lanes.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from peatnet.net.frames import FrameStream

# Time for the answer over libp2p; for a connection, and for TLS on it; for the OK; for all but the first, at all addresses.
ASK_TIMEOUT = 5.0
CONNECT_TIMEOUT = 3.0
OK_TIMEOUT = 5.0
OPEN_TIMEOUT = 8.0
# The next address is tried when one has not answered for this long, or has failed.
NEXT_ADDRESS_AFTER = 0.5
MAX_TRIED = 6
# Lanes that this node has open at a time, as a downloader; beyond them streams serve.
MAX_LANES = 128

log = get_logger(__name__)


class LaneUnavailable(Exception):
    """No lane can be had to this peer now, and why; a stream can serve."""


class LaneClient:
    """Opens lanes to one peer.

    Args:
        peer_id: the peer.
        open_stream: opens a stream of LANE_PROTOCOL to it; raises PeerLost.
        known_address: tells the IP address of the present libp2p connection to it, if there is one.
        round_trip: tells how many seconds it is to it and back; 0 where that is not known.
        on_fault: called with what the peer did when it breaks the protocol.
        threads: for the lanes of the whole node.
        lanes: where the ones that are open, or being opened, are to be found.
        spare: tickets of this peer's that are left over; shared by all who open lanes to it.
    """

    def __init__(
        self,
        peer_id: str,
        open_stream: Callable[[], Awaitable[FrameStream]],
        known_address: Callable[[], str | None],
        round_trip: Callable[[], float],
        on_fault: Callable[[str], None],
        threads: trio.CapacityLimiter,
        lanes: set[LaneSocket],
        spare: list[SpareTicket],
    ) -> None:
        self.peer_id = peer_id
        self.round_trip = round_trip
        self.on_fault = on_fault
        self.threads = threads
        self._open_stream = open_stream
        self._known_address = known_address
        self._lanes = lanes
        self._context = client_context()
        self._first = True
        self._spare = spare

    async def open(
        self,
        offered: Callable[[], None] = lambda: None,
        reached: Callable[[], None] = lambda: None,
    ) -> LaneSocket:
        """Open one lane; whoever gets it closes it.

        Args:
            offered: called when the peer has offered one, before it is connected to.
            reached: called when there is a connection, before the handshake; more than once where there are several.

        Raises:
            LaneUnavailable: the peer gives none, or it cannot be reached there.
            RemoteProtocolError: the peer broke the protocol.
        """
        await trio.lowlevel.checkpoint()  # whoever tries again at once lets others have their turn
        if self.threads.borrowed_tokens >= self.threads.total_tokens:
            raise LaneUnavailable("all lanes of this node are in use")
        try:
            offer, ticket = await self._ticket()
            offered()
            return await self._connect(offer, ticket, reached)
        except NoSource as exc:
            self._spare.clear()
            raise LaneUnavailable(exc.message) from exc
        except RemoteProtocolError as exc:
            self.on_fault(exc.message)
            raise

    async def prepare(self) -> None:
        """Ask for tickets already, which takes two round trips. That it could not be done is found out when a lane is opened."""
        try:
            if not self._spare:
                self._keep(await self._ask())
        except NoSource as exc:
            log.debug("no tickets beforehand", peer=self.peer_id, reason=exc.message)
        except RemoteProtocolError as exc:
            self.on_fault(exc.message)

    async def _ticket(self) -> tuple[LaneOffer, bytes]:
        """An offer, and one of its tickets: of those that are left over, or asked for now."""
        while True:
            while self._spare:
                spare = self._spare.pop()
                if trio.current_time() < spare.until:
                    return spare.offer, spare.ticket
            self._keep(await self._ask())

    def _keep(self, offer: LaneOffer) -> None:
        until = trio.current_time() + max(offer.life / 2, offer.life - OPEN_TIMEOUT / 2)
        self._spare[:] = [SpareTicket(offer, ticket, until) for ticket in offer.tickets]

    async def _ask(self) -> LaneOffer:
        frames = await self._open_stream()
        try:
            # To a peer that is far away there will be several at once, and asking takes as long as connecting.
            count = first_count(self.round_trip()) if self._first else 1
            self._first = False
            await frames.send(LaneRequest(min(count, MAX_LANES_PER_DOWNLOAD)).header())
            frame = await frames.receive(max_payload=0, patience=ASK_TIMEOUT)
            answer = decode_lane_answer(frame.fields)
        finally:
            await frames.reset()
        if isinstance(answer, NoLane):
            raise PeerLost(f"no lane: {answer.reason}")
        return answer

    async def _connect(
        self, offer: LaneOffer, ticket: bytes, reached: Callable[[], None]
    ) -> LaneSocket:
        """A lane from whoever has the certificate; the first connection to show that it has wins.

        Raises:
            PeerLost: none in time.
            RemoteProtocolError: something else than an OK.
        """
        errors: list[str] = []
        won: list[LaneSocket] = []
        try:
            with trio.move_on_after(OPEN_TIMEOUT), bare_errors():
                await self._race(offer, _Ticket(ticket), reached, won, errors)
        except BaseException:
            # Cancelled just when one had been found.
            for lane in won:
                lane.close()
            raise
        if not won:
            why = "; ".join(errors) or f"no answer in {OPEN_TIMEOUT:.0f} s"
            raise PeerLost(f"cannot be reached: {why:.300}")
        return won[0]

    async def _race(
        self,
        offer: LaneOffer,
        ticket: _Ticket,
        reached: Callable[[], None],
        won: list[LaneSocket],
        errors: list[str],
    ) -> None:
        """Try one address after the other, not waiting long for any; the lane is in ``won``."""
        async with trio.open_nursery() as nursery:
            for host, port in self._targets(offer):
                failed = trio.Event()

                async def connect(
                    host: str = host, port: int = port, failed: trio.Event = failed
                ) -> None:
                    try:
                        lane = await self._connect_to(host, port, offer, reached, ticket)
                    except (PeerLost, OSError, UnicodeError) as exc:  # a name that is none
                        errors.append(f"{host} port {port}: {exc}")
                        failed.set()
                    else:
                        won.append(lane)
                        nursery.cancel_scope.cancel()

                nursery.start_soon(connect)
                with trio.move_on_after(NEXT_ADDRESS_AFTER):
                    await failed.wait()

    def _targets(self, offer: LaneOffer) -> list[tuple[str, int]]:
        known = self._known_address()
        targets = [(known, offer.port)] if known is not None else []
        targets += [_host_and_port(text) for text in offer.addresses]
        return list(dict.fromkeys(targets))[:MAX_TRIED]

    async def _connect_to(
        self,
        host: str,
        port: int,
        offer: LaneOffer,
        reached: Callable[[], None],
        ticket: _Ticket,
    ) -> LaneSocket:
        try:
            with trio.fail_after(CONNECT_TIMEOUT):
                stream = await trio.open_tcp_stream(host, port)
        except trio.TooSlowError as exc:
            raise PeerLost(f"no answer in {CONNECT_TIMEOUT:.0f} s") from exc
        reached()
        lane = LaneSocket(socket.socket(fileno=stream.socket.detach()), self._context, server=False)
        self._lanes.add(lane)
        lane.on_close = self._lanes.discard
        try:
            await in_lane_thread(
                lambda: _be_let_in(lane, offer.fingerprint, ticket), lane.shut, self.threads
            )
        except BaseException:
            lane.close()
            raise
        return lane


class SpareTicket(NamedTuple):
    """A ticket that nothing was done with yet, and until when it is worth a connection."""

    offer: LaneOffer
    ticket: bytes
    until: float


class _Ticket:
    """One ticket, which the first of several connections shows: it is good for one lane."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._taken = threading.Lock()

    def take(self) -> bytes:
        """Any thread: the ticket, for the first one who asks.

        Raises:
            PeerLost: for all others.
        """
        if not self._taken.acquire(blocking=False):
            raise PeerLost("another connection was quicker")
        return self._data


def _be_let_in(lane: LaneSocket, fingerprint: bytes, ticket: _Ticket) -> None:
    """In a worker thread: TLS, a look at who is there before anything is said, and the ticket.

    Raises:
        PeerLost: no TLS, another certificate than the peer named, or no OK.
        RemoteProtocolError: something else than an OK.
    """
    lane.shake_hands(CONNECT_TIMEOUT)
    found = hashlib.sha256(lane.peer_certificate()).digest()
    if not hmac.compare_digest(found, fingerprint):
        raise PeerLost("another certificate than the peer named: somebody else answers there")
    lane.send(TicketFrame(ticket.take()).header())
    fields, _ = lane.receive(max_payload=0, limit=OK_TIMEOUT)
    decode_ok(fields)


def _host_and_port(text: str) -> tuple[str, int]:
    """Of an address as ``announced_by_peer`` makes them: ``/ip4|ip6|dns…/HOST/tcp/PORT``."""
    _, _, host, _, port = text.split("/")
    return host, int(port)
