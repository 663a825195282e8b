"""A long wire between two network namespaces: ``wire.py FIRST SECOND BITS_PER_S RTT_S LOSS QUEUE_BYTES``.

In each of the namespaces it makes a device ``eth0``, without an address, and prints "ready". What goes into one device
comes out of the other one as over a router and a long line: it waits in a queue of so many bytes, which drops what does not
fit any more; goes at the rate of the line, with all others behind it; is lost on the way, at random, or else arrives half a
round trip later. Both ways are alike and independent. The kernel could do the same (netem), where it was built to.

For each line on stdin it tells what has passed until now: one line of JSON, a list of FIRST to SECOND and SECOND to FIRST.
It ends when its stdin does, and the devices with it. Packets are those of IP; each is counted, and takes its time, with
the header of an Ethernet frame.

A process of its own, so that it shares no interpreter with what is measured. It looks at its devices every half
millisecond: packets may be so much late, never early. More often would cost much of a core.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import select
import signal
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

DEVICE = "eth0"
TUN = Path("/dev/net/tun")
NAMESPACES = Path("/var/run/netns")  # where iproute2 has them
HEADER = 14
LOOK_EVERY = 0.0005

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_MOST_AT_ONCE = 256  # packets taken in a row from one end, so that the other one has its turn
_PACKET = 65536
_STDIN = 0


@dataclass(slots=True)
class Passed:
    """What has become of the packets of one direction until now.

    Attributes:
        sent: bytes that went into the wire.
        received: bytes that came out of it.
        packets: how many came out.
        overflowed: packets that found the queue full.
        lost: packets that were lost on the way.
        late_s: by how much what came out was late, all packets together.
    """

    sent: int = 0
    received: int = 0
    packets: int = 0
    overflowed: int = 0
    lost: int = 0
    late_s: float = 0.0


class Direction:
    """One way through the wire.

    Args:
        source: the device that packets are read from.
        sink: the device that they are written to.
        bytes_per_s: the rate.
        delay: seconds that a packet is under way.
        loss: share of the packets that do not arrive.
        queue: bytes that may wait.
    """

    def __init__(
        self, source: int, sink: int, bytes_per_s: float, delay: float, loss: float, queue: int
    ) -> None:
        self.source = source
        self.passed = Passed()
        self._sink = sink
        self._bytes_per_s = bytes_per_s
        self._delay = delay
        self._loss = loss
        self._queue = queue
        self._random = random.Random()
        self._free = 0.0  # when all that waits will have gone
        self._under_way: deque[tuple[float, bytes]] = deque()

    def due(self) -> float | None:
        """When the next packet arrives; None while none is under way."""
        return self._under_way[0][0] if self._under_way else None

    def take(self, now: float) -> None:
        """Read what was sent."""
        passed = self.passed
        for _ in range(_MOST_AT_ONCE):
            try:
                packet = os.read(self.source, _PACKET)
            except BlockingIOError:
                return
            size = len(packet) + HEADER
            passed.sent += size
            begins = max(self._free, now)
            if (begins - now) * self._bytes_per_s + size > self._queue:
                passed.overflowed += 1
                continue
            # What will be lost takes its time of the line all the same.
            self._free = begins + size / self._bytes_per_s
            if self._random.random() < self._loss:
                passed.lost += 1
            else:
                self._under_way.append((self._free + self._delay, packet))

    def give(self, now: float) -> None:
        """Write what has arrived."""
        passed, under_way = self.passed, self._under_way
        while under_way and under_way[0][0] <= now:
            due, packet = under_way.popleft()
            with suppress(OSError):  # a device that is down, or a packet that the host cannot take
                os.write(self._sink, packet)
            passed.received += len(packet) + HEADER
            passed.packets += 1
            passed.late_s += now - due


def carry(first: int, second: int, directions: tuple[Direction, Direction]) -> None:
    """Be the wire, until stdin ends."""
    while True:
        dues = [due for direction in directions if (due := direction.due()) is not None]
        patience = max(min(dues) - time.monotonic(), 0.0) if dues else None
        readable, _, _ = select.select([first, second, _STDIN], [], [], patience)
        now = time.monotonic()
        for direction in directions:
            direction.take(now)
            direction.give(now)
        if _STDIN in readable:
            asked = os.read(_STDIN, _PACKET)
            if not asked:
                return
            for _ in range(asked.count(b"\n")):
                print(json.dumps([asdict(each.passed) for each in directions]), flush=True)
        time.sleep(LOOK_EVERY)


def device(namespace: str) -> int:
    """Make the device in a namespace, where this process is from then on; a file to read what is sent into it.

    Raises:
        OSError: that cannot be had.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with (NAMESPACES / namespace).open() as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"{namespace}: {os.strerror(ctypes.get_errno())}")
    fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    return fd


def main(
    namespaces: tuple[str, str], bits_per_s: float, rtt: float, loss: float, queue: int
) -> None:
    """Make the devices, and be the wire between them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us, who ends us then
    with suppress(PermissionError):
        os.nice(-20)  # what is measured may keep all cores busy; a real line would not mind
    first, second = map(device, namespaces)
    there = Direction(first, second, bits_per_s / 8, rtt / 2, loss, queue)
    back = Direction(second, first, bits_per_s / 8, rtt / 2, loss, queue)
    print("ready", flush=True)
    carry(first, second, (there, back))


if __name__ == "__main__":
    first_name, second_name, rate, rtt_s, lossy, room = sys.argv[1:]
    main((first_name, second_name), float(rate), float(rtt_s), float(lossy), int(room))
