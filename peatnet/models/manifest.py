"""The manifest: what a model is, what it needs, and where its bytes are.

Field for field the `ModelManifest` of Peat (peat-protocol, distribution/manifest.rs), in the order and with
the omissions of its serde JSON. What peatnet adds travels in `metadata["peatnet"]`, which Peat passes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from pydantic import Field

from peatnet.errors import InvalidManifest
from peatnet.models import checks, fields, limits
from peatnet.models.base import Strict
from peatnet.models.enums import ModelFormat, ModelType, Quantization
from peatnet.models.jsontext import to_f32
from peatnet.models.requirements import HardwareRequirements

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from peatnet.models.timestamp import Timestamp

METADATA_KEY: Final = "peatnet"

_RUNTIME_OVERHEAD: Final = 1.2
"""Peat's allowance for activations and caches on top of the weights."""


@dataclass(frozen=True, slots=True)
class ChunkHint:
    """Where the chunk table of a blob is to be had from a peer, and what it must hash to.

    Attributes:
        chunk_size: bytes of every chunk but the last: a power of two from 64 KiB to 4 MiB.
        table_hash: BLAKE3 of the chunk digests in order, as 64 hex digits in lower case.
    """

    chunk_size: int
    table_hash: str


class ModelManifest(Strict):
    """What a model is, what it needs, and where its bytes are. Immutable.

    A new one needs model_id, name, model_type and created_at; JSON must have every field that Peat does not
    leave out. `metadata` is copied in and must not be changed afterwards.

    Raises:
        InvalidManifest: a field (named) breaks a rule.
    """

    label: ClassVar[str] = "manifest"
    left_out: ClassVar[frozenset[str]] = frozenset(
        {"blob_hash", "download_url", "params_billions", "context_length", "classes", "metadata"}
    )
    wire_optional: ClassVar[frozenset[str]] = left_out

    model_id: fields.ModelId
    """The model's name among all models; with the version, its key."""
    name: fields.FilledLine
    """The name shown to people."""
    model_type: ModelType = Field(strict=False)
    format: ModelFormat = Field(default=ModelFormat.GGUF, strict=False)
    version: fields.Version = "1.0.0"
    quantization: Quantization = Field(default=Quantization.Q4_K_M, strict=False)
    size_bytes: fields.U64 = 0
    """Bytes of the model file; 0 while it is not known."""
    sha256: fields.HexDigestOrEmpty = ""
    """SHA-256 of the model file in hex, or "" while it is not known."""
    blob_hash: fields.HexDigest | None = None
    """BLAKE3 of the model file in hex: the name of its blob."""
    download_url: fields.HttpUrl | None = None
    """Where the file can be had when no peer has it."""
    requirements: HardwareRequirements = Field(default_factory=HardwareRequirements)
    features: fields.Tags = ()
    """What it can do, in words: chat, vision, coco_80, ..."""
    params_billions: fields.ParamsBillions | None = None
    context_length: fields.U32 | None = None
    """Tokens it can attend to."""
    classes: fields.Classes | None = None
    """What a detector tells apart."""
    license: fields.Line = "Apache-2.0"
    """An SPDX identifier."""
    source: fields.Line = ""
    """Who made it."""
    created_at: fields.Instant
    metadata: fields.Metadata = Field(default_factory=dict)
    """Anything else, as JSON."""

    @classmethod
    def new(
        cls,
        model_id: str,
        name: str,
        model_type: ModelType,
        *,
        created_at: Timestamp | datetime | str,
        **others: Any,
    ) -> Self:
        """A manifest with defaults for all other fields: gguf, 1.0.0, Q4_K_M, size 0, Apache-2.0.

        Raises:
            InvalidManifest: a field (named) breaks a rule, or there is no such field.
        """
        given: dict[str, Any] = {"model_id": model_id, "name": name, "model_type": model_type}
        return cls(**given | {"created_at": created_at} | others)

    @classmethod
    def from_draft(cls, text: str | bytes, **others: Any) -> Self:
        """A manifest from JSON that a person wrote: fields that have a default may be missing.

        Args:
            text: a JSON object.
            others: fields that it lacks (created_at, for one); what the text says goes before them.

        Raises:
            InvalidManifest: the text is too large or not JSON, or a field (named) breaks a rule, is missing,
                or does not exist.
        """
        return cls(**others | cls._read(text))

    @property
    def key(self) -> str:
        """The name of this version of the model: "model_id@version"."""
        return f"{self.model_id}@{self.version}"

    @cached_property
    def chunks(self) -> ChunkHint | None:
        """The chunk table that the publisher signed, or None: what metadata["peatnet"] says."""
        return _chunk_hint(self.metadata)

    def filename(self) -> str:
        """The file name that Peat gives this model: "ministral-3b-25_12-q4_k_m.gguf"."""
        return self._filename

    @cached_property
    def _filename(self) -> str:
        version = self.version.replace(".", "_")
        return f"{self.model_id}-{version}-{self.quantization.lower()}.{self.format.extension}"

    def estimated_vram_mb(self) -> int:
        """Video memory that the model takes when loaded, in MB, as Peat estimates it.

        Two bytes a parameter, times the quantization's factor, times an overhead; without a parameter count
        the recommended VRAM. Computed in 32-bit floats like Peat's, so that both come to the same number.
        """
        if self.params_billions is None:
            return self.requirements.recommended_vram_mb
        at_f16 = float(int(to_f32(to_f32(self.params_billions * 2.0) * 1024.0)))
        quantized = to_f32(to_f32(at_f16) * to_f32(self.quantization.memory_factor))
        return min(int(to_f32(quantized * to_f32(_RUNTIME_OVERHEAD))), limits.U32_MAX)

    def can_run_on(self, vram_mb: int, ram_mb: int, arch: str) -> bool:
        """Whether a machine with this much memory (MB) and this architecture will do."""
        return self.requirements.can_run_on(vram_mb, ram_mb, arch)

    def with_blob(
        self, *, blob_hash: str, size_bytes: int, sha256: str, chunk_size: int, table_hash: str
    ) -> Self:
        """A copy that says what the model file is, as measured.

        Args:
            blob_hash: BLAKE3 of the file, in hex.
            size_bytes: its size.
            sha256: its SHA-256, in hex.
            chunk_size: bytes of a chunk.
            table_hash: BLAKE3 of the chunk digests in order, in hex.

        Raises:
            InvalidManifest: one of these (named) breaks a rule.
        """
        ours = self.metadata.get(METADATA_KEY, {})
        hint = {"chunk_size": chunk_size, "table_hash": table_hash}
        return self.replace(
            blob_hash=blob_hash,
            size_bytes=size_bytes,
            sha256=sha256,
            metadata={**self.metadata, METADATA_KEY: {**ours, **hint}},
        )

    def check_whole(self) -> None:
        """Check that the file name and the chunks stay within their limits.

        Raises:
            InvalidManifest: one of them does not.
        """
        if len(self.filename().encode()) > limits.MAX_FILENAME_BYTES:
            raise InvalidManifest(
                "manifest field version: makes, with model_id, a file name of more than "
                f"{limits.MAX_FILENAME_BYTES} bytes"
            )
        hint = self.chunks
        if hint and self.size_bytes > hint.chunk_size * limits.MAX_CHUNKS:
            raise InvalidManifest(
                f"manifest field metadata.{METADATA_KEY}.chunk_size: makes more than "
                f"{limits.MAX_CHUNKS} chunks of {self.size_bytes} bytes"
            )

    def __hash__(self) -> int:
        """Equal manifests hash alike; metadata, being a dict, is left to __eq__."""
        return hash((type(self), self.key, self.blob_hash, self.sha256, self.created_at))


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a manifest's JSON."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **ModelManifest.model_json_schema(),
    }


def _chunk_hint(metadata: Mapping[str, Any]) -> ChunkHint | None:
    where = f"manifest field metadata.{METADATA_KEY}"
    if METADATA_KEY not in metadata:
        return None
    ours = metadata[METADATA_KEY]
    if not isinstance(ours, dict):
        raise InvalidManifest(f"{where}: must be a JSON object")
    size, digest = ours.get("chunk_size"), ours.get("table_hash")
    if not isinstance(size, int) or not _is_chunk_size(size):
        raise InvalidManifest(f"{where}.chunk_size: must be a power of two from 64 KiB to 4 MiB")
    try:
        lower = checks.hex_digest(digest) if isinstance(digest, str) else None
    except ValueError:
        lower = None
    if lower is None or lower != digest:
        raise InvalidManifest(f"{where}.table_hash: must be 64 hex digits in lower case")
    return ChunkHint(size, lower)


def _is_chunk_size(size: int) -> bool:
    return limits.MIN_CHUNK_SIZE <= size <= limits.MAX_CHUNK_SIZE and size.bit_count() == 1
