"""The closed vocabularies of a manifest. Each member's value is its spelling in Peat's JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Self


class ModelType(StrEnum):
    """What a model does."""

    DETECTOR = "detector"
    LLM = "llm"
    TRACKER = "tracker"
    EMBEDDER = "embedder"
    VLM = "vlm"
    WHISPER = "whisper"
    CUSTOM = "custom"

    @property
    def display_name(self) -> str:
        """The name shown to people, as Peat shows it."""
        return _DISPLAY_NAMES[self]

    @property
    def capability_type(self) -> str:
        """The capability that a node running such a model advertises in Peat."""
        return _CAPABILITY_TYPES[self]


class ModelFormat(StrEnum):
    """How a model file is laid out."""

    ONNX = "onnx"
    GGUF = "gguf"
    TENSORRT = "tensorrt"
    PYTORCH = "pytorch"
    SAFETENSORS = "safetensors"

    @property
    def extension(self) -> str:
        """The file name extension, without the dot."""
        return _EXTENSIONS.get(self, self.value)


class Quantization(StrEnum):
    """How many bits a model's weights are kept in."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    INT8 = "INT8"
    Q4_0 = "Q4_0"
    Q4_K_S = "Q4_K_S"
    Q4_K_M = "Q4_K_M"
    Q5_K_S = "Q5_K_S"
    Q5_K_M = "Q5_K_M"
    Q6_K = "Q6_K"
    Q8_0 = "Q8_0"

    @property
    def memory_factor(self) -> float:
        """Memory that the weights take, as a multiple of what F16 takes (dimensionless)."""
        return _MEMORY_FACTORS[self]

    @classmethod
    def from_filename_part(cls, part: str) -> Self | None:
        """The quantization that a part of a file name stands for ("q4_k_m", "FP16"), or None."""
        spelled = part.upper()
        spelled = {"FP32": "F32", "FP16": "F16"}.get(spelled, spelled)
        return cls(spelled) if spelled in cls.__members__ else None


class ModelStatus(StrEnum):
    """How far a node has got with a model."""

    AVAILABLE = "Available"
    """Its manifest is known."""
    DOWNLOADING = "Downloading"
    """Its bytes are being fetched."""
    READY = "Ready"
    """Its bytes are here and verified."""
    LOADED = "Loaded"
    """It is in service."""
    FAILED = "Failed"
    """Fetching, verifying or loading it failed."""


_DISPLAY_NAMES: Final = {
    ModelType.DETECTOR: "Object Detector",
    ModelType.LLM: "Language Model",
    ModelType.TRACKER: "Tracker",
    ModelType.EMBEDDER: "Embedder",
    ModelType.VLM: "Vision-Language Model",
    ModelType.WHISPER: "Audio Transcription",
    ModelType.CUSTOM: "Custom Model",
}

_CAPABILITY_TYPES: Final = {
    ModelType.DETECTOR: "OBJECT_DETECTION",
    ModelType.LLM: "LLM_INFERENCE",
    ModelType.TRACKER: "OBJECT_TRACKING",
    ModelType.EMBEDDER: "FEATURE_EMBEDDING",
    ModelType.VLM: "VISION_LANGUAGE",
    ModelType.WHISPER: "AUDIO_TRANSCRIPTION",
    ModelType.CUSTOM: "CUSTOM",
}

_EXTENSIONS: Final = {ModelFormat.TENSORRT: "engine", ModelFormat.PYTORCH: "pt"}

_MEMORY_FACTORS: Final = {
    Quantization.F32: 2.0,
    Quantization.F16: 1.0,
    Quantization.BF16: 1.0,
    Quantization.INT8: 0.5,
    Quantization.Q8_0: 0.5,
    Quantization.Q6_K: 0.41,
    Quantization.Q5_K_S: 0.35,
    Quantization.Q5_K_M: 0.35,
    Quantization.Q4_0: 0.28,
    Quantization.Q4_K_S: 0.28,
    Quantization.Q4_K_M: 0.28,
}
