"""How people name a model: MODEL, MODEL@VERSION, a hash, or the first digits of one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from peatnet.errors import UsageError
from peatnet.models import checks

_HASH_PREFIX = re.compile(r"[0-9a-fA-F]{8,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model's name, perhaps with its version.

    Attributes:
        model_id: the name; for a hash, its digits as given.
        version: the version, or None for any.
    """

    model_id: str
    version: str | None = None

    @property
    def hash_prefix(self) -> str | None:
        """The same text as (the beginning of) a hash, 8 to 64 hex digits in lower case, where it can be one.

        A model may be called "deadbeef" too: look for a model first.
        """
        if self.version is None and _HASH_PREFIX.fullmatch(self.model_id):
            return self.model_id.lower()
        return None

    def __str__(self) -> str:
        return self.model_id if self.version is None else f"{self.model_id}@{self.version}"


def parse_reference(text: str) -> ModelReference:
    """Read MODEL, MODEL@VERSION, a hash, or a hash prefix.

    Raises:
        UsageError: the name or the version could not be one.
    """
    model_id, at, version = text.partition("@")
    try:
        checks.model_id(model_id)
        if at:
            checks.path_name(version)
    except ValueError as exc:
        raise UsageError(
            f"model reference {text[:200]!a}: {exc}", hint="write MODEL, MODEL@VERSION or a hash"
        ) from exc
    return ModelReference(model_id, version if at else None)
