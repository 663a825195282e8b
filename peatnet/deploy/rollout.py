"""Where a model stands on the nodes of a fleet, why it is not on those where it is not, and when it will be. Pure.

Each node tells this of itself; nobody else could know it. What is added here is what a node that says nothing cannot
tell: that it is not seen, or has not heard of the model.

A node is *expected* to have the model in the end when it says that it will, when it has not heard of it yet, or when
an update command for it is waiting or running there. The estimate is for the expected nodes that are seen: the one
that will be done last counts, and where one of them cannot tell, nobody can.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING, Final

from peatnet.models import ModelStatus
from peatnet.net.node_status import MAX_REASON, CommandOutcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from peatnet.deploy.fleet import KnownNode
    from peatnet.net.node_status import CommandReport, ModelReport, NodeStatus

UNKNOWN_MODEL: Final = "it does not know the model yet"
LEFT_OUT: Final = "it has more models than it tells of"

MAX_CAUSE: Final = 200
MAX_LOADER_LINE: Final = 160


class Stage(StrEnum):
    """How far a node is with a model."""

    LOADED = "loaded"
    """It is in service."""
    READY = "ready"
    """It is there, verified."""
    DOWNLOADING = "downloading"
    PENDING = "pending"
    """It is not there; the reason says why not, or not yet."""
    FAILED = "failed"
    """It could not be fetched, or could not be loaded."""
    UNKNOWN = "unknown"
    """The node is not seen, so nobody knows."""


@dataclass(frozen=True, slots=True)
class NodeWord:
    """What is known of one node now.

    Attributes:
        peer_id: who it is.
        name: what it calls itself.
        age: seconds since its last word; 0 for ourselves.
        status: that word; None where the node is not seen.
        left: it said that it stops.
        banned: it is banned here.
    """

    peer_id: str
    name: str
    age: float
    status: NodeStatus | None
    left: bool = False
    banned: bool = False

    @classmethod
    def of(cls, node: KnownNode, now: float, *, banned: bool = False) -> NodeWord:
        """What is known of another node at this time."""
        status = node.status if node.is_seen(now) else None
        age = node.age(now)
        return cls(node.peer_id, node.name, age, status, left=node.left, banned=banned)


@dataclass(frozen=True, slots=True)
class NodeStage:
    """Where a model stands on one node.

    Attributes:
        peer_id: who it is.
        name: what it calls itself.
        stage: how far it is.
        progress: the verified share of the bytes, 0 to 1.
        rate: bytes a second, while it is downloading.
        eta_s: seconds until it will be there; 0 where it is; None where that is not known, or it will not be.
        reason: why it is not there, in words; "" where it is.
        expected: it is there, or will be, for all we know.
        last_seen_s: seconds since its last word.
        serving: the version of the model that is in service there; "" for none.
    """

    peer_id: str
    name: str
    stage: Stage
    progress: float
    rate: int
    eta_s: float | None
    reason: str
    expected: bool
    last_seen_s: float
    serving: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Where a model stands on all nodes.

    Attributes:
        nodes: one entry for each, those first that need looking at least.
        counts: how many nodes there are of each stage.
        eta_s: seconds until all that are expected have it; None where that is not known.
    """

    nodes: tuple[NodeStage, ...]
    counts: dict[Stage, int]
    eta_s: float | None


def load_failed(reason: str, lines: Sequence[str] = ()) -> str:
    """The reason of a model whose loader failed, with as many of its last lines as others can be told."""
    text = f"load failed: {_cut(reason, MAX_CAUSE)}"
    room = MAX_REASON - len(text)
    last: list[str] = []
    for line in reversed(lines):
        shown = f"\n  {_cut(line, MAX_LOADER_LINE)}"
        room -= len(shown)
        if room < 0:
            break
        last.append(shown)
    return text + "".join(reversed(last))


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def rollout(
    publisher: str, model_id: str, version: str, size: int, nodes: Iterable[NodeWord]
) -> Rollout:
    """Where a model stands.

    Args:
        publisher: whose model it is.
        model_id: its name.
        version: its version.
        size: its bytes; 0 where they are not known.
        nodes: all nodes, ourselves among them.
    """
    key = publisher, f"{model_id}@{version}"
    words = list(nodes)
    found = [_stage(word, key, model_id) for word in words]
    rates = [each.rate for each in found if each.rate]
    if rates and size:
        # Who has not begun will hardly be faster than those that are at it.
        guess = size / median(rates)
        found = [_with_guess(each, guess) for each in found]
    counts = dict.fromkeys(Stage, 0)
    for each in found:
        counts[each.stage] += 1
    order = list(Stage)
    found.sort(key=lambda each: (order.index(each.stage), each.name, each.peer_id))
    waited_for = [each.eta_s for each in found if each.expected and each.stage is not Stage.UNKNOWN]
    known = [eta for eta in waited_for if eta is not None]
    eta = max(known, default=0.0) if len(known) == len(waited_for) else None
    return Rollout(tuple(found), counts, eta)


