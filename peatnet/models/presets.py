"""Manifests of well-known models, as Peat ships them. The room has no clock, hence `created_at`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peatnet.models.enums import ModelFormat, ModelType, Quantization
from peatnet.models.manifest import ModelManifest
from peatnet.models.requirements import HardwareRequirements

if TYPE_CHECKING:
    from datetime import datetime

    from peatnet.models.timestamp import Timestamp


def ministral_3b(
    quantization: Quantization, *, created_at: Timestamp | datetime | str
) -> ModelManifest:
    """Ministral 3B Instruct of Mistral AI, version 25.12, as gguf."""
    small = HardwareRequirements.small_llm()
    return _ministral(3, quantization, small, created_at)


def ministral_8b(
    quantization: Quantization, *, created_at: Timestamp | datetime | str
) -> ModelManifest:
    """Ministral 8B Instruct of Mistral AI, version 25.12, as gguf."""
    medium = HardwareRequirements.medium_llm()
    return _ministral(8, quantization, medium, created_at)


def yolov8n(*, created_at: Timestamp | datetime | str) -> ModelManifest:
    """YOLOv8 Nano of Ultralytics, version 8.0.0, as onnx in 16 bits."""
    return ModelManifest.new(
        "yolov8n",
        "YOLOv8 Nano",
        ModelType.DETECTOR,
        format=ModelFormat.ONNX,
        version="8.0.0",
        quantization=Quantization.F16,
        requirements=HardwareRequirements.yolo_nano(),
        features=["coco_80"],
        license="AGPL-3.0",
        source="Ultralytics",
        created_at=created_at,
    )


def _ministral(
    billions: int,
    quantization: Quantization,
    requirements: HardwareRequirements,
    created_at: Timestamp | datetime | str,
) -> ModelManifest:
    return ModelManifest.new(
        f"ministral-{billions}b",
        f"Ministral {billions}B Instruct",
        ModelType.LLM,
        version="25.12",
        quantization=quantization,
        requirements=requirements,
        features=["chat", "function_calling", "vision"],
        params_billions=billions,
        context_length=256_000,
        source="Mistral AI",
        created_at=created_at,
    )
