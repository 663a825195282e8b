"""Nodes with loaders, for the tests of deployments: what a loader was told, and how it is made to fail or to wait."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.waiting import wait_until

if TYPE_CHECKING:
    from support.nodes import Node

# What the loader does is said by files beside its log, so that a running node's can be changed.
_LOADER = """\
echo "$MODEL_ID@$MODEL_VERSION" >> "$0"
while test -e "$0.wait"; do sleep 0.05; done
if test -e "$0.fail-$MODEL_VERSION"; then echo "no room for $MODEL_VERSION"; exit 3; fi
"""


class Loader:
    """The loader of one node.

    Attributes:
        log: a line for each start, ``model_id@version``.
    """

    def __init__(self, node: Node) -> None:
        self.log = node.data_dir.parent / f"{node.name}.loader"

    @property
    def toml(self) -> str:
        command = ["/bin/sh", "-c", _LOADER, str(self.log)]
        return f"\n[loaders.safetensors]\ncommand = {json.dumps(command)}\ntimeout_s = 30\n"

    def started(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def fails(self, version: str) -> None:
        """Loading this version fails from now on."""
        Path(f"{self.log}.fail-{version}").touch()

    def hold(self) -> None:
        """Loading does not end before `release`."""
        Path(f"{self.log}.wait").touch()

    def release(self) -> None:
        Path(f"{self.log}.wait").unlink()


def with_loader(node: Node, *tables: str, **keys: Any) -> Loader:
    """Writes config.toml with a loader, and whatever else is wanted; before `up`."""
    loader = Loader(node)
    node.configure(**keys)
    path = node.data_dir / "config.toml"
    path.write_text(path.read_text() + "\n".join(tables) + loader.toml)
    return loader


def current(node: Node, model_id: str = "m") -> Path | None:
    """Where the link of the model in service leads."""
    link = node.data_dir / "models" / model_id / "current"
    return link.resolve() if link.is_symlink() else None


def state_of(node: Node, reference: str) -> tuple[str, bool] | None:
    """Status of a model version on a node, and whether it is in service."""
    for model in node.models():
        if f"{model['model_id']}@{model['version']}" == reference:
            return model["status"], model["in_service"]
    return None


def wait_loaded(node: Node, reference: str, timeout: float = 30) -> None:
    wait_until(
        lambda: state_of(node, reference) == ("loaded", True),
        timeout,
        what=f"{node.name} to have {reference} loaded; {state_of(node, reference)}",
    )


def outcome(node: Node, command_id: str) -> tuple[str, str | None] | None:
    """What a node itself says has become of a command: outcome and reason."""
    own = node.call("fleet")[0]
    for each in own["commands"]:
        if each["command_id"] == command_id:
            return each["outcome"], each["reason"]
    return None


def wait_outcome(node: Node, command_id: str, wanted: str, timeout: float = 30) -> str | None:
    """Waits for what becomes of a command on a node; returns the reason."""
    wait_until(
        lambda: (outcome(node, command_id) or ("",))[0] == wanted,
        timeout,
        what=f"{node.name}: command to be {wanted}, is {outcome(node, command_id)}",
    )
    found = outcome(node, command_id)
    assert found is not None
    return found[1]
