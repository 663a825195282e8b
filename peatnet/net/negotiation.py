"""Opening streams with one round trip instead of two.

multistream-select (https://github.com/multiformats/multistream-select) has both ends say which version of it they speak,
and then the dialer which protocol it wants. py-libp2p waits for the answer to the first before it says the second; here
both leave at once, as with go-libp2p, and both answers are read then. Nothing else is sent ahead: who does not
speak the protocol would take it for another wish.

py-libp2p reads messages of any length, and a stranger's before he is anybody: whatever came until the time was up would lie in
memory. And it answers as many as come. Here they are short and few, for all negotiations: of streams, of the muxer, of Noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from libp2p.exceptions import ParseError
from libp2p.io.exceptions import IOException
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import (
    DEFAULT_NEGOTIATE_TIMEOUT,
    MULTISELECT_PROTOCOL_ID,
    MultiselectClient,
    is_valid_handshake,
)
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.utils import encode_delim
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from libp2p.abc import IMultiselectCommunicator
    from libp2p.custom_types import StreamHandlerFn, TProtocol
    from libp2p.io.abc import Reader
    from libp2p.network.stream.net_stream import NetStream

# A protocol's name; or all that one speaks, which we never ask for.
MAX_MESSAGE = 1024
# Of one negotiation: the hello, and a wish for each protocol that may do, of which the most talkative have six or seven.
MAX_MESSAGES = 16


def bound_messages() -> None:
    """From now on, for all negotiations of this process. Said again, it changes nothing."""
    MultiselectCommunicator.read = _read  # type: ignore[method-assign]


async def _read(self: MultiselectCommunicator) -> str:
    """The next message of a negotiation, each of which has a communicator of its own."""
    count = vars(self).get("messages", 0)
    if count >= MAX_MESSAGES:
        raise MultiselectCommunicatorError(f"more than {MAX_MESSAGES} messages")
    vars(self)["messages"] = count + 1
    try:
        return (await _read_message(self.read_writer)).decode()
    except (ParseError, IOException, UnicodeDecodeError) as error:
        raise MultiselectCommunicatorError(f"cannot read: {error}") from error


async def _read_message(reader: Reader) -> bytes:
    message = await read_varint_prefixed_bytes_limited(reader, MAX_MESSAGE)
    if message[-1:] != b"\n":
        raise ParseError("a message of multistream-select that does not end its line")
    return message[:-1]


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


class _Communicator(MultiselectCommunicator):
    """Talks on a stream, and may keep back what is to be said."""

    def __init__(self, stream: NetStream) -> None:
        super().__init__(stream)
        self._stream = stream
        self._held = b""

    async def _say(self) -> None:
        said, self._held = self._held, b""
        try:
            await self._stream.write(said)
        except (IOException, AssertionError, ValueError) as error:
            raise MultiselectCommunicatorError(f"cannot write: {error}") from error


class _HeldHello(_Communicator):
    """The dialled one's side: keeps our hello back until there is something to wait for."""

    def __init__(self, stream: NetStream) -> None:
        super().__init__(stream)
        self._heard = False

    async def write(self, msg_str: str) -> None:
        """The first one is held back until the peer's hello has come, or longer."""
        self._held += encode_delim(msg_str.encode())
        if self._heard:
            await self._say()

    async def read(self) -> str:
        """What the peer says. It says hello without waiting for ours; anything else it may wait with."""
        if self._heard and self._held and not self._is_here():
            await self._say()
        self._heard = True
        return await super().read()

    def _is_here(self) -> bool:
        yamux_stream = self._stream.muxed_stream
        return bool(yamux_stream.conn.stream_buffers.get(yamux_stream.stream_id))  # type: ignore[attr-defined]


class _OneTrip(_Communicator):
    """The dialer's side: takes the peer's hello for granted until it has to be there."""

    def __init__(self, stream: NetStream) -> None:
        super().__init__(stream)
        self._began = False
        self._heard = False

    async def write(self, msg_str: str) -> None:
        """The first one, our hello, leaves with the second."""
        self._held += encode_delim(msg_str.encode())
        if self._began:
            await self._say()
        self._began = True

    async def read(self) -> str:
        """What the peer says; its hello is read when more has to be."""
        if self._held:
            return MULTISELECT_PROTOCOL_ID
        if not self._heard:
            self._heard = True
            if not is_valid_handshake(hello := await super().read()):
                raise MultiselectCommunicatorError(f"not multistream-select: {hello!r}")
        return await super().read()
