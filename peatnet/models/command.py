"""The order to put a model into service on some nodes, as Peat's `ModelUpdateCommand`."""

from __future__ import annotations

from typing import ClassVar

from peatnet.models import fields, limits
from peatnet.models.base import Strict
from peatnet.models.manifest import ModelManifest


class ModelUpdateCommand(Strict):
    """The order to fetch a model and put it into service. Immutable.

    The room has neither clock nor randomness: command_id (a fresh UUID 4 as text) and timestamp are given.

    Raises:
        InvalidManifest: a field (named) breaks a rule.
    """

    label: ClassVar[str] = "update command"
    max_bytes: ClassVar[int] = limits.MAX_COMMAND_BYTES
    max_depth: ClassVar[int] = ModelManifest.max_depth + 1
    wire_optional: ClassVar[frozenset[str]] = frozenset({"rollback_model_id"})

    command_id: fields.Tag
    manifest: ModelManifest
    target_nodes: fields.Targets = ()
    """Ids of the nodes it is meant for; empty for all."""
    priority: fields.Priority = 3
    """1 (highest) to 5; other numbers are clamped."""
    auto_load: bool = True
    """Whether to load the model once it is ready."""
    rollback_model_id: fields.ModelOrVersion | None = None
    """The model to go back to when this one fails, perhaps with its version; written as null when there is none."""
    timestamp: fields.Instant

    def targets_node(self, node_id: str) -> bool:
        """Whether the command is meant for this node."""
        return not self.target_nodes or node_id in self.target_nodes
