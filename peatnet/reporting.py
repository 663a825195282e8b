"""What this node tells the others of itself: its hardware, how far it is with each model and why, what became of orders."""

from __future__ import annotations

from collections import OrderedDict
from heapq import nlargest
from typing import TYPE_CHECKING, Final, Protocol

import trio

from peatnet.config import FetchPolicy
from peatnet.deploy.activator import REMOVED
from peatnet.deploy.hardware import shortfalls
from peatnet.deploy.orders import NOT_TRUSTED
from peatnet.models import ModelStatus
from peatnet.net.node_status import (
    MAX_MODELS,
    MAX_OUTCOMES,
    CommandOutcome,
    CommandReport,
    HardwareReport,
    ModelReport,
    NodeStatus,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peatnet.blobs import Hash
    from peatnet.deploy.hardware import Hardware
    from peatnet.keeper import Keeper
    from peatnet.library import Library
    from peatnet.states import Key
    from peatnet.targets import Model

NO_POLICY: Final = "its fetch policy is none, and nobody has asked for it there"
WAITING: Final = "waiting for its turn"

UNTRUSTED_TOLD: Final = 4
"""Refusals of untrusted publishers' commands that are told, the newest; anybody can sign any number."""


def hardware_report(hardware: Hardware) -> HardwareReport:
    """A machine in short."""
    return HardwareReport(
        os=hardware.os,
        arch=hardware.arch,
        cpu=hardware.cpu,
        cores=hardware.cores,
        ram_mb=hardware.ram_mb,
        free_disk_mb=hardware.free_disk_mb,
        vram_mb=hardware.vram_mb,
        gpus=tuple((gpu.name, gpu.vram_mb) for gpu in hardware.gpus),
        execution_providers=hardware.execution_providers,
    )


class OnChange(Protocol):
    """Told that the node's status is another than before."""

    def __call__(self, *, urgent: bool) -> None:
        """Hear of it; must not block or raise."""
        ...


class Reporter:
    """Makes the node's status.

    Args:
        library: its models.
        keeper: its fetches.

    Attributes:
        on_change: called when there is something new to tell, and whether anybody waits for it.
    """

    def __init__(self, library: Library, keeper: Keeper) -> None:
        self._library = library
        self._keeper = keeper
        self._outcomes: OrderedDict[str, CommandReport] = OrderedDict()
        # Apart from the others, since what strangers order must not put those out.
        self._strange: OrderedDict[str, CommandReport] = OrderedDict()
        self.on_change: list[OnChange] = []

    # Orders: what the executor of commands says here is told to all

    def tell_outcome(self, report: CommandReport) -> None:
        """Note how far an update command is; the newest word on a command counts, and the newest commands are kept."""
        strange = report.outcome is CommandOutcome.REFUSED and report.reason == NOT_TRUSTED
        kept, other, most = self._outcomes, self._strange, MAX_OUTCOMES - UNTRUSTED_TOLD
        if strange:
            kept, other, most = self._strange, self._outcomes, UNTRUSTED_TOLD
        other.pop(report.command_id, None)
        kept[report.command_id] = report
        kept.move_to_end(report.command_id)
        while len(kept) > most:
            kept.popitem(last=False)
        self.changed()

    def outcomes(self) -> list[CommandReport]:
        """What was told of commands, the newest first; refusals of strangers' commands come last."""
        return [*reversed(self._outcomes.values()), *reversed(self._strange.values())]

    def changed(self, *, urgent: bool = True) -> None:
        """There is something new to tell: of a model, of trust, of what is in service.

        Args:
            urgent: somebody may wait for it. Not so where all nodes have the same news at the same time.
        """
        for callback in self.on_change:
            callback(urgent=urgent)

    # The status

    @property
    def busy(self) -> bool:
        """Whether something is being fetched, so that there is something new all the time."""
        return self._keeper.is_fetching

    async def status(self, addresses: Iterable[str] = (), *, leaving: bool = False) -> NodeStatus:
        """How this node is now; fit to be sent."""
        hardware, unfinished = await trio.to_thread.run_sync(self._look)
        loaded = {(each.publisher, str(each)) for each in self._library.activator.loaded()}
        chosen, truncated = self._chosen(loaded)
        return NodeStatus(
            name=self._library.config.node_name,
            addresses=tuple(addresses),
            hardware=hardware_report(hardware),
            models=tuple(self._report(model, hardware, unfinished) for model in chosen),
            outcomes=tuple(self.outcomes()),
            truncated=truncated,
            leaving=leaving,
        ).bounded()

    def _look(self) -> tuple[Hardware, dict[Hash, float]]:
        return self._keeper.hardware.read(), self._library.unfinished()

    def _chosen(self, loaded: set[Key]) -> tuple[list[Model], bool]:
        """The models to tell of: what is being fetched or in service, what is trusted, what is newest goes first."""
        active = loaded | self._keeper.fetching_models()
        ordered = {outcome.model for outcome in self._outcomes.values()}
        models = self._library.models()

        def weight(model: Model) -> tuple[bool, bool, tuple[int, bytes]]:
            first = model.key in active or (model.trusted and str(model) in ordered)
            return first, model.trusted, model.record.order

        return nlargest(MAX_MODELS, models, key=weight), len(models) > MAX_MODELS

    def _report(
        self, model: Model, hardware: Hardware, unfinished: dict[Hash, float]
    ) -> ModelReport:
        running = self._keeper.progress(model)
        status = self._library.status(model, fetching=running is not None)
        progress, rate, left, wanted, reason = 0.0, 0, None, True, ""
        if status in {ModelStatus.READY, ModelStatus.LOADED}:
            progress = 1.0
        elif running is not None:
            size = running.size_bytes or model.manifest.size_bytes
            progress = running.verified_bytes / size if size else 0.0
            rate = int(running.rate)
            left = None if running.eta_s is None else round(running.eta_s)
        else:
            blob = self._library.blob_of(model)
            progress = unfinished.get(blob, 0.0) if blob is not None else 0.0
            left_bytes = round(model.manifest.size_bytes * (1.0 - progress))
            wanted, reason = self._why_not(model, hardware, left_bytes, status)
        return ModelReport(
            publisher=model.publisher,
            model_id=model.manifest.model_id,
            version=model.manifest.version,
            status=status,
            progress=progress,
            wanted=wanted,
            rate=rate,
            left_s=left,
            reason=reason,
        )

    def _why_not(
        self, model: Model, hardware: Hardware, left_bytes: int, status: ModelStatus
    ) -> tuple[bool, str]:
        """Whether a model that is not here will be fetched, and why it is not here."""
        state, policy = self._library.state(model), self._library.config.fetch
        if not model.trusted:
            return False, NOT_TRUSTED
        lacking = shortfalls(model.manifest, hardware, missing_bytes=left_bytes)
        if state.removed:
            return False, REMOVED
        if policy is FetchPolicy.NONE:
            return False, "; ".join([*lacking, NO_POLICY])
        error = state.error if state.tried == model.record.id else None
        failed = f"transfer failed: {error}" if error else ""
        if policy is FetchPolicy.FITTING and lacking:
            return False, "; ".join([*lacking, *([failed] if failed else [])])
        if status is ModelStatus.FAILED:
            return False, failed
        return True, f"{failed}; it will be tried again" if failed else WAITING
