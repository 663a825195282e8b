"""One direction of the wire, held against a clock of its own: no packet early, none faster than the line, none forgotten."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from wire import HEADER, Direction

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 1000 - HEADER
BYTES_PER_S = 1e6  # a packet takes a millisecond
MS = 0.001


class Devices:
    """What stands for the two devices, and the hosts behind them."""

    def __init__(self) -> None:
        self.sender, self.source = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sink, self.receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.source.settimeout(0)
        self.receiver.settimeout(0)

    def direction(self, *, delay: float = 0.0, loss: float = 0.0, queue: int = 10**6) -> Direction:
        return Direction(self.source.fileno(), self.sink.fileno(), BYTES_PER_S, delay, loss, queue)

    def send(self, count: int = 1) -> None:
        for number in range(count):
            self.sender.send(bytes([number]) * SIZE)

    def arrived(self) -> list[int]:
        """The numbers of the packets that did."""
        found = []
        while True:
            try:
                found.append(self.receiver.recv(65536)[0])
            except BlockingIOError:
                return found


@pytest.fixture
def devices() -> Iterator[Devices]:
    made = Devices()
    with made.sender, made.source, made.sink, made.receiver:
        yield made


def test_a_packet_comes_when_it_has_gone_out_and_its_way_is_over(devices: Devices) -> None:
    direction = devices.direction(delay=0.3)
    assert direction.due() is None
    devices.send()
    direction.take(10.0)
    assert direction.due() == pytest.approx(10.301)
    direction.give(10.3)
    assert devices.arrived() == []
    direction.give(10.305)
    assert devices.arrived() == [0]
    assert direction.due() is None
    assert direction.passed.late_s == pytest.approx(0.004)


def test_packets_go_one_after_the_other_at_the_rate(devices: Devices) -> None:
    direction = devices.direction(delay=0.3)
    devices.send(5)
    direction.take(10.0)
    direction.give(10.3 + 3.5 * MS)
    assert devices.arrived() == [0, 1, 2]
    devices.send(1)
    direction.take(10.3 + 3.5 * MS)  # the line has been idle for long
    direction.give(10.3 + 5.5 * MS)
    assert devices.arrived() == [3, 4]
    assert direction.due() == pytest.approx(10.6 + 4.5 * MS)


def test_what_finds_the_queue_full_is_dropped_and_the_queue_empties_at_the_rate(
    devices: Devices,
) -> None:
    direction = devices.direction(queue=3000)
    devices.send(5)
    direction.take(10.0)
    assert direction.passed.overflowed == 2
    devices.send(3)
    direction.take(10.0 + 2.5 * MS)
    assert direction.passed.overflowed == 3
    direction.give(11.0)
    assert devices.arrived() == [0, 1, 2, 0, 1]
    assert direction.passed.sent == 8000
    assert direction.passed.received == 5000
    assert direction.passed.packets == 5
    assert direction.passed.lost == 0


def test_what_is_lost_takes_its_time_of_the_line(devices: Devices) -> None:
    direction = devices.direction(loss=1.0, queue=3000)
    devices.send(5)
    direction.take(10.0)
    assert direction.due() is None
    assert direction.passed.lost == 3
    assert direction.passed.overflowed == 2


def test_about_so_many_are_lost(devices: Devices) -> None:
    direction = devices.direction(loss=0.25, queue=10**7)
    for _ in range(40):
        devices.send(50)
        direction.take(10.0)
        direction.give(20.0)
        devices.arrived()
    passed = direction.passed
    assert 300 < passed.lost < 700  # ten standard deviations
    assert passed.lost + passed.overflowed + passed.packets == 2000
