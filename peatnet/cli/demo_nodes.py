"""The demo's nodes: real ``peatnet up`` processes, each with a data directory of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peatnet.api import ControlClient, control_socket
from peatnet.errors import NodeUnreachable

if TYPE_CHECKING:
    from pathlib import Path

_STOP_TIMEOUT_S = 6.0  # a node promises to stop within 5 s
_LOG_TAIL_LINES = 15


@dataclass
class DemoNode:
    """One node of the demo. ``state`` and ``progress`` are for the view, which reads them from its own thread."""

    name: str
    directory: Path
    late: bool = False
    state: str = "waiting"
    progress: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    verified: bool = False
    peer_id: str = ""
    addrs: list[str] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)
    _process: subprocess.Popen[str] | None = None

    @property
    def client(self) -> ControlClient:
        """Asks this node."""
        return ControlClient(control_socket(self.directory))

    @property
    def log_path(self) -> Path:
        """What the node wrote to stderr."""
        return self.directory.with_suffix(".log")

    def start(self, peers: list[str]) -> None:
        """Start the process and wait until it is ready.

        Raises:
            NodeUnreachable: it ended before it was ready.
        """
        self.state = "starting"
        command = [sys.executable, "-m", "peatnet", "up", "--data-dir", str(self.directory)]
        command += ["--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns", "--fetch", "none"]
        for addr in peers:
            command += ["--peer", addr]
        with self.log_path.open("w") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
        if self._process.stdout is None:
            raise AssertionError("Popen was told to make a pipe")
        line = self._process.stdout.readline()
        if not line:
            raise NodeUnreachable("the node ended while it was starting", hint="see its log above")
        hello = json.loads(line)
        self.peer_id, self.addrs = hello["peer_id"], hello["addrs"]
        self.state = "ready"
        self.ready.set()

    def ask_to_stop(self) -> None:
        """SIGTERM, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait_stopped(self) -> None:
        """Wait until it is gone; one that does not go is killed."""
        if self._process is None:
            return
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def log_tail(self) -> str:
        """The last lines of its log."""
        if not self.log_path.exists():
            return ""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:])
