"""What one node has of one model, as Peat's `LocalModelState`: every field is written, None as null."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field

from peatnet.errors import LocalProtocolError
from peatnet.models import fields, limits
from peatnet.models.base import Strict
from peatnet.models.enums import ModelStatus

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import PurePath

    from peatnet.models.timestamp import Timestamp


class LocalModelState(Strict):
    """How far this node has got with a model. Immutable: each transition returns the next state.

    Raises:
        InvalidManifest: a field (named) breaks a rule.
    """

    label: ClassVar[str] = "model state"
    max_bytes: ClassVar[int] = limits.MAX_STATE_BYTES
    wire_optional: ClassVar[frozenset[str]] = frozenset({"local_path", "verified_at", "error"})

    model_id: fields.ModelId
    status: ModelStatus = Field(default=ModelStatus.AVAILABLE, strict=False)
    local_path: fields.LocalPath | None = None
    """Where the file is, once it is ready."""
    download_progress: fields.Progress = 0.0
    """The verified share of the bytes, 0 to 1."""
    verified_at: fields.Instant | None = None
    """When the whole file was last found right."""
    error: fields.ErrorText | None = None
    """Why it failed, while status is Failed."""

    @classmethod
    def available(cls, model_id: str) -> Self:
        """The first state: the manifest is known, none of the bytes are here."""
        return cls(model_id=model_id)

    def downloading(self, progress: float) -> Self:
        """The bytes are being fetched; progress is clamped to 0..1."""
        return self.replace(status=ModelStatus.DOWNLOADING, download_progress=progress, error=None)

    def ready(self, path: str | PurePath, *, verified_at: Timestamp | datetime | str) -> Self:
        """The bytes are here and were verified at that time."""
        return self.replace(
            status=ModelStatus.READY,
            local_path=str(path),
            download_progress=1.0,
            verified_at=verified_at,
            error=None,
        )

    def loaded(self) -> Self:
        """The model is in service.

        Raises:
            LocalProtocolError: its bytes were never verified here.
        """
        if self.status not in {ModelStatus.READY, ModelStatus.LOADED}:
            raise LocalProtocolError(
                f"{self.model_id} is {self.status}: only a ready model is loaded"
            )
        return self.replace(status=ModelStatus.LOADED)

    def failed(self, error: str) -> Self:
        """Fetching, verifying or loading failed; what was known besides stays. A long error is cut."""
        # Errors quote foreign text of any kind: a report is made fit rather than refused.
        data = error.encode(errors="backslashreplace")[: limits.MAX_ERROR_BYTES]
        return self.replace(status=ModelStatus.FAILED, error=data.decode(errors="ignore"))
