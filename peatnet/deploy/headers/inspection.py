"""What the header of a model file says, and what follows from it for a manifest. Pure: no files here.

A field is *found* where the file says it in so many words or it can be counted, and *guessed* where it only
follows more often than not. Texts from the file go on only where a manifest may hold them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from peatnet.models import ModelFormat, ModelType, Quantization, guess_from_filename
from peatnet.models.checks import line, params_billions
from peatnet.models.limits import MAX_LINE_BYTES, U32_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping


NAME_REASON: Final = "the file's name"
"""The reason of what only the name gives away."""


class Certainty(StrEnum):
    """How sure a field is."""

    FOUND = "found"
    """The file says so."""
    GUESSED = "guessed"
    """It follows from the file, or from its name, more often than not."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One field of a manifest.

    Attributes:
        field: its name.
        value: its value, as JSON.
        certainty: how sure it is.
        reason: where it comes from, in a few words: "general.file_type".
    """

    field: str
    value: Any
    certainty: Certainty
    reason: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a model file says of itself.

    Attributes:
        format: how the file is laid out.
        size_bytes: its size.
        facts: what was read, as JSON, by names with underscores; in the order in which they read well.
        findings: the manifest's fields that follow from it, each once.
        remarks: what a publisher should know besides, in sentences.
    """

    format: ModelFormat
    size_bytes: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    remarks: tuple[str, ...] = ()


class Findings:
    """Collects findings: the first of a field stands."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}

    def found(self, name: str, value: Any, reason: str) -> None:
        """Note what the file says."""
        self._found.setdefault(name, Finding(name, value, Certainty.FOUND, reason))

    def guessed(self, name: str, value: Any, reason: str) -> None:
        """Note what follows, perhaps."""
        self._found.setdefault(name, Finding(name, value, Certainty.GUESSED, reason))

    def found_within(self, most: int, name: str, value: Any, reason: str) -> None:
        """Note what the file says, unless its JSON takes more than most bytes: a manifest is small."""
        if len(json.dumps(value)) <= most:
            self.found(name, value, reason)

    def text(self, name: str, value: object, reason: str) -> None:
        """Note a text that the file says, if a manifest can hold it."""
        if not isinstance(value, str) or not value.strip():
            return
        try:
            self.found(name, line(value.strip(), MAX_LINE_BYTES), reason)
        except ValueError:
            return  # too long, or with line breaks: what was found is a convenience, not a duty

    def parameters(self, count: int, reason: str) -> None:
        """Note how many parameters there are, if there are any."""
        try:
            params_billions(count / 1e9)
        except (ValueError, OverflowError):
            return  # more than any model has: tensors whose bytes are not here may claim anything
        if count:
            self.found("params_billions", round(count / 1e9, 9), reason)

    def context_length(self, value: object, reason: str) -> None:
        """Note how many tokens it can attend to, if that is a number that a manifest can hold."""
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= U32_MAX:
            self.found("context_length", value, reason)

    def named(self, file_name: str) -> None:
        """Fill up with what the file's name says.

        A type that the header gives away (a guess as well) wins over the name's, but for a language model: those
        are what other models are made of, and the name knows that.
        """
        guess = guess_from_filename(file_name)
        reason = NAME_REASON
        present = self._found.get("model_type")
        if guess.model_type and present and present.value == ModelType.LLM != guess.model_type:
            del self._found["model_type"]
        if guess.model_type:
            self.guessed("model_type", guess.model_type.value, reason)
        if guess.format:
            self.guessed("format", guess.format.value, reason)
        if guess.quantization:
            self.guessed("quantization", guess.quantization.value, reason)

    def all(self) -> tuple[Finding, ...]:
        """What was noted, in the order of a manifest's fields."""
        return tuple(self._found[name] for name in _ORDER if name in self._found)


def inspect_name(file_name: str) -> tuple[Finding, ...]:
    """What the name of a file gives away, where its content cannot be read."""
    findings = Findings()
    findings.named(file_name)
    return findings.all()


_ORDER: Final = (
    "name",
    "model_type",
    "format",
    "quantization",
    "params_billions",
    "context_length",
    "classes",
    "license",
    "source",
    "metadata",
)

_PACKED: Final = frozenset({"U8", "I32", "U32", "I64", "U64", "int32", "uint32", "int64", "uint64"})

_WORDS: Final = {
    "F32": Quantization.F32, "float32": Quantization.F32, "F64": Quantization.F32, "float64": Quantization.F32,
    "F16": Quantization.F16, "float16": Quantization.F16, "BF16": Quantization.BF16,
    "bfloat16": Quantization.BF16, "I8": Quantization.INT8, "int8": Quantization.INT8, "uint8": Quantization.INT8,
    "int4": Quantization.Q4_0, "uint4": Quantization.Q4_0, "F4": Quantization.Q4_0, "float4e2m1": Quantization.Q4_0,
}  # fmt: skip
_SAME: Final = frozenset({"F32", "float32", "F16", "float16", "BF16", "bfloat16", "I8", "int8", "uint8"})  # fmt: skip


def weigh(findings: Findings, elements: Mapping[str, int]) -> int | None:
    """Note quantization and parameter count of tensors of plain types, as safetensors and ONNX have them.

    Integers of 16 bits and more, and booleans, are positions, shapes and masks, not weights; where they are
    nearly all there is, several weights are packed into each, and nothing can be said.

    Args:
        findings: where to note it.
        elements: numbers in all tensors, by type.

    Returns:
        How many weights there are, or None where nothing can be said.
    """
    kind = max(elements, key=lambda each: elements[each], default="")
    if not kind or kind in _PACKED:
        return None
    weights = {each: count for each, count in elements.items() if _is_weight(each)}
    total = sum(weights.values())
    findings.parameters(total, "counted in the tensors")
    kind = max(weights, key=lambda each: weights[each], default="")
    word = _WORDS.get(kind) or (Quantization.INT8 if kind.upper().startswith("F") else None)
    if not total or word is None:
        return total or None
    share = weights[kind] * 100 // total
    if kind in _SAME and share >= 99:
        findings.found("quantization", word.value, "the tensors' type")
    else:
        findings.guessed("quantization", word.value, f"{share} % of the weights are {kind}")
    return total


def _is_weight(kind: str) -> bool:
    lower = kind.lower()
    if "float" in lower or lower.startswith(("f", "bf")):
        return True
    return lower in {"i8", "u8", "int8", "uint8", "int4", "uint4", "int2", "uint2"}
