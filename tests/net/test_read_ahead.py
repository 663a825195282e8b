"""Streams that are read in large pieces, and what that must not keep others from."""

from __future__ import annotations

import pytest
import trio
from net_tools import MemoryStream, turns_of_another

from peatnet.net.quick_lock import IN_A_ROW, QuickLock
from peatnet.net.read_ahead import ReadAhead

DATA = bytes(range(256)) * 16


def ahead(size: int) -> ReadAhead:
    return ReadAhead(MemoryStream(DATA), size)  # type: ignore[arg-type]  # it does what is needed of a stream


@pytest.mark.parametrize("step", [1, 7, len(DATA), None])
async def test_all_comes_in_order_whatever_is_asked_for(step: int | None) -> None:
    stream = ahead(1000)
    found = bytearray()
    while len(found) < len(DATA):
        piece = await stream.read(step)
        assert 0 < len(piece) <= (step or 1000)
        found += piece
    assert found == DATA


async def test_who_reads_byte_by_byte_lets_others_have_their_turn() -> None:
    stream = ahead(len(DATA))
    async with turns_of_another() as turns:
        for _ in range(len(DATA)):
            await stream.read(1)
    assert turns() >= len(DATA) // IN_A_ROW - 1


async def test_a_quick_lock_lets_one_in_at_a_time() -> None:
    lock, inside, most = QuickLock(), 0, 0

    async def enter() -> None:
        nonlocal inside, most
        async with lock:
            inside += 1
            most = max(most, inside)
            await trio.lowlevel.checkpoint()
            inside -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(enter)
    assert (inside, most) == (0, 1)
