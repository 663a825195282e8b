"""TCP connections that are read and written with one system call."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio
from libp2p.io.trio import TrioTCPStream
from net_tools import turns_of_another

from peatnet.net import tcp
from peatnet.net.tcp import MUCH, QuickTcp

if TYPE_CHECKING:
    from trio.testing import MockClock

# More than the kernel takes at once.
LARGE = bytes(range(256)) * 64 * 1024


def pair() -> tuple[QuickTcp, QuickTcp]:
    one, other = (
        QuickTcp(TrioTCPStream(trio.SocketStream(trio.socket.from_stdlib_socket(sock))))
        for sock in socket.socketpair()
    )
    return one, other


async def read_all(stream: QuickTcp) -> bytes:
    found = bytearray()
    while data := await stream.read(4 * MUCH):
        found += data
    return bytes(found)


async def test_what_is_written_arrives_whole_and_then_the_end() -> None:
    one, other = pair()
    found = b""

    async def read() -> None:
        nonlocal found
        found = await read_all(other)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await one.write(b"small")
        await one.write(LARGE)
        await one.write(b"last")
        await one.close()
    assert found == b"small" + LARGE + b"last"
    await other.close()


async def test_one_who_takes_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    one, other = pair()
    began = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await one.write(LARGE)
    assert trio.current_time() - began == tcp.WRITE_TIMEOUT
    await one.close()
    await other.close()


@pytest.mark.parametrize("before", [False, True])
async def test_a_connection_that_is_closed_here_has_ended(*, before: bool) -> None:
    one, other = pair()
    if before:
        await one.close()
    async with trio.open_nursery() as nursery:
        if not before:
            nursery.start_soon(one.close)
        assert await one.read(MUCH) == b""
    await one.write(b"nobody hears it")  # as with py-libp2p's
    await other.close()


async def test_a_reader_lets_others_have_their_turn() -> None:
    """Also where there is always something to read."""
    one, other = pair()
    async with turns_of_another() as turns, trio.open_nursery() as nursery:
        nursery.start_soon(one.write, LARGE)
        left, reads = len(LARGE), 0
        while left:
            left -= len(await other.read(4 * MUCH))
            reads += 1
    assert turns() >= reads
    await one.close()
    await other.close()
