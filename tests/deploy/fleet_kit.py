"""What the tests of the fleet share: statuses in few words."""

from __future__ import annotations

from typing import Any

from peatnet.models import ModelStatus
from peatnet.net.node_status import CommandOutcome, CommandReport, ModelReport, NodeStatus

PUBLISHER = "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"


def status(name: str = "n", *models: ModelReport, **others: Any) -> NodeStatus:
    return NodeStatus(name, models=models, **others)


def report(word: str, **others: Any) -> ModelReport:
    """Of the model m@2, which has 1,000 bytes."""
    given = {"publisher": PUBLISHER, "model_id": "m", "version": "2"} | others
    return ModelReport(status=ModelStatus(word), **given)


def outcome(word: str, reason: str = "") -> CommandReport:
    return CommandReport("c-1", "m@2", CommandOutcome(word), reason)
