"""Streams opened with one round trip, with each other and with py-libp2p as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.utils import encode_delim
from libp2p.utils.varint import encode_uvarint
from net_tools import PATIENCE, MemoryStream, host, two_hosts

from peatnet.errors import PeerLost
from peatnet.net import host as host_module
from peatnet.net import negotiation
from peatnet.net.connections import connection_config
from peatnet.net.muxer import Muxer

if TYPE_CHECKING:
    from peatnet.net.frames import FrameStream
    from peatnet.net.host import Host

ECHO = "/test/echo/1"


async def echo(frames: FrameStream) -> None:
    frame = await frames.receive()
    await frames.send({"n": frame.fields.integer("n", 0, 9)}, await frames.read_payload(frame))


def plain_client(host: Host) -> None:
    basic: Any = host.libp2p
    basic.multiselect_client = MultiselectClient()


def plain_server(host: Host) -> None:
    basic: Any = host.libp2p
    basic.multiselect = Multiselect(basic.multiselect.handlers)


@pytest.mark.parametrize("client", [False, True], ids=["our client", "py-libp2p's client"])
@pytest.mark.parametrize("server", [False, True], ids=["our server", "py-libp2p's server"])
async def test_both_ends_agree_on_a_protocol(*, client: bool, server: bool) -> None:
    async with two_hosts() as (first, second):
        first.handle(ECHO, echo)
        if server:
            plain_server(first)
        if client:
            plain_client(second)
        for number in range(3):
            frames = await second.open_stream(first.peer_id, ECHO)
            await frames.send({"n": number}, b"word")
            frame = await frames.receive()
            assert frame.fields.integer("n", 0, 9) == number
            assert await frames.read_payload(frame) == b"word"
            await frames.finish()
        with pytest.raises(PeerLost, match="no /test/other/1 stream"):
            await second.open_stream(first.peer_id, "/test/other/1")


@pytest.mark.parametrize(
    "said",
    [
        encode_uvarint(1 << 30) + bytes(100_000),
        encode_delim(bytes(negotiation.MAX_MESSAGE)),
        b"\x80" * 20,
        b"\x00",
        b"\x05/name",
    ],
    ids=["huge", "a byte too long", "an endless length", "nothing", "no end of a line"],
)
async def test_what_is_said_in_a_negotiation_is_bounded(said: bytes) -> None:
    negotiation.bound_messages()
    stream = MemoryStream(said, ends=False)
    with trio.fail_after(PATIENCE), pytest.raises(MultiselectCommunicatorError):
        await MultiselectCommunicator(stream).read()  # type: ignore[arg-type]  # it does what is needed of a stream
    assert len(stream.data) >= len(said) - negotiation.MAX_MESSAGE


async def test_a_stranger_is_not_listened_to_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    config = connection_config()
    config.inbound_upgrade_timeout = 600.0
    monkeypatch.setattr(host_module, "connection_config", lambda: config)
    async with host() as first:
        port = int(first.listening[0].rsplit("/", 1)[1])
        with trio.fail_after(PATIENCE):  # py-libp2p would wait for the rest
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(encode_delim(b"/multistream/1.0.0"))
                await stream.send_all(encode_uvarint(1 << 30))
                while await stream.receive_some():
                    pass


async def test_each_end_says_all_it_can_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_hosts() as (first, second):
        first.handle(ECHO, echo)
        await (await second.open_stream(first.peer_id, ECHO)).finish()  # greetings are over
        frames_with_data: list[bytes] = []
        put = Muxer._put

        def noting(self: Muxer, data: bytes) -> Any:
            if b"/multistream/1.0.0\n" in data or ECHO.encode() in data:
                frames_with_data.append(data[12:])
            return put(self, data)

        monkeypatch.setattr(Muxer, "_put", noting)
        await (await second.open_stream(first.peer_id, ECHO)).finish()
        said = b"\x13/multistream/1.0.0\n" + bytes([len(ECHO) + 1]) + ECHO.encode() + b"\n"
        assert frames_with_data == [said, said]
