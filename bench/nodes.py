"""peatnet nodes under measurement: each a ``peatnet up`` of its own, asked through its control socket."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from processes import Child, finish, running

from peatnet.api.client import ControlClient

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PEATNET = ("-m", "peatnet", "--data-dir")
ON_DEMAND = ("--fetch", "none")
UP = ("up", "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns")


class Node:
    """A node that runs.

    Attributes:
        child: its process.
        client: asks it.
        peer_id: its identity.
        address: where others reach it, with its peer id.
        data_dir: its store.
    """

    def __init__(self, child: Child, data_dir: Path) -> None:
        ready = json.loads(child.read_line())
        self.child = child
        self.client = ControlClient(data_dir / "control.sock")
        self.peer_id: str = ready["peer_id"]
        self.address: str = ready["addrs"][0]
        self.data_dir = data_dir

    def connected(self) -> int:
        """How many peers it is connected to."""
        return sum(peer["connected"] for peer in self.client.call("peers"))

    def get(self, reference: str) -> dict[str, Any]:
        """Have it fetch a model or a blob, and wait for that."""
        result: dict[str, Any] = self.client.call("get", {"reference": reference})
        return result

    def models(self) -> list[dict[str, Any]]:
        """What its catalogue lists."""
        found: list[dict[str, Any]] = self.client.call("models")
        return found


@contextmanager
def node(
    data_dir: Path,
    scratch: Path,
    *,
    peers: Sequence[Node] = (),
    trust: Sequence[Node] = (),
    options: Sequence[str] = (),
) -> Iterator[Node]:
    """A node, ended when the context is left.

    Args:
        data_dir: its store; made if it is not there.
        scratch: a directory for its log.
        peers: whom it connects to.
        trust: whom it trusts.
        options: further ones of ``peatnet up``.
    """
    arguments: list[str | Path] = [*PEATNET, data_dir, *UP, *options]
    for peer in peers:
        arguments += ["--peer", peer.address]
    for publisher in trust:
        arguments += ["--trust", publisher.peer_id]
    with running(arguments, scratch) as child:
        yield Node(child, data_dir)


def publish(
    data_dir: Path, scratch: Path, file: Path, model_id: str, *, manifest: bool = True
) -> None:
    """Publish a file with no node running, so that a node that serves it has hashed nothing.

    Args:
        data_dir: the node's.
        scratch: a directory for logs.
        file: what is published.
        model_id: as what.
        manifest: whether that stays; otherwise it is taken back, and the file is there for whoever asks for its hash.
    """
    finish([*PEATNET, data_dir, "publish", file, "--id", model_id], scratch)
    if not manifest:
        finish([*PEATNET, data_dir, "withdraw", model_id], scratch)


def can(option: str, scratch: Path) -> bool:
    """Whether this revision's ``peatnet up`` has an option."""
    return option in finish(["-m", "peatnet", "up", "--help"], scratch).stdout