def _with_guess(found: NodeStage, guess: float) -> NodeStage:
    if found.stage is not Stage.PENDING or not found.expected or found.eta_s is not None:
        return found
    return replace(found, eta_s=guess * (1.0 - found.progress))


def _stage(word: NodeWord, key: tuple[str, str], model_id: str) -> NodeStage:
    status = word.status
    if status is None:
        why = " (it is banned here)" if word.banned else " (it was stopped)" if word.left else ""
        verdict = _Verdict(Stage.UNKNOWN, f"not seen for {word.age:.0f} s{why}")
        return verdict.of(word)
    report = next((each for each in status.models if each.key == key), None)
    order = _order(status, key[1])
    outcome = order.outcome if order else None
    told = order.reason if order else ""
    if outcome is CommandOutcome.FAILED and (
        report is None or report.status is not ModelStatus.LOADED
    ):
        verdict = _Verdict(Stage.FAILED, told or "an update command failed")
    elif report is None and status.truncated:
        verdict = _Verdict(Stage.PENDING, LEFT_OUT)
    elif report is None:
        verdict = _Verdict(Stage.PENDING, told or UNKNOWN_MODEL, expected=True)
    else:
        under_way = outcome in {CommandOutcome.WAITING, CommandOutcome.RUNNING}
        verdict = _judged(report, told, word.age, under_way=under_way)
    return verdict.of(word, report, _serving(status, model_id))


def _order(status: NodeStatus, model: str) -> CommandReport | None:
    """The newest command on a model that the node has done something about; else the newest that it refuses.

    What it refuses has changed nothing there, and may be a stranger's.
    """
    orders = [each for each in status.outcomes if each.model == model]
    followed = [each for each in orders if each.outcome is not CommandOutcome.REFUSED]
    return next(iter(followed or orders), None)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What a node's words amount to."""

    stage: Stage
    reason: str = ""
    eta_s: float | None = None
    expected: bool = False

    def of(self, word: NodeWord, report: ModelReport | None = None, serving: str = "") -> NodeStage:
        return NodeStage(
            word.peer_id,
            word.name,
            self.stage,
            report.progress if report else 0.0,
            report.rate if report and self.stage is Stage.DOWNLOADING else 0,
            self.eta_s,
            self.reason,
            self.expected,
            word.age,
            serving,
        )


def _judged(report: ModelReport, told: str, age: float, *, under_way: bool) -> _Verdict:
    """A node that has heard of the model, and whose orders for it have not failed."""
    match report.status:
        case ModelStatus.LOADED:
            return _Verdict(Stage.LOADED, eta_s=0.0, expected=True)
        case ModelStatus.READY:
            # How long loading takes, nobody knows.
            return _Verdict(Stage.READY, told, None if under_way else 0.0, expected=True)
        case ModelStatus.DOWNLOADING:
            eta = None if report.left_s is None else max(0.0, report.left_s - age)
            return _Verdict(Stage.DOWNLOADING, report.reason, eta, expected=True)
        case ModelStatus.FAILED:
            return _Verdict(Stage.FAILED, report.reason or "failed")
    expected = report.wanted or under_way
    return _Verdict(Stage.PENDING, _joined(told, report.reason), expected=expected)


def _serving(status: NodeStatus, model_id: str) -> str:
    return next(
        (
            each.version
            for each in status.models
            if each.model_id == model_id and each.status is ModelStatus.LOADED
        ),
        "",
    )


def _joined(*reasons: str) -> str:
    """Reasons in one text, each once."""
    found: list[str] = []
    for reason in reasons:
        if reason and not any(reason in each for each in found):
            found.append(reason)
    return "; ".join(found)
