"""The test's side of support/rogue_peer.py: a bare libp2p host that sends what a test tells it to."""

from __future__ import annotations

import json
import secrets
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from support.nodes import SUPPORT, environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ANSWER_TIMEOUT = 40.0


class Stranger:
    """A running rogue peer, connected to one node."""

    def __init__(self, name: str, addr: str, log_dir: Path) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        with (log_dir / f"{name}.stderr").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SUPPORT / "rogue_peer.py"), addr],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(log_dir),
                bufsize=0,
            )
        self._rest = b""
        self.peer_id = ""

    def become(self, seed: bytes | None = None) -> str:
        """Another host, with the key of this seed or a new one, connected; returns its peer id."""
        answer = self.ask(do="host", seed=(seed or secrets.token_bytes(32)).hex())
        self.peer_id = answer["peer_id"]
        return self.peer_id

    def ask(self, **step: Any) -> dict[str, Any]:
        """One step (see support/rogue_peer.py) and its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(step).encode() + b"\n")
        return self._answer()

    def stream(self, protocol: str, data: bytes, wait: float = 5) -> Mapping[str, Any]:
        """Sends bytes on a new stream: {"reply": bytes, "ended": bool}, or {"error": text}."""
        answer = self.ask(do="stream", protocol=protocol, data=data.hex(), wait=wait)
        if "reply" in answer:
            answer["reply"] = bytes.fromhex(answer["reply"])
        return answer

    def publish(self, topic: str, data: bytes) -> None:
        assert self.ask(do="publish", topic=topic, data=data.hex()) == {}

    def serve(self, **replies: tuple[dict[str, Any], bytes]) -> None:
        """Answers requests on /peatnet/blob/1, by type; see support/rogue_peer.py."""
        told = {kind: [header, payload.hex()] for kind, (header, payload) in replies.items()}
        assert self.ask(do="serve", replies=told) == {}

    @property
    def connected(self) -> bool:
        answer: bool = self.ask(do="connected")["connected"]
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        end = time.monotonic() + ANSWER_TIMEOUT
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.process.stdout], [], [], end - time.monotonic())
            data = self.process.stdout.read(1 << 20) if ready else b""
            assert data, f"the rogue peer gave no answer (exit code {self.process.poll()})"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
