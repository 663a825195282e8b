"""A holder and a downloader that have bulk lanes, and callers at the holder's lane port who say what they are told."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from blob_kit import Pair, a_pair
from net_tools import LOOPBACK, PATIENCE

from peatnet.net.blob_server import BlobServer
from peatnet.net.lanes import LANE_PROTOCOL, Lanes, open_lanes
from peatnet.net.lanes.messages import (
    LaneOffer,
    LaneRequest,
    TicketFrame,
    decode_lane_answer,
)
from peatnet.net.network import BLOB_PROTOCOL
from peatnet.net.peer_source import PeerSource
from peatnet.net.upload_gate import UploadGate
from peatnet.net.wire import pack_prefix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from peatnet.net.frames import FrameStream
    from peatnet.net.host import Host


@dataclass
class LanePair(Pair):
    """A pair whose both ends have lanes; ``streams`` are the blob streams that the holder was opened."""

    lanes: Lanes
    taker_lanes: Lanes
    streams: list[str] = field(default_factory=list)
    streams_ended: int = 0

    def source(self) -> PeerSource:
        async def open_stream() -> FrameStream:
            return await self.taker.open_stream(self.holder.peer_id, BLOB_PROTOCOL)

        lanes = self.taker_lanes.to_peer(self.holder.peer_id)
        return PeerSource(self.holder.peer_id, open_stream, self.faults.append, lanes)

    @property
    def port(self) -> int:
        """The holder's port for lanes."""
        return self.lanes.server.port

    async def offer(self, count: int = 1, to: Host | None = None) -> LaneOffer:
        """Ask the holder for lanes, as the taker or as another host."""
        frames = await (to or self.taker).open_stream(self.holder.peer_id, LANE_PROTOCOL)
        await frames.send(LaneRequest(count).header())
        answer = decode_lane_answer((await frames.receive()).fields)
        await frames.reset()
        assert isinstance(answer, LaneOffer)
        return answer

    async def ticket(self) -> bytes:
        """One ticket for the taker."""
        return (await self.offer()).tickets[0]


@asynccontextmanager
async def a_lane_pair(root: Path) -> AsyncIterator[LanePair]:
    async with (
        a_pair(root) as pair,
        open_lanes(pair.holder, pair.holding.store, pair.gate, [LOOPBACK], None) as lanes,
        open_lanes(pair.taker, pair.taking.store, UploadGate(), [LOOPBACK], None) as taker_lanes,
    ):
        made = LanePair(**vars(pair), lanes=lanes, taker_lanes=taker_lanes)
        server = BlobServer(pair.holding.store, pair.gate)

        async def serve(frames: FrameStream) -> None:
            made.streams.append(frames.peer_id)
            try:
                await server.serve(frames)
            finally:
                made.streams_ended += 1

        pair.holder.handle(BLOB_PROTOCOL, serve)
        yield made


def plain(port: int) -> socket.socket:
    """A TCP connection to a lane port."""
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def secure(port: int) -> ssl.SSLSocket:
    """A TLS connection to a lane port, whoever listens there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain(port))


def rest_of(sock: socket.socket) -> bytes:
    """What comes until the other end closes."""
    found = b""
    try:
        while data := sock.recv(65536):
            found += data
    except (ConnectionResetError, ssl.SSLError):
        pass
    return found


def ticket_frame(ticket: bytes) -> bytes:
    return pack_prefix(TicketFrame(ticket).header())


OK = pack_prefix({"t": "ok"})


async def called(work: Callable[[], bytes]) -> bytes:
    """Do this in a worker thread, within a generous time."""
    with trio.fail_after(2 * PATIENCE):
        return await trio.to_thread.run_sync(work)


async def say(port: int, data: bytes) -> bytes:
    """What a lane port answers to these bytes, within TLS, until it closes."""

    def work() -> bytes:
        with secure(port) as sock:
            sock.sendall(data)
            return rest_of(sock)

    return await called(work)
