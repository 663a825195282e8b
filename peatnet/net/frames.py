"""Frames over a libp2p stream, bounded in size and in time.

In py-libp2p 0.8.1 the end of a stream, a reset and a killed peer all look alike, so only a whole frame counts as
a message. A peer may freeze or trickle, so every frame has a time limit, both ways, that grows with its size. A
frame that was cut half-way leaves the stream useless (the connection is safe, see ``muxer``): it is reset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import trio
from libp2p.exceptions import BaseLibp2pError

from peatnet.errors import PeerLost, RemoteProtocolError
from peatnet.log import get_logger
from peatnet.net.effort import MESSAGE
from peatnet.net.muxer import Muxer
from peatnet.net.wire import MAX_HEADER, MAX_PAYLOAD, PREFIX, Fields, pack_prefix, unpack_map

if TYPE_CHECKING:
    from collections.abc import Mapping

    from libp2p.abc import INetStream
    from typing_extensions import Buffer

    from peatnet.net.effort import Effort

# The time for a frame, or for what is left of it once it has begun, without its payload; for the payload, the
# time that it takes at the lowest rate that is of any use.
FRAME_TIMEOUT = 20.0
LOWEST_RATE = 16 * 1024
READ_TIMEOUT = 30.0
# What fits into one Noise message (65,535 bytes less 16 of its tag) with yamux's header of 12. py-libp2p's own
# slices are 17 bytes longer, so each of them costs a second message, with all the work of a first one.
SLICE = 65_535 - 16 - 12
# How long a stream that we have ended is kept for the peer to end it too, so that it can read our last words.
LINGER = 5.0
LINGER_READ = 64 * 1024

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Frame:
    """A received frame's header, and how many payload bytes follow it on the stream."""

    fields: Fields
    payload_length: int


class FrameStream:
    """Sends and receives frames on one stream. One task may send while another receives.

    Args:
        stream: an open libp2p stream with its protocol agreed.
        peer_id: the other end, as Noise proved it.
        effort: what that may make us do; None where we have opened the stream, and are answered.
    """

    def __init__(self, stream: INetStream, peer_id: str, effort: Effort | None = None) -> None:
        self.peer_id = peer_id
        self._effort = effort
        self._stream = stream
        self._send_lock = trio.Lock()
        self._torn = False
        self._ended = False

    def round_trip(self) -> float:
        """Seconds to the peer and back at least; 0 where that is not known."""
        connection = self._stream.muxed_conn
        return connection.round_trip() if isinstance(connection, Muxer) else 0.0

    async def send(self, header: Mapping[str, Any], payload: Buffer = b"") -> None:
        """Send one frame.

        Cancellation: a frame that has begun may be cut. Nothing more can be sent then; reset the stream.

        Raises:
            PeerLost: the peer is gone, or takes bytes too slowly.
        """
        view = memoryview(payload)
        prefix = pack_prefix(header, view.nbytes)
        async with self._send_lock:
            if self._torn:
                raise PeerLost(f"{self.peer_id}: the stream broke earlier")
            self._torn = True
            try:
                with trio.fail_after(_time_for(view.nbytes)):
                    # The first piece goes with the prefix: each write is a message of its own on the wire, and
                    # costs as much for 20 bytes as for 20,000.
                    first = SLICE - len(prefix)
                    await self._stream.write(prefix + view[:first])
                    for start in range(first, view.nbytes, SLICE):
                        # The muxer copies what it is given: a view is enough.
                        await self._stream.write(cast("bytes", view[start : start + SLICE]))
            except trio.TooSlowError as exc:
                raise PeerLost(f"{self.peer_id}: takes bytes too slowly") from exc
            except (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise PeerLost(f"{self.peer_id}: the stream broke: {exc!r}") from exc
            self._torn = False

    async def receive(
        self, *, max_payload: int = MAX_PAYLOAD, patience: float = READ_TIMEOUT
    ) -> Frame:
        """Receive the next frame's header. The payload must be read before the next call.

        Raises:
            PeerLost: the peer is gone, ended the stream, or sent nothing for ``patience`` seconds.
            RemoteProtocolError: a length over its bound, or a malformed header.
        """
        first = await self._read_some(PREFIX.size, patience)
        prefix = first + await self._read(PREFIX.size - len(first))
        header_length, payload_length = PREFIX.unpack(prefix)
        if header_length > MAX_HEADER:
            raise RemoteProtocolError(f"{self.peer_id}: a header of {header_length} bytes")
        if payload_length > max_payload:
            raise RemoteProtocolError(f"{self.peer_id}: a payload of {payload_length} bytes")
        header = await self._read(header_length)
        if self._effort is not None:
            await self._effort.spend(MESSAGE)
        return Frame(unpack_map(header), payload_length)

    async def read_payload(self, frame: Frame) -> bytes:
        """Read a frame's payload into memory; its length was bounded by ``receive``.

        Raises:
            PeerLost: the stream ended or stalled before it was whole.
        """
        return await self._read(frame.payload_length)

    async def read_into(self, view: memoryview) -> None:
        """Fill ``view`` with the next bytes of a payload.

        Raises:
            PeerLost: the stream ended or stalled before ``view`` was full.
        """
        position = 0
        try:
            # One time limit for all of it: setting one for each of the many reads costs as much as the reads.
            with trio.fail_after(_time_for(view.nbytes)):
                while position < view.nbytes:
                    data = await self._read_now(view.nbytes - position)
                    view[position : position + len(data)] = data
                    position += len(data)
        except trio.TooSlowError as exc:
            raise PeerLost(f"{self.peer_id}: sends too slowly") from exc

    async def _read(self, count: int) -> bytes:
        buffer = bytearray(count)
        await self.read_into(memoryview(buffer))
        return bytes(buffer)

    async def _read_some(self, limit: int, patience: float) -> bytes:
        try:
            with trio.fail_after(patience):
                return await self._read_now(limit)
        except trio.TooSlowError as exc:
            raise PeerLost(f"{self.peer_id}: sent nothing for {patience:.0f} s") from exc

    async def _read_now(self, limit: int) -> bytes:
        try:
            data = await self._stream.read(limit)
        except (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise PeerLost(f"{self.peer_id}: the stream ended") from exc
        if not data:
            raise PeerLost(f"{self.peer_id}: the stream ended")
        return data

    async def finish(self) -> None:
        """End the stream in good order: what was sent still arrives. Safe to call more than once.

        Waits, for LINGER seconds at most, until the peer has ended it too; what it sends till then is lost.
        """
        if self._ended:
            return
        try:
            with trio.move_on_after(LINGER):
                await self._stream.close()
                while await self._stream.read(LINGER_READ):
                    pass
        except (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            log.debug("stream finished", peer=self.peer_id, end=repr(exc))
        finally:
            await self.reset()

    async def reset(self) -> None:
        """Drop the stream at once, at both ends. Safe to call more than once; not cancelled."""
        if self._ended:
            return
        self._ended = True
        # Streams left open count against the connection until opening one hangs. The muxer makes this instant.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + READ_TIMEOUT):
            try:
                await self._stream.reset()
            except (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                log.debug("stream had ended", peer=self.peer_id, end=repr(exc))


def _time_for(size: int) -> float:
    return FRAME_TIMEOUT + size / LOWEST_RATE
