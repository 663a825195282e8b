"""A small network on one machine: hosts in network namespaces of their own, around one switch.

Each host is joined to the switch by a veth pair. Both ends are limited by tc tbf, the host's end for what the
host sends, the switch's for what it receives, so each host has a full-duplex link of its own. The switch is a
bridge in a namespace too: the machine's own network is not touched, and when the namespaces are deleted,
nothing is left. What does not depend on how hosts are joined is apart: `long_wire` joins them in another way.

Needs root, and iproute2's ``ip`` and ``tc``; ``nft`` where packets are to be lost.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from common import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_HOSTS = 64
BURST = 128 * 1024
# What waits in front of a link at most, as in a small switch; beyond that packets are dropped. 50 ms at 100 Mbit/s.
QUEUE = 625_000

_PREFIX = "peatlab"
_NAME = re.compile(rf"{_PREFIX}-(\d+)-\d+-\w+")
_COMMAND_TIMEOUT = 20.0
_SERIAL = itertools.count()
_CAP_SYS_ADMIN, _CAP_NET_ADMIN = 21, 12

SomeLab = TypeVar("SomeLab", bound="Lab")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes on one host's link since the network was made, with the headers of Ethernet, IP and TCP."""

    sent: int
    received: int


class Lab(ABC):
    """Hosts, numbered from 0, each a namespace, and the links between them; `laboratory` and `long_wire` make some.

    Args:
        name: what its namespaces' names begin with.
        hosts: how many.
        bits_per_s: rate of each host's link, either way.
    """

    def __init__(self, name: str, hosts: int, bits_per_s: int) -> None:
        self.hosts = hosts
        self.bits_per_s = bits_per_s
        self._name = name

    def address(self, host: int) -> str:
        """The host's IPv4 address."""
        return f"10.99.0.{host + 1}"

    def command(self, host: int) -> list[str]:
        """What to put before a command so that it runs on this host; it is then that very process."""
        return ["ip", "netns", "exec", self._host(host)]

    @abstractmethod
    def traffic(self) -> list[Traffic]:
        """What has passed each host's link until now."""

    @abstractmethod
    def build(self) -> None:
        """Make the namespaces and what joins them; `demolish` undoes it from any point on.

        Raises:
            Unavailable: this machine does not let us.
        """

    def demolish(self) -> None:
        """Delete every namespace of this network that there is; the links go with them."""
        _delete(name for name in _namespaces() if name.startswith(f"{self._name}-"))

    def _host(self, host: int) -> str:
        if not 0 <= host < self.hosts:
            raise IndexError(f"host {host} of {self.hosts}")
        return f"{self._name}-h{host}"

    def _add(self, host: int) -> None:
        """Make a host, which can reach nobody but itself yet."""
        _run("ip", "netns", "add", self._host(host))
        self._ip(host, "link", "set", "lo", "up")

    def _ip(self, host: int, *arguments: str) -> None:
        _run("ip", "-n", self._host(host), *arguments)

    def _within(self, host: int, *command: str) -> str:
        """Run a command on a host; what it prints."""
        return _run(*self.command(host), *command)


class SwitchLab(Lab):
    """Hosts around a switch."""

    def __init__(self, name: str, hosts: int, bits_per_s: int) -> None:
        super().__init__(name, hosts, bits_per_s)
        self._switch = f"{name}-switch"

    def limit(self, host: int, bits_per_s: int) -> None:
        """Give a host's link another rate, both ways."""
        for namespace, device in self._ends(host):
            shape = ["tbf", "rate", f"{bits_per_s}bit", "burst", f"{BURST}b"]
            queue = ["limit", f"{BURST + QUEUE}b"]
            _run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", *shape, *queue)

    def lose(self, share: float) -> None:
        """Drop this share of all packets on the switch, at random."""
        if shutil.which("nft") is None:
            raise Unavailable("there is no nft: install nftables")
        for host in range(self.hosts):
            # The kernel hands several segments at once to a veth; each is to be lost or not by itself.
            self._ip(host, "link", "set", "eth0", "gso_max_segs", "1")
        rule = f"numgen random mod 1000 < {round(share * 1000)} drop"
        nft = ("ip", "netns", "exec", self._switch, "nft")
        _run(*nft, "add table bridge lab")
        _run(*nft, "add chain bridge lab forward { type filter hook forward priority 0; }")
        _run(*nft, f"add rule bridge lab forward {rule}")

    def traffic(self) -> list[Traffic]:
        """See Lab."""
        arrived = _passed(self._switch)
        return [
            Traffic(_passed(self._host(host))["eth0"], arrived[f"port{host}"])
            for host in range(self.hosts)
        ]

    def build(self) -> None:
        """See Lab."""
        _run("ip", "netns", "add", self._switch)
        _run("ip", "-n", self._switch, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "br0", "up")
        for host in range(self.hosts):
            self._add(host)
            here, port = self._host(host), f"port{host}"
            pair = ["eth0", "netns", here, "type", "veth", "peer", port, "netns", self._switch]
            _run("ip", "link", "add", *pair)
            self._ip(host, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            self.limit(host, self.bits_per_s)
            self._ip(host, "link", "set", "eth0", "up")
            _run("ip", "-n", self._switch, "link", "set", port, "master", "br0", "up")

    def _ends(self, host: int) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self._host(host), "eth0"), (self._switch, f"port{host}")


