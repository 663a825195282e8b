"""Two hosts at the two ends of a long wire: the far end of a satellite's link, of a mobile network, of an ocean.

Each host is a network namespace, as in `netlab`; what joins them is a process, `wire`, so that a link can have a round-trip
time and lose packets on kernels that were built without netem.

Needs root, iproute2's ``ip``, and ``/dev/net/tun``.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import netlab
from common import Unavailable
from netlab import Lab, Traffic, standing
from wire import DEVICE, TUN, Passed

if TYPE_CHECKING:
    from collections.abc import Iterator

WIRE = Path(__file__).resolve().with_name("wire.py")
HOSTS = 2
LEAST_QUEUE = 256 * 1024
# Packets that the kernel keeps for the wire until that looks: many times what comes in between, so that none is dropped
# but by the wire, which counts them.
DEVICE_QUEUE = 10_000
ANSWER_TIMEOUT = 20.0
CONGESTION_CONTROL = "/proc/sys/net/ipv4/tcp_congestion_control"


@dataclass(frozen=True, slots=True)
class Link:
    """What a wire is like, both ways.

    Attributes:
        bits_per_s: its rate.
        rtt: the round-trip time of what is small and meets nobody, in seconds.
        loss: share of the packets that are lost, each way.
    """

    bits_per_s: int
    rtt: float
    loss: float = 0.0

    @property
    def queue(self) -> int:
        """Bytes that may wait in front of it: what is under way when it is full, as routers there tend to have."""
        return max(round(self.bits_per_s * self.rtt / 8), LEAST_QUEUE)


class WireLab(Lab):
    """Two hosts and the wire between them. Made by :func:`long_wire`.

    Args:
        name: what its namespaces' names begin with.
        link: what the wire is like.
        congestion: TCP's congestion control on both hosts; None leaves it as this machine has it.
    """

    def __init__(self, name: str, link: Link, congestion: str | None) -> None:
        super().__init__(name, HOSTS, link.bits_per_s)
        self._link = link
        self._congestion = congestion
        self._wire: subprocess.Popen[bytes] | None = None

    def traffic(self) -> list[Traffic]:
        """See Lab; what is lost, or finds the queue full, was sent."""
        there, back = self.passed()
        return [Traffic(there.sent, back.received), Traffic(back.sent, there.received)]

    def passed(self) -> tuple[Passed, Passed]:
        """What has become of the packets until now: from the first host to the second, and the other way."""
        assert self._wire is not None
        assert self._wire.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; what it said in the end tells more
            self._wire.stdin.write(b"\n")
        found: list[dict[str, Any]] = json.loads(self._answer())
        there, back = (Passed(**each) for each in found)
        return there, back

    def congestion_control(self) -> str:
        """What TCP uses on the hosts."""
        return self._congestion or self._within(0, "cat", CONGESTION_CONTROL).strip()

    def build(self) -> None:
        """See Lab."""
        for host in range(HOSTS):
            self._add(host)
        figures = (self._link.bits_per_s, self._link.rtt, self._link.loss, self._link.queue)
        self._wire = subprocess.Popen(
            [sys.executable, WIRE, self._host(0), self._host(1), *map(str, figures)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # what it does not take is not kept for it until the end
        )
        self._answer()
        for host in range(HOSTS):
            self._ip(host, "addr", "add", f"{self.address(host)}/24", "dev", DEVICE)
            self._ip(host, "link", "set", DEVICE, "txqueuelen", str(DEVICE_QUEUE), "up")
            if self._congestion is not None:
                # Not by sysctl: a namespace may set that to few, unless all of the machine is changed.
                other = self.address(1 - host)
                self._ip(host, "route", "add", other, "dev", DEVICE, "congctl", self._congestion)

    def demolish(self) -> None:
        """See Lab."""
        if self._wire is not None:
            with self._wire as wire:
                wire.kill()  # it has nothing to put in order: its devices end with it
        super().demolish()

    def _answer(self) -> str:
        """The wire's next line.

        Raises:
            Unavailable: there was none, and why.
        """
        assert self._wire is not None
        assert self._wire.stdout is not None
        assert self._wire.stderr is not None
        # One line for each that it is told, so none hides in a buffer.
        ready, _, _ = select.select([self._wire.stdout], [], [], ANSWER_TIMEOUT)
        if not ready:
            raise Unavailable(f"the wire said nothing in {ANSWER_TIMEOUT:g} s")
        if line := self._wire.stdout.readline():
            return line.decode()
        said = self._wire.stderr.read().decode().strip().splitlines()
        raise Unavailable(f"the wire ended: {said[-1] if said else 'without a word'}")


@contextmanager
def long_wire(link: Link, congestion: str | None = None) -> Iterator[WireLab]:
    """Two hosts, joined by a wire, for as long as the context lasts; see `standing`.

    Args:
        link: what the wire is like.
        congestion: TCP's congestion control on both hosts; None leaves it as this machine has it.

    Raises:
        Unavailable: that cannot be had here, and why; nothing is left behind.
    """
    check()
    with standing(lambda name: WireLab(name, link, congestion)) as lab:
        yield lab


def check() -> None:
    """See whether namespaces and the wire's devices can be had, without making any.

    Raises:
        Unavailable: what is missing.
    """
    netlab.check("ip")
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except OSError as exc:
        raise Unavailable(f"a wire needs {TUN}: {exc.strerror}") from exc
