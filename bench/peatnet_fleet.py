"""A fleet of peatnet nodes, asked over their control sockets: those are files, which namespaces do not divide."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from fleet import RESTART_TIMEOUT, SOURCE, Delivery, Member, Start, end_all

from peatnet.api.client import ControlClient
from peatnet.errors import NodeUnreachable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from netlab import Lab
    from processes import Usage

MODEL = "bench"
PORT = 7411
LOOK_EVERY = 0.1
OPTIONS = os.environ.get("FANOUT_UP", "").split()
"""More options of `peatnet up`, to see what they do: ``--no-bulk``."""


class PeatnetFleet:
    """Nodes that know of the source by ``--peer`` and of each other by what they tell each other. Implements FragileFleet.

    Args:
        lab: the network, with a host for each.
        published: a data directory with the blob, for the source.
        blob: its blob's hash.
        pieces: its number of chunks.
        scratch: for the sinks' data directories and all logs.
        manifest: whether there is one for it, by which the sinks fetch it; otherwise they ask for the bare hash.
        source_options: more options of the source's ``peatnet up``.
    """

    def __init__(
        self,
        lab: Lab,
        published: Path,
        blob: str,
        pieces: int,
        scratch: Path,
        *,
        manifest: bool,
        source_options: Sequence[str] = (),
    ) -> None:
        self._lab = lab
        self._blob = blob
        self._pieces = pieces
        self._models = int(manifest)
        self._reference = MODEL if manifest else blob
        self._dirs = [published, *(scratch / f"sink{host}" for host in range(1, lab.hosts))]
        self._source_options = source_options
        self._scratch = scratch
        self._members: dict[int, Member] = {}
        self._hosts: dict[str, int] = {}  # by peer id
        self._source: dict[str, Any] = {}
        self._back = {host: threading.Event() for host in range(lab.hosts)}

    def start(self, timeout: float) -> None:
        """See Fleet: ready is connected to all others, and told of the model if there is one."""
        deadline = time.monotonic() + timeout
        self._up(SOURCE)
        self._source = self._ready(SOURCE, timeout)
        for sink in range(1, self._lab.hosts):
            self._up(sink)
        for sink in range(1, self._lab.hosts):
            self._ready(sink, deadline - time.monotonic())
        for sink in range(1, self._lab.hosts):
            self._wait_until_ready(sink, deadline)

    def deliver(self, delivery: Delivery, start: Start) -> None:
        """See Fleet."""
        start.wait(RESTART_TIMEOUT)
        sink = delivery.sink

        def note(progress: dict[str, Any]) -> None:
            delivery.note(start.elapsed(), self._by_host(progress["bytes_by_source"]))

        while True:
            try:
                result = self._call(
                    sink, "get", {"reference": self._reference, "source": "peers"}, note
                )
            except NodeUnreachable as exc:
                if not self._back[sink].wait(RESTART_TIMEOUT):
                    log = self._members[sink].log()
                    raise RuntimeError(f"host {sink}: {exc.message}\n{log}") from exc
                self._back[sink].clear()
            else:
                break
        delivery.seconds = start.elapsed()
        delivery.note(delivery.seconds, self._by_host(result["bytes_by_source"]))

    def have(self, sink: int) -> int:
        """See Fleet; what is synced, which is less than what it serves."""
        folder = self._dirs[sink]
        if self.file(sink).exists():
            return (1 << self.pieces()) - 1
        try:
            bits = (folder / "partial" / f"{self._blob}.have").read_bytes()
        except FileNotFoundError:
            return 0
        return int.from_bytes(bits, "little")

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
        """See Fleet; a node does not count it."""
        return None

    def usage(self, host: int) -> Usage:
        """See Fleet."""
        return self._members[host].usage()

    def file(self, sink: int) -> Path:
        """See Fleet."""
        return self._dirs[sink] / "blobs" / self._blob[:2] / f"{self._blob}.blob"

    def close(self) -> None:
        """See Fleet."""
        end_all(list(self._members.values()))

    def _up(self, host: int) -> None:
        listen = f"/ip4/{self._lab.address(host)}/tcp/{PORT}"
        arguments = ["-m", "peatnet", "--data-dir", str(self._dirs[host]), "up", "--no-mdns"]
        arguments += ["--fetch", "none", "--listen", listen, *OPTIONS]
        if host == SOURCE:
            arguments += self._source_options
        else:
            arguments += ["--peer", self._source["addrs"][0], "--trust", self._source["peer_id"]]
        log = self._scratch / f"node{host}.log"
        self._members[host] = Member(self._lab, host, arguments, log)

    def _ready(self, host: int, timeout: float) -> dict[str, Any]:
        ready: dict[str, Any] = json.loads(self._members[host].child.read_line(timeout))
        self._hosts[ready["peer_id"]] = host
        return ready

    def _wait_until_ready(self, sink: int, deadline: float) -> None:
        while True:
            connected = sum(peer["connected"] for peer in self._call(sink, "peers"))
            known = len(self._call(sink, "models"))
            if connected == self._lab.hosts - 1 and known == self._models:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"host {sink}: {connected} connections, {known} models\n"
                    + self._members[sink].log()
                )
            time.sleep(LOOK_EVERY)

    def _call(self, host: int, verb: str, *arguments: Any) -> Any:
        return ControlClient(self._dirs[host] / "control.sock").call(verb, *arguments)

    def _by_host(self, by_source: dict[str, int]) -> dict[int, int]:
        return {
            self._hosts[source.removeprefix("peer:")]: count for source, count in by_source.items()
        }