@contextmanager
def laboratory(hosts: int, bits_per_s: int) -> Iterator[SwitchLab]:
    """Hosts around a switch for as long as the context lasts; see `standing`.

    Args:
        hosts: how many, at most MAX_HOSTS.
        bits_per_s: rate of each host's link, either way.

    Raises:
        Unavailable: namespaces cannot be had here, and why; nothing is left behind.
    """
    if not 1 <= hosts <= MAX_HOSTS:
        raise ValueError(f"{hosts} hosts; there may be 1 to {MAX_HOSTS}")
    check()
    with standing(lambda name: SwitchLab(name, hosts, bits_per_s)) as lab:
        yield lab


@contextmanager
def standing(make: Callable[[str], SomeLab]) -> Iterator[SomeLab]:
    """A network for as long as the context lasts, gone however it is left. Its processes are the caller's to end.

    Names hold this process's id: what runs at the same time is not in the way, and what a run that was killed
    outright has left is removed by the next one.

    Args:
        make: the network, not yet built, of this name.

    Raises:
        Unavailable: this machine does not let us.
    """
    _delete(name for name in _namespaces() if _orphaned(name))
    lab = make(f"{_PREFIX}-{os.getpid()}-{next(_SERIAL)}")
    try:
        lab.build()
        yield lab
    finally:
        lab.demolish()


def check(*tools: str) -> None:
    """See whether namespaces can be had, without making any.

    Args:
        tools: of iproute2, which are needed; those of `laboratory` if none are named.

    Raises:
        Unavailable: what is missing.
    """
    for tool in tools or ("ip", "tc"):
        if shutil.which(tool) is None:
            raise Unavailable(f"there is no {tool}: install iproute2")
    capabilities = _capabilities()
    if not all(capabilities >> bit & 1 for bit in (_CAP_SYS_ADMIN, _CAP_NET_ADMIN)):
        raise Unavailable("network namespaces need root: run it with sudo")


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _passed(namespace: str) -> dict[str, int]:
    """Bytes that have left each device's tbf; it counts the headers of every segment, which the device does not."""
    listed = json.loads(_run("tc", "-n", namespace, "-s", "-j", "qdisc", "show"))
    return {found["dev"]: found["bytes"] for found in listed if found["kind"] == "tbf"}


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line.strip()]


def _orphaned(name: str) -> bool:
    match = _NAME.fullmatch(name)
    return match is not None and not Path(f"/proc/{match[1]}").exists()


def _delete(names: Iterator[str]) -> None:
    failed = []
    for name in names:
        try:
            _run("ip", "netns", "delete", name)
        except Unavailable as exc:
            if name in _namespaces():  # or else another run, which removes orphans too, was faster
                failed.append(str(exc))
    if failed:
        raise Unavailable("; ".join(failed))


def _run(*command: str) -> str:
    """Run one command of the network's; what it prints."""
    arguments: Sequence[str] = command
    try:
        ran = subprocess.run(
            arguments, capture_output=True, text=True, check=True, timeout=_COMMAND_TIMEOUT
        )
    except subprocess.CalledProcessError as exc:
        why = exc.stderr.strip() or f"exit code {exc.returncode}"
        raise Unavailable(f"{' '.join(command)}: {why}") from exc
    except subprocess.TimeoutExpired as exc:
        raise Unavailable(f"{' '.join(command)}: no end in {_COMMAND_TIMEOUT:g} s") from exc
    return ran.stdout
