"""Which update commands a node follows, and why it does not follow the others. Pure: it knows neither disk nor time.

The theory. All that trusted publishers have ever ordered for one model is totally ordered, by sequence and then by
record id; who signs an order takes a sequence above those that it knows of. A node remembers the *mark* of each model and
publisher: the newest order that it has finished, well or not. Of the orders above the marks of trusted publishers
that are meant for this node, are not canceled and fit it, it follows the newest, and only that.

So what a node does depends on which orders it has heard of and not on when: a node that was away does what it would have
come to, an order that is replayed is below the mark or is the one that is followed anyway, and where an order does not
concern a node, the one before it counts. Marks count only while their publisher is trusted: one who ordered with the
greatest sequence there is can be got rid of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from peatnet.models import ModelManifest, ModelUpdateCommand

Order = tuple[int, bytes]
"""Where an order stands among all: its sequence, and the id of its record."""

NOT_TRUSTED: Final = "untrusted publisher"
REPLACED: Final = "a newer command takes its place"
TOO_OLD: Final = "a newer command has been carried out"


@dataclass(frozen=True, slots=True)
class Directive:
    """A command, or the cancellation of one, as its publisher signed it.

    Attributes:
        publisher: who.
        order: where it stands.
        model_id: which model it is about.
        command_id: the command's, which is unique for a publisher and a model.
        command: what is to be done; None: it is canceled.
    """

    publisher: str
    order: Order
    model_id: str
    command_id: str
    command: ModelUpdateCommand | None = field(compare=False)  # the record id says it all

    @property
    def name(self) -> tuple[str, str, str]:
        """What a command and its cancellation have in common: publisher, model and command."""
        return self.publisher, self.model_id, self.command_id


class Decision(StrEnum):
    """What a node makes of a directive."""

    FOLLOW = "follow"
    FINISHED = "finished"
    """It is the newest that was finished here."""
    OLDER = "older"
    """A newer one was finished here."""
    SUPERSEDED = "superseded"
    """A newer one is followed."""
    UNFIT = "unfit"
    """It is for all nodes that fit, and this one does not."""
    UNTRUSTED = "untrusted"
    ELSEWHERE = "elsewhere"
    """It is meant for other nodes."""
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True)
class Judgment:
    """A decision, and why, in words; "" where the decision says it all."""

    decision: Decision
    reason: str = ""


def judge(
    directives: Iterable[Directive],
    *,
    node_id: str,
    marks: Mapping[tuple[str, str], Order],
    is_trusted: Callable[[str], bool],
    shortfalls: Callable[[ModelManifest], list[str]],
) -> dict[Directive, Judgment]:
    """Decide on all directives at once, since they compete.

    Args:
        directives: all that were heard of.
        node_id: of this node.
        marks: the newest finished order, by model and publisher.
        is_trusted: whether a publisher's orders count.
        shortfalls: why a model cannot run here, in words; empty where it can.
    """
    highest: dict[str, Order] = {}
    for (model_id, publisher), mark in marks.items():
        if is_trusted(publisher):
            highest[model_id] = max(mark, highest.get(model_id, mark))
    found: dict[Directive, Judgment] = {}
    followed: set[str] = set()
    for each in sorted(set(directives), key=lambda item: item.order, reverse=True):
        judgment = _alone(each, node_id, highest.get(each.model_id), is_trusted, shortfalls)
        if judgment.decision is Decision.FOLLOW:
            if each.model_id in followed:
                judgment = Judgment(Decision.SUPERSEDED, REPLACED)
            followed.add(each.model_id)
        found[each] = judgment
    return found


def _alone(
    item: Directive,
    node_id: str,
    mark: Order | None,
    is_trusted: Callable[[str], bool],
    shortfalls: Callable[[ModelManifest], list[str]],
) -> Judgment:
    """What a node makes of one directive if there is no newer one."""
    command = item.command
    if not is_trusted(item.publisher):
        meant = command is not None and command.targets_node(node_id)
        return Judgment(Decision.UNTRUSTED if meant else Decision.ELSEWHERE, NOT_TRUSTED)
    if command is None:
        return Judgment(Decision.CANCELED)
    if not command.targets_node(node_id):
        return Judgment(Decision.ELSEWHERE)
    if mark is not None and item.order <= mark:
        finished = item.order == mark
        return Judgment(Decision.FINISHED) if finished else Judgment(Decision.OLDER, TOO_OLD)
    lacking = [] if command.target_nodes else shortfalls(command.manifest)
    if lacking:
        return Judgment(Decision.UNFIT, "; ".join(lacking))
    return Judgment(Decision.FOLLOW)
