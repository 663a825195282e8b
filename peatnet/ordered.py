"""What an update command is about, on this node's disk: the model, its manifest as a file, and what to go back to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from peatnet.blobs.durable import make_dir, unlink_durable, write_atomic
from peatnet.deploy.activation import Phase
from peatnet.deploy.activator import REMOVED
from peatnet.deploy.rollout import load_failed
from peatnet.errors import IntegrityError
from peatnet.log import get_logger
from peatnet.models import parse_reference
from peatnet.targets import Model, Target, is_same_file

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.blobs import BlobInfo
    from peatnet.deploy.activation import Candidate, Outcome
    from peatnet.errors import PeatnetError
    from peatnet.library import Library
    from peatnet.models import ModelManifest, ModelUpdateCommand

NO_MANIFEST: Final = (
    "its manifest is not in the catalogue: not heard of yet, withdrawn, or replaced by another one"
)

_SUFFIX: Final = ".json"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OrderedModel:
    """The model that a command is about.

    Attributes:
        model: its record in the catalogue, with the manifest that the command carries: which loader is chosen and what
            that reads is what the command's signer signed, whoever published the record.
        target: what is to be fetched, as the record says; a trusted publisher's word, or the command's own.
        removed: it had been removed by hand before.
    """

    model: Model
    target: Target
    removed: bool


class Ordered:
    """Finds what commands name. Methods block but where they say that they cost no disk.

    The manifests of what is in service, was before, or may be soon, are files below ``manifests/``, named by their hash:
    so a manifest that is replaced leaves those that loaders were given as they were.

    Args:
        library: the node's models.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self._directory = library.config.data_dir / "manifests"

    def find(self, publisher: str, command: ModelUpdateCommand) -> OrderedModel | None:
        """The model in the catalogue that has the command's name, version and bytes; None: there is none now.

        Of several the commander's own is taken, else a trusted publisher's. An untrusted publisher's will do where it
        says what the command says, to the letter: with another size or SHA-256 it would make the fetch fail. Costs no
        disk.
        """
        wanted = command.manifest
        key = wanted.key
        alike = [
            model
            for model in self._library.models()
            if model.record.key == key and is_same_file(model.manifest, wanted)
        ]
        found = [model for model in alike if model.trusted or model.manifest == wanted]
        if not found:
            return None
        heard = min(found, key=lambda each: (each.publisher != publisher, not each.trusted))
        target = Target(replace(heard, trusted=True), self._library.blob_of(heard))
        model = replace(heard, manifest=wanted)
        return OrderedModel(model, target, self._library.state(heard).removed)

    def ready(self, model: Model) -> BlobInfo | None:
        """The model's blob, if it is here and in its place. Costs no disk."""
        return self._library.ready_info(model)

    def final(self, ordered: OrderedModel, error: PeatnetError) -> str | None:
        """Why a fetch that failed need not be tried again; None: it may go well the next time. Costs no disk."""
        state = self._library.state(ordered.model)
        hopeless = state.failed and state.tried == ordered.model.record.id
        if isinstance(error, IntegrityError) and hopeless:
            return f"transfer failed: {error.message}"
        return None

    def candidate(self, model: Model, info: BlobInfo) -> Candidate:
        """A ready model as something that can be put into service.

        Raises:
            DiskFull, StorageError: its manifest could not be written.
        """
        return self._library.activator.candidate(
            model.publisher,
            model.manifest,
            self._library.path_of(model, info),
            self._write(model.manifest),
            blob=info.hash,
        )

    def rollback(self, command: ModelUpdateCommand) -> Candidate | None:
        """What a command names to go back to, if it is here; None: nothing but what is in service.

        Raises:
            DiskFull, StorageError: as for `candidate`.
        """
        if command.rollback_model_id is None:
            return None
        named = parse_reference(command.rollback_model_id)
        if named.version is None:
            current = self._library.activator.current(named.model_id)
            if current is not None:
                return current
        for model in sorted(
            self._library.models(), key=lambda each: each.record.order, reverse=True
        ):
            manifest = model.manifest
            if manifest.model_id != named.model_id or named.version not in {None, manifest.version}:
                continue
            if model.trusted and (info := self._library.ready_info(model)) is not None:
                return self.candidate(model, info)
        log.warning("model to go back to is not here", model=command.rollback_model_id)
        return None

    def _write(self, manifest: ModelManifest) -> Path:
        text = manifest.to_json().encode()
        path = self._directory / f"{blake3(text).hexdigest()}{_SUFFIX}"
        if not path.is_file():
            make_dir(self._directory)
            write_atomic(path, text)
        return path

    def tidy(self) -> None:
        """Remove the manifests of models that are neither in service, nor were before, nor may be soon."""
        if not self._directory.is_dir():
            return
        activator = self._library.activator
        needed = [*activator.involved(), *map(activator.previous, activator.standings())]
        kept = {each.manifest_path for each in needed if each is not None}
        data_dir = self._library.config.data_dir
        unlink_durable(
            *(
                path
                for path in self._directory.iterdir()
                if str(path.relative_to(data_dir)) not in kept
            )
        )


def explain(outcome: Outcome) -> str:
    """Why a model was not put into service, and what is in service instead."""
    first, *others = outcome.failures
    after = "".join(f"; then {each.candidate}: {each.reason}" for each in others)
    now = outcome.in_service
    if now is not None and any(
        each.phase is Phase.LOAD and each.candidate.is_known_as(now) for each in outcome.failures
    ):
        state = f"`current` leads to {now}, which is not loaded"
    else:
        state = f"{now or 'nothing'} is in service"
    reason = f"{first.reason}{after}; {state}"
    if first.phase is Phase.LOAD and first.reason != REMOVED:
        return load_failed(reason, first.lines)
    return f"not put into service: {reason}"
