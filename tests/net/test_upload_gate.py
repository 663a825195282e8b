"""The upload gate: go is called once or never, from any thread, and limits let things out in time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import trio

from peatnet.blobs import Hash
from peatnet.errors import LocalProtocolError
from peatnet.net.upload_gate import UploadGate
from peatnet.swarm.window import USUAL

if TYPE_CHECKING:
    from trio.testing import MockClock

MIB = 2**20
BLOB = Hash(bytes(32))


class Went:
    """Counts how often it was told to go."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def test_go_may_come_at_once_and_done_lets_the_next_go() -> None:
    gate = UploadGate(clock=lambda: 0.0)
    calls = [Went() for _ in range(USUAL + 1)]
    passes = [gate.submit(BLOB, n, "a", 3, MIB, go) for n, go in enumerate(calls)]
    assert [go.count for go in calls] == [1] * USUAL + [0]
    passes[0].done(sent=True)
    passes[0].done(sent=True)
    passes[0].withdraw()
    assert calls[-1].count == 1
    assert gate.sent_bytes == MIB


def test_what_is_withdrawn_never_goes_and_makes_room_where_it_went() -> None:
    gate = UploadGate(clock=lambda: 0.0)
    calls = [Went() for _ in range(USUAL + 2)]
    passes = [gate.submit(BLOB, n, "a", 3, MIB, go) for n, go in enumerate(calls)]
    passes[-1].withdraw()
    passes[0].withdraw()  # it went: its place is free
    for each in passes[1:-1]:
        each.done(sent=True)
    assert [go.count for go in calls] == [1] * (USUAL + 1) + [0]
    assert gate.sent_bytes == USUAL * MIB


def test_what_was_not_sent_is_not_given() -> None:
    gate = UploadGate()
    for peer in "ab":
        gate.joined(BLOB, peer)
    assert not gate.defers(BLOB, 8, 0, "a")
    gate.submit(BLOB, 0, "a", 3, MIB, lambda: None).done(sent=False)
    assert not gate.defers(BLOB, 8, 0, "b")
    assert gate.defers(BLOB, 8, 0, "a")
    gate.left(BLOB, "b")
    assert not gate.defers(BLOB, 8, 1, "a")


def test_nonsense_is_refused_and_leaves_nothing_behind() -> None:
    gate = UploadGate()
    with pytest.raises(LocalProtocolError):
        gate.submit(BLOB, 0, "a", 0, MIB, lambda: None)
    with pytest.raises(LocalProtocolError):
        gate.set_rates(-1.0, None)
    assert gate.rates == (None, None)


async def test_its_task_lets_things_out_when_the_limit_allows(autojump_clock: MockClock) -> None:
    gate = UploadGate(rate=1e6, clock=trio.current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.run)
        began = trio.current_time()
        for number in range(20):
            event = trio.Event()
            ticket = gate.submit(BLOB, number, "a", 3, MIB, event.set)
            await event.wait()
            ticket.done(sent=True)
        assert 18 <= trio.current_time() - began <= 21
        gate.set_rates(None, None)
        for number in range(1000):
            gate.submit(BLOB, number, "a", 3, MIB, lambda: None).done(sent=True)
        assert trio.current_time() - began <= 21
        nursery.cancel_scope.cancel()


async def test_a_new_limit_counts_for_what_waits(autojump_clock: MockClock) -> None:
    gate = UploadGate(per_peer=1e5, clock=trio.current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.run)
        gate.submit(BLOB, 0, "a", 3, 100 * MIB, lambda: None).done(sent=True)  # a debt of 1,000 s
        event = trio.Event()
        gate.submit(BLOB, 1, "a", 3, MIB, event.set)
        await trio.sleep(5)
        assert not event.is_set()
        gate.set_rates(None, None)
        with trio.fail_after(1):
            await event.wait()
        nursery.cancel_scope.cancel()


def test_answers_count_and_have_a_rate() -> None:
    now = 0.0
    gate = UploadGate(rate=1e6, clock=lambda: now)
    gate.charge("a", 0)
    assert (gate.answer_wait("a"), gate.sent_bytes) == (0, 0)
    gate.charge("a", 10_000_000)
    assert gate.sent_bytes == 10_000_000
    wait = gate.answer_wait("a")
    assert wait > 0 == gate.answer_wait("b")
    went = Went()
    gate.submit(BLOB, 0, "b", 3, MIB, went)
    assert not went.count  # the node's limit is one
    now = wait
    assert gate.answer_wait("a") == pytest.approx(0)


def test_a_piece_of_a_table_is_no_chunk_that_was_given() -> None:
    gate = UploadGate()
    for peer in "ab":
        gate.joined(BLOB, peer)
    assert not gate.defers(BLOB, 8, 0, "a")
    gate.submit(BLOB, None, "a", 1, MIB, lambda: None).withdraw()
    assert gate.defers(BLOB, 8, 0, "b")


def test_many_threads_lose_nothing() -> None:
    gate = UploadGate()
    lock, went = threading.Lock(), 0

    def send(peer: int) -> None:
        nonlocal went
        for number in range(200):
            may_go = threading.Event()
            ticket = gate.submit(BLOB, number, f"p{peer}", 1 + number % 5, 1000, may_go.set)
            if number % 7 == 3:
                ticket.withdraw()
                continue
            assert may_go.wait(30)
            with lock:
                went += 1
            ticket.done(sent=True)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(send, range(12)))
    assert gate.sent_bytes == went * 1000
    assert gate._uploads.out == gate._uploads.waiting == 0
    assert not gate._passes
