"""Opening streams with one round trip instead of two.

multistream-select (https://github.com/multiformats/multistream-select) has both ends say which version of it they speak,
and then the dialer which protocol it wants. py-libp2p waits for the answer to the first before it says the second; here
both leave at once, as with go-libp2p, and both answers are read then. Nothing else is sent ahead: who does not
speak the protocol would take it for another wish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from libp2p.abc import IMultiselectCommunicator
from libp2p.exceptions import ParseError
from libp2p.io.exceptions import IOException
from libp2p.io.utils import read_exactly
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import (
    DEFAULT_NEGOTIATE_TIMEOUT,
    MULTISELECT_PROTOCOL_ID,
    MultiselectClient,
)
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.utils import encode_delim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from libp2p.custom_types import StreamHandlerFn, TProtocol
    from libp2p.io.abc import ReadWriteCloser
    from libp2p.network.stream.net_stream import NetStream

_HELLO = encode_delim(MULTISELECT_PROTOCOL_ID.encode())


class OneTripClient(MultiselectClient):
    """Selects the protocol of a stream in one round trip."""

    async def select_one_of(
        self,
        protocols: Sequence[TProtocol],
        communicator: IMultiselectCommunicator,
        negotiate_timeout: int = DEFAULT_NEGOTIATE_TIMEOUT,
    ) -> TProtocol:
        """As in py-libp2p."""
        stream = communicator.read_writer  # type: ignore[attr-defined]  # of the one class that there is
        return await super().select_one_of(protocols, _OneTrip(stream), negotiate_timeout)


class OneTripServer(Multiselect):
    """Answers in one go who asks in one go."""

    async def negotiate(
        self,
        communicator: IMultiselectCommunicator,
        negotiate_timeout: int = DEFAULT_NEGOTIATE_TIMEOUT,
    ) -> tuple[TProtocol | None, StreamHandlerFn | None]:
        """As in py-libp2p."""
        stream = communicator.read_writer  # type: ignore[attr-defined]  # of the one class that there is
        return await super().negotiate(_HeldHello(stream), negotiate_timeout)


class _HeldHello(IMultiselectCommunicator):
    """Keeps our hello back until there is something to wait for."""

    def __init__(self, stream: NetStream) -> None:
        self._stream = stream
        self._communicator = MultiselectCommunicator(stream)
        self._held = b""
        self._heard = False

    async def write(self, msg_str: str) -> None:
        """The first one is held back until the peer's hello has come, or longer."""
        said, self._held = self._held + encode_delim(msg_str.encode()), b""
        if self._heard:
            await self._send(said)
        else:
            self._held = said

    async def read(self) -> str:
        """What the peer says. It says hello without waiting for ours; anything else it may wait with."""
        if self._heard and self._held and not self._is_here():
            said, self._held = self._held, b""
            await self._send(said)
        self._heard = True
        return await self._communicator.read()

    def _is_here(self) -> bool:
        yamux_stream = self._stream.muxed_stream
        return bool(yamux_stream.conn.stream_buffers.get(yamux_stream.stream_id))  # type: ignore[attr-defined]

    async def _send(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except (IOException, AssertionError, ValueError) as error:
            raise MultiselectCommunicatorError(f"cannot write: {error}") from error


class _OneTrip(IMultiselectCommunicator):
    """Takes the peer's hello for granted until it has to be there."""

    def __init__(self, stream: ReadWriteCloser) -> None:
        self._stream = stream
        self._communicator = MultiselectCommunicator(stream)
        self._held = b""
        self._writes = 0
        self._reads = 0

    async def write(self, msg_str: str) -> None:
        """The first one, our hello, leaves with the second."""
        self._writes += 1
        if self._writes == 1:
            self._held = encode_delim(msg_str.encode())
            return
        if self._writes > 2:
            await self._communicator.write(msg_str)
            return
        try:
            await self._stream.write(self._held + encode_delim(msg_str.encode()))
        except (IOException, AssertionError, ValueError) as error:
            raise MultiselectCommunicatorError(f"cannot write: {error}") from error

    async def read(self) -> str:
        """The first one, the peer's hello, is read when the second is."""
        self._reads += 1
        if self._reads == 1:
            return MULTISELECT_PROTOCOL_ID
        if self._reads == 2:
            try:
                hello = await read_exactly(self._stream, len(_HELLO))
            except (ParseError, IOException) as error:
                raise MultiselectCommunicatorError(f"cannot read: {error}") from error
            if hello != _HELLO:
                raise MultiselectCommunicatorError(f"not multistream-select: {hello!r}")
        return await self._communicator.read()
