"""Frames over a libp2p stream, with the guards that py-libp2p's streams need.

Three things about py-libp2p 0.8.1 shape this module. The end of a stream, a reset and a killed peer all look
alike, so only a whole frame counts as a message. A write that is cancelled half-way leaves half a muxer frame
on the connection, so writes are shielded, and a write that does not end in time costs the whole connection.
A read may wait for ever on a frozen peer, so every read has a time limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import trio
from libp2p.exceptions import BaseLibp2pError

from peatnet.errors import PeerLost, RemoteProtocolError
from peatnet.net.wire import MAX_HEADER, MAX_PAYLOAD, PREFIX, Fields, pack_prefix, unpack_map

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from libp2p.abc import INetStream
    from typing_extensions import Buffer

# A peer that takes no bytes for this long is gone or frozen. The muxer gives up on a full window after 5 s;
# this bound is for the socket below it.
WRITE_TIMEOUT = 20.0
READ_TIMEOUT = 30.0


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
        abandon: closes the whole connection to the peer; called when a write had to be cut.
    """

    def __init__(
        self, stream: INetStream, peer_id: str, abandon: Callable[[], Awaitable[None]]
    ) -> None:
        self.peer_id = peer_id
        self._stream = stream
        self._abandon = abandon
        self._send_lock = trio.Lock()
        self._finished = False

    async def send(self, header: Mapping[str, Any], payload: Buffer = b"") -> None:
        """Send one frame, whole. Cancellation takes effect before or after it, never within.

        Raises:
            PeerLost: the peer is gone, or took no bytes for WRITE_TIMEOUT seconds.
        """
        view = memoryview(payload)
        prefix = pack_prefix(header, view.nbytes)
        async with self._send_lock:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_TIMEOUT) as cut:
                try:
                    await self._stream.write(prefix)
                    if view.nbytes:
                        # The muxer slices what it is given and copies each slice once: a view is enough.
                        await self._stream.write(cast("bytes", view))
                except (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                    raise PeerLost(f"{self.peer_id}: the stream broke: {exc!r}") from exc
            if cut.cancelled_caught:
                await self._abandon()
                raise PeerLost(f"{self.peer_id}: took no bytes for {WRITE_TIMEOUT:.0f} s")

    async def receive(
        self, *, max_payload: int = MAX_PAYLOAD, patience: float = READ_TIMEOUT
    ) -> Frame:
        """Receive the next frame's header. The payload must be read before the next call.

        Raises:
            PeerLost: the peer is gone, ended the stream, or sent nothing for ``patience`` seconds.
            RemoteProtocolError: a length over its bound, or a malformed header.
        """
        prefix = await self._read_exactly(PREFIX.size, patience)
        header_length, payload_length = PREFIX.unpack(prefix)
        if header_length > MAX_HEADER:
            raise RemoteProtocolError(f"{self.peer_id}: a header of {header_length} bytes")
        if payload_length > max_payload:
            raise RemoteProtocolError(f"{self.peer_id}: a payload of {payload_length} bytes")
        header = await self._read_exactly(header_length, READ_TIMEOUT)
        return Frame(unpack_map(header), payload_length)

    async def read_payload(self, frame: Frame) -> bytes:
        """Read a frame's payload into memory; its length was bounded by ``receive``."""
        buffer = bytearray(frame.payload_length)
        await self.read_into(memoryview(buffer))
        return bytes(buffer)

    async def read_into(self, view: memoryview) -> None:
        """Fill ``view`` with the next bytes of a payload.

        Raises:
            PeerLost: the stream ended or stalled before ``view`` was full.
        """
        position = 0
        while position < view.nbytes:
            data = await self._read_some(view.nbytes - position, READ_TIMEOUT)
            view[position : position + len(data)] = data
            position += len(data)

    async def _read_exactly(self, count: int, patience: float) -> bytes:
        data = await self._read_some(count, patience) if count else b""
        while len(data) < count:
            data += await self._read_some(count - len(data), READ_TIMEOUT)
        return data

    async def _read_some(self, limit: int, patience: float) -> bytes:
        try:
            with trio.fail_after(patience):
                data = await self._stream.read(limit)
        except trio.TooSlowError as exc:
            raise PeerLost(f"{self.peer_id}: sent nothing for {patience:.0f} s") from exc
        except (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise PeerLost(f"{self.peer_id}: the stream ended") from exc
        if not data:
            raise PeerLost(f"{self.peer_id}: the stream ended")
        return data

    async def finish(self) -> None:
        """Close the stream in good order: what was sent still arrives. Safe to call more than once."""
        await self._end(self._stream.close)

    async def reset(self) -> None:
        """Drop the stream at once, at both ends. Safe to call more than once."""
        await self._end(self._stream.reset)

    async def _end(self, how: Callable[[], Awaitable[None]]) -> None:
        if self._finished:
            return
        self._finished = True
        # Unclosed streams count against the connection until opening one hangs: end it even when cancelled.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_TIMEOUT):
            try:
                await how()
            except (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError):
                return  # it had ended already, which is what was wanted
