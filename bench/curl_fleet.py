"""nginx and curl as a fleet: what one TCP connection does without a protocol of its own. See rivals/curl_ends.py."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from fleet import RESTART_TIMEOUT, SOURCE, Delivery, Member, Start, end_all
from processes import until

if TYPE_CHECKING:
    from netlab import Lab
    from processes import Usage

ENDS = Path(__file__).resolve().parent / "rivals" / "curl_ends.py"


class CurlFleet:
    """One nginx, and a curl at each sink, which then hashes what came. Implements Fleet.

    Args:
        lab: the network, with a host for each.
        nginx: the program.
        curl: the program.
        original: the file.
        expected: its BLAKE3.
        scratch: for what the sinks fetch and all logs.
    """

    def __init__(
        self, lab: Lab, nginx: str, curl: str, original: Path, expected: str, scratch: Path
    ) -> None:
        self._lab = lab
        self._nginx = nginx
        self._curl = curl
        self._original = original
        self._expected = expected
        self._scratch = scratch
        self._members: dict[int, Member] = {}
        self._where = ""

    def start(self, timeout: float) -> None:
        """See Fleet: ready is to listen at the source, to know where at the sinks; nobody is connected."""
        address = self._lab.address(SOURCE)
        self._up(SOURCE, "source", self._nginx, self._original, self._scratch, address)
        self._where = self._members[SOURCE].child.read_line(timeout)
        until("nginx listens", self._listens, timeout)
        for sink in range(1, self._lab.hosts):
            self._up(sink, "sink", self._curl, self.file(sink), self._expected, address)
        for sink in range(1, self._lab.hosts):
            self._members[sink].child.read_line(timeout)

    def deliver(self, delivery: Delivery, start: Start) -> None:
        """See Fleet."""
        start.wait(RESTART_TIMEOUT)
        member = self._members[delivery.sink]
        member.child.write_line(self._where)
        if next(member.lines(), None) is None:
            raise RuntimeError(f"host {delivery.sink} ended\n{member.log()}")
        delivery.seconds = start.elapsed()
        delivery.note(delivery.seconds, {SOURCE: self._original.stat().st_size})

    def payload_sent(self) -> int | None:
        """See Fleet; nginx does not count it."""
        return None

    def usage(self, host: int) -> Usage:
        """See Fleet."""
        return self._members[host].usage()

    def file(self, sink: int) -> Path:
        """See Fleet."""
        return self._scratch / f"sink{sink}.bin"

    def close(self) -> None:
        """See Fleet."""
        end_all(list(self._members.values()))

    def _up(self, host: int, *arguments: str | Path) -> None:
        log = self._scratch / f"curl{host}.log"
        self._members[host] = Member(self._lab, host, [ENDS, *arguments], log)

    def _listens(self) -> bool:
        url = f"http://{self._lab.address(SOURCE)}:{self._where.strip()}"
        asked = [*self._lab.command(SOURCE), self._curl, "--silent", "--fail", "--head", url]
        return subprocess.run(asked, stdout=subprocess.DEVNULL, check=False).returncode == 0
