"""Streams opened with one round trip, with each other and with py-libp2p as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from net_tools import two_hosts

from peatnet.errors import PeerLost
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
