"""What a node shows of itself: plain values, with the JSON shapes that scripts rely on.

They are snapshots: nothing here changes after it was made, and nothing here reaches back into the node.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from peatnet.deploy.rollout import Rollout
    from peatnet.net.node_status import CommandReport, HardwareReport, ModelReport, NodeStatus


class SourceChoice(StrEnum):
    """Where ``get`` may take bytes from."""

    ANY = "any"
    PEERS = "peers"
    HTTP = "http"


class _View:
    """Gives a dataclass its JSON object, field by field."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this view, with the fields in their order."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # subclasses are dataclasses


@dataclass(frozen=True, slots=True)
class ModelView(_View):
    """One model version of one publisher, as this node sees it.

    ``status`` is Peat's model status in lower case (``available``, ``downloading``, ``ready``, ``loaded``,
    ``failed``); ``download_progress`` is 0..1 of verified bytes; ``local_path`` is set once the file is
    complete and verified; ``in_service``: the link ``current`` of the model leads to it.
    """

    model_id: str
    version: str
    publisher: str
    trusted: bool
    status: str
    download_progress: float
    size_bytes: int
    blob_hash: str | None
    local_path: str | None
    error: str | None
    in_service: bool = False

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this view. There may be thousands of them, and `asdict` copies at great length."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class PeerView(_View):
    """One other node that this node knows: connected now, known from before, or banned.

    ``banned_until`` is an RFC 3339 time in UTC, or None; ``lanes`` is how many bulk lanes there are with it, both ways.
    """

    peer_id: str
    addrs: list[str]
    connected: bool
    banned_until: str | None
    lanes: int = 0


@dataclass(frozen=True, slots=True)
class FleetNodeView(_View):
    """One node of the fleet, this one among them, as it told of itself.

    ``models`` are those that it told of, those first that matter most; none where it is not seen. ``commands`` likewise: what
    became of update commands. ``hardware`` is None where the node has said nothing since this one was started. ``banned``: this
    node has banned it, and so will not hear of it.
    """

    peer_id: str
    name: str
    addrs: list[str]
    hardware: dict[str, Any] | None
    models: list[dict[str, Any]]
    last_seen_s: float
    seen: bool
    banned: bool
    commands: list[dict[str, Any]]

    @classmethod
    def of(
        cls,
        peer_id: str,
        name: str,
        status: NodeStatus | None,
        age: float,
        *,
        seen: bool,
        banned: bool = False,
    ) -> Self:
        """What is known of a node."""
        told = status if status is not None and seen else None
        return cls(
            peer_id=peer_id,
            name=name,
            addrs=[f"{each}/p2p/{peer_id}" for each in status.addresses] if status else [],
            hardware=_hardware(status.hardware) if status else None,
            models=[_model(each) for each in told.models] if told else [],
            last_seen_s=round(age, 1),
            seen=seen,
            banned=banned,
            commands=[_command(each) for each in told.outcomes] if told else [],
        )


def _hardware(report: HardwareReport) -> dict[str, Any]:
    gpus = [{"name": name, "vram_mb": vram_mb} for name, vram_mb in report.gpus]
    return asdict(report) | {"gpus": gpus, "execution_providers": list(report.execution_providers)}


def _model(report: ModelReport) -> dict[str, Any]:
    return {
        "model_id": report.model_id,
        "version": report.version,
        "publisher": report.publisher,
        "status": report.status.value.lower(),
        "progress": report.progress,
        "rate": report.rate,
        "reason": report.reason or None,
    }


def _command(report: CommandReport) -> dict[str, Any]:
    return {
        "command_id": report.command_id,
        "model": report.model,
        "outcome": report.outcome.value,
        "reason": report.reason or None,
    }


@dataclass(frozen=True, slots=True)
class NodeStageView(_View):
    """Where a model stands on one node.

    ``status`` is ``loaded``, ``ready``, ``downloading``, ``pending``, ``failed`` or ``unknown`` (the node is not seen); ``reason``
    says in words why the model is not there, perhaps in several lines. ``eta_s`` is None where nobody can tell; ``serving``
    is the version of the model that is in service, or None.
    """

    peer_id: str
    name: str
    status: str
    progress: float
    reason: str | None
    rate: int
    eta_s: float | None
    expected: bool
    serving: str | None
    last_seen_s: float


@dataclass(frozen=True, slots=True)
class RolloutView(_View):
    """Where a model stands on all nodes: counts by status, and when those that are expected to have it will."""

    model_id: str
    version: str
    nodes: list[NodeStageView]
    counts: dict[str, int]
    eta_s: float | None

    @classmethod
    def of(cls, model_id: str, version: str, found: Rollout) -> Self:
        """The same for scripts."""
        nodes = [
            NodeStageView(
                peer_id=each.peer_id,
                name=each.name,
                status=each.stage.value,
                progress=each.progress,
                reason=each.reason or None,
                rate=each.rate,
                eta_s=_tenths(each.eta_s),
                expected=each.expected,
                serving=each.serving or None,
                last_seen_s=round(each.last_seen_s, 1),
            )
            for each in found.nodes
        ]
        counts = {stage.value: count for stage, count in found.counts.items()}
        return cls(model_id, version, nodes, counts, _tenths(found.eta_s))


def _tenths(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


@dataclass(frozen=True, slots=True)
class CommandNodeView(_View):
    """What became of an update command on one node; ``outcome`` is None where the node has not said.

    ``awaited``: it is waited for, being seen or a target.
    """

    peer_id: str
    name: str
    outcome: str | None
    reason: str | None
    awaited: bool


@dataclass(frozen=True, slots=True)
class CommandView(_View):
    """What became of an update command on the nodes that it is for."""

    command_id: str
    nodes: list[CommandNodeView]


@dataclass(frozen=True, slots=True)
class LimitsView(_View):
    """What a node may send and fetch, in bytes a second; None: no limit."""

    upload_limit: float | None
    download_limit: float | None
    peer_upload_limit: float | None


@dataclass(frozen=True, slots=True)
class GetResult(_View):
    """What ``get`` delivered: the verified file, and which source gave how many bytes of it."""

    path: str
    blob_hash: str
    size_bytes: int
    seconds: float
    bytes_by_source: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress(_View):
    """How far a download is; ``rate`` is in bytes a second.

    ``received_bytes`` are those verified and those that are here but can be verified only as a whole, when all have
    come; it exceeds ``verified_bytes`` only where a file is fetched without a chunk table. Neither ever falls.
    ``copied_bytes`` are those at the place where the user wants a copy, while it is made; None before.
    """

    size_bytes: int
    verified_bytes: int
    received_bytes: int = field(default=0, kw_only=True)
    copied_bytes: int | None = field(default=None, kw_only=True)
    rate: float
    eta_s: float | None
    bytes_by_source: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelChanged(_View):
    """A model appeared, was withdrawn, or changed its local state."""

    model_id: str
    version: str
    status: str


@dataclass(frozen=True, slots=True)
class PeerChanged(_View):
    """A peer connected, left or was banned."""

    peer_id: str
    connected: bool
    banned: bool


@dataclass(frozen=True, slots=True)
class NodeChanged(_View):
    """A node of the fleet was heard of, or is not seen any more."""

    peer_id: str
    name: str
    seen: bool


Change = ModelChanged | PeerChanged | NodeChanged
