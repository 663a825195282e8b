"""A fleet of libtorrent clients that are all told of each other at the start. See rivals/libtorrent_member.py."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Unavailable
from fleet import RESTART_TIMEOUT, SOURCE, Delivery, Member, Start, end_all
from processes import finish

if TYPE_CHECKING:
    from netlab import Lab
    from processes import Usage

RIVALS = Path(__file__).resolve().parent / "rivals"
MEMBER = RIVALS / "libtorrent_member.py"


def make_torrent(file: Path, scratch: Path) -> Path:
    """A torrent of a file, with pieces of the size that libtorrent chooses.

    Raises:
        Unavailable: libtorrent is not installed.
    """
    if importlib.util.find_spec("libtorrent") is None:
        raise Unavailable("libtorrent is not installed: pip install libtorrent")
    torrent = scratch / "bench.torrent"
    finish([RIVALS / "libtorrent_ends.py", "make", "v1", file, torrent], scratch)
    return torrent


class LibtorrentFleet:
    """Clients of one torrent. Implements FragileFleet.

    Args:
        lab: the network, with a host for each.
        torrent: the torrent.
        original: the file that it is of.
        scratch: for the sinks' directories and all logs.
    """

    def __init__(self, lab: Lab, torrent: Path, original: Path, scratch: Path) -> None:
        self._lab = lab
        self._torrent = torrent
        self._name = original.name
        self._scratch = scratch
        self._dirs = [original.parent, *(scratch / f"sink{host}" for host in range(1, lab.hosts))]
        self._members: dict[int, Member] = {}
        self._have: dict[int, int] = {}
        self._pieces = 1
        self._back = {host: threading.Event() for host in range(lab.hosts)}

    def start(self, timeout: float) -> None:
        """See Fleet: ready is with the torrent loaded and what is there checked."""
        deadline = time.monotonic() + timeout
        for host in range(self._lab.hosts):
            self._up(host)
        for host in range(self._lab.hosts):
            self._ready(host, deadline - time.monotonic())
        self._introduce(SOURCE)

    def deliver(self, delivery: Delivery, start: Start) -> None:
        """See Fleet."""
        start.wait(RESTART_TIMEOUT)
        sink = delivery.sink
        while True:
            member = self._members[sink]
            self._introduce(sink)
            if self._listen(member, delivery, start):
                return
            # Its output has ended, so it was killed, or has failed.
            if not self._back[sink].wait(RESTART_TIMEOUT):
                raise RuntimeError(f"host {sink} ended\n{member.log()}")
            self._back[sink].clear()

    def have(self, sink: int) -> int:
        """See Fleet."""
        return self._have.get(sink, 0)

    def pieces(self) -> int:
        """See Fleet."""
        return self._pieces

    def kill(self, host: int) -> None:
        """See Fleet."""
        self._members[host].kill()

    def restart(self, sink: int) -> None:
        """See Fleet."""
        self._members[sink].end()
        self._up(sink)
        self._ready(sink, RESTART_TIMEOUT)
        self._back[sink].set()

    def payload_sent(self) -> int | None:
        """See Fleet."""
        source = self._members[SOURCE]
        if not source.alive:
            return None
        source.child.write_line("")
        sent: int = json.loads(source.child.read_line())["sent"]
        return sent

    def usage(self, host: int) -> Usage:
        """See Fleet."""
        return self._members[host].usage()

    def file(self, sink: int) -> Path:
        """See Fleet."""
        return self._dirs[sink] / self._name

    def close(self) -> None:
        """See Fleet."""
        end_all(list(self._members.values()))

    def _up(self, host: int) -> None:
        self._dirs[host].mkdir(exist_ok=True)
        arguments: list[str | Path] = [
            MEMBER,
            self._torrent,
            self._dirs[host],
            self._lab.address(host),
        ]
        self._members[host] = Member(
            self._lab, host, arguments, self._scratch / f"client{host}.log"
        )

    def _ready(self, host: int, timeout: float) -> None:
        seeds = json.loads(self._members[host].child.read_line(timeout))["ready"]
        if host == SOURCE and not seeds:
            raise RuntimeError("the source does not have what its torrent says")

    def _introduce(self, host: int) -> None:
        others = [self._lab.address(other) for other in range(self._lab.hosts) if other != host]
        # The source only listens: all sinks connect to it.
        self._members[host].child.write_line(" ".join(others) if host != SOURCE else "")

    def _listen(self, member: Member, delivery: Delivery, start: Start) -> bool:
        """Take down what a sink says; whether it came to its end."""
        sink = delivery.sink
        for line in member.lines():
            said: dict[str, Any] = json.loads(line)
            delivery.note(start.elapsed(), self._by_host(said["by"]))
            if "done" in said:
                delivery.seconds = start.elapsed()
                delivery.duplicates = said["twice"]
                self._have[sink] = (1 << self._pieces) - 1
                return True
            self._have[sink], self._pieces = int(said["have"], 16), said["pieces"]
        return False

    def _by_host(self, by_address: dict[str, int]) -> dict[int, int]:
        hosts = {self._lab.address(host): host for host in range(self._lab.hosts)}
        return {hosts[address]: count for address, count in by_address.items()}
