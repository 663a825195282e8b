"""serde_golden.jsonl was written by serde_json 1.0 and chrono 0.4 from structs with Peat's serde attributes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peatnet.models import (
    HardwareRequirements,
    LocalModelState,
    ModelFormat,
    ModelManifest,
    ModelStatus,
    ModelType,
    ModelUpdateCommand,
    Quantization,
    Timestamp,
    ministral_3b,
    ministral_8b,
    yolov8n,
)

GOLDEN = Path(__file__).with_name("serde_golden.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
PLAIN, FULL, COMMAND, TARGETED, *STATES = GOLDEN
NOW = Timestamp("2025-12-02T10:11:12.123456789Z")


@pytest.mark.parametrize("text", [PLAIN, FULL])
def test_what_serde_wrote_is_written_back_unchanged(text: str) -> None:
    assert ModelManifest.from_json(text).to_json() == text
    assert ModelManifest.from_json(text.encode()).to_json() == text


@pytest.mark.parametrize("text", [COMMAND, TARGETED])
def test_commands_are_written_back_unchanged(text: str) -> None:
    assert ModelUpdateCommand.from_json(text).to_json() == text


@pytest.mark.parametrize("text", STATES)
def test_states_are_written_back_unchanged(text: str) -> None:
    assert LocalModelState.from_json(text).to_json() == text


def test_older_serde_json_wrote_exponents_without_a_plus() -> None:
    older = FULL.replace("1e+16", "1e16").replace("1e+300", "1e300")
    assert older != FULL
    assert ModelManifest.from_json(older).to_json() == older
    assert ModelManifest.from_json(older) == ModelManifest.from_json(FULL)


def test_the_preset_is_what_peat_writes() -> None:
    assert ministral_3b(Quantization.Q4_K_M, created_at=NOW).to_json() == PLAIN


def test_every_field_is_read() -> None:
    manifest = ModelManifest.from_json(FULL)
    assert manifest.model_id == "yolov8n"
    assert manifest.name == 'YOLOv8 Nano \U0001f680 "é"\\/'
    assert manifest.model_type is ModelType.DETECTOR
    assert manifest.format is ModelFormat.TENSORRT
    assert manifest.version == "8.0.0"
    assert manifest.quantization is Quantization.F16
    assert manifest.size_bytes == 2**64 - 1
    assert manifest.sha256 == "ab" * 32
    assert manifest.blob_hash == "0f" * 32
    assert manifest.download_url == "https://example.org/yolo.engine?x=1&y=%20"
    assert manifest.requirements == HardwareRequirements(
        min_vram_mb=512,
        recommended_vram_mb=1024,
        min_ram_mb=2**32 - 1,
        execution_providers=("tensorrt", "cuda", "cpu"),
        architectures=(),
    )
    assert manifest.features == ()
    assert manifest.params_billions == pytest.approx(0.0032)
    assert manifest.context_length == 2**32 - 1
    assert manifest.classes == ("person", "bicycle")
    assert manifest.license == "AGPL-3.0"
    assert manifest.source == ""
    assert manifest.created_at == "2024-02-29T23:59:59.500Z"
    assert manifest.metadata == json.loads(FULL)["metadata"]


def test_commands_and_states_are_read() -> None:
    command = ModelUpdateCommand.from_json(TARGETED)
    assert command.manifest == ModelManifest.from_json(PLAIN).replace(
        created_at=Timestamp("2025-12-02T10:11:12Z")
    )
    assert command.target_nodes == ("n1", "n2")
    assert (command.priority, command.auto_load) == (1, False)
    assert command.rollback_model_id == "ministral-3b-old"
    assert command.timestamp.unix_ns % 1_000_000_000 == 1
    state = LocalModelState.from_json(STATES[2])
    assert (state.status, state.local_path) == (ModelStatus.READY, "/srv/a.gguf")


@pytest.mark.parametrize("quantization", list(Quantization))
def test_presets(quantization: Quantization) -> None:
    small = ministral_3b(quantization, created_at=NOW)
    medium = ministral_8b(quantization, created_at=NOW)
    assert (small.key, medium.key) == ("ministral-3b@25.12", "ministral-8b@25.12")
    assert (small.params_billions, medium.params_billions) == (3.0, 8.0)
    assert small.requirements == HardwareRequirements.small_llm()
    assert medium.requirements == HardwareRequirements.medium_llm()
    for manifest in (small, medium):
        assert manifest.quantization is quantization
        assert manifest.model_type is ModelType.LLM
        assert manifest.format is ModelFormat.GGUF
        assert manifest.context_length == 256_000
        assert manifest.features == ("chat", "function_calling", "vision")
        assert (manifest.source, manifest.license) == ("Mistral AI", "Apache-2.0")


def test_yolo_preset() -> None:
    manifest = yolov8n(created_at=NOW)
    assert manifest.key == "yolov8n@8.0.0"
    assert (manifest.model_type, manifest.format) == (ModelType.DETECTOR, ModelFormat.ONNX)
    assert manifest.quantization is Quantization.F16
    assert manifest.requirements == HardwareRequirements.yolo_nano()
    assert manifest.features == ("coco_80",)
    assert (manifest.source, manifest.license) == ("Ultralytics", "AGPL-3.0")
    assert manifest.params_billions is None
    assert manifest.filename() == "yolov8n-8_0_0-f16.onnx"
