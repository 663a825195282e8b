from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from peatnet.errors import InvalidManifest
from peatnet.models import (
    ChunkHint,
    HardwareRequirements,
    ModelFormat,
    ModelManifest,
    ModelType,
    Quantization,
    Timestamp,
    limits,
    manifest_schema,
)

NOW = Timestamp("2025-12-02T10:11:12Z")
CHARS = st.characters(exclude_categories=["Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp", "Zs"])
LINES = st.text(CHARS, max_size=20)
TAGS = st.lists(st.text(CHARS, min_size=1, max_size=12), max_size=4).map(tuple)
NAMES = st.from_regex(r"[a-z0-9_+é][A-Za-z0-9_+é -]{0,20}x", fullmatch=True)
U32S = st.integers(0, 2**32 - 1)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(CHARS, max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)

REQUIREMENTS = st.builds(
    HardwareRequirements,
    min_vram_mb=U32S,
    recommended_vram_mb=U32S,
    min_ram_mb=U32S,
    execution_providers=TAGS,
    architectures=TAGS,
)
MANIFESTS = st.builds(
    ModelManifest,
    model_id=NAMES,
    name=st.text(CHARS, min_size=1, max_size=20),
    model_type=st.sampled_from(ModelType),
    format=st.sampled_from(ModelFormat),
    version=NAMES,
    quantization=st.sampled_from(Quantization),
    size_bytes=st.integers(0, 2**64 - 1),
    sha256=DIGESTS | st.just(""),
    blob_hash=st.none() | DIGESTS,
    download_url=st.none() | st.just("http://[::1]:8080/a%20b?c=d"),
    requirements=REQUIREMENTS,
    features=TAGS,
    params_billions=st.none() | st.floats(0.125, 1e6, width=32),
    context_length=st.none() | U32S,
    classes=st.none() | TAGS,
    license=LINES,
    source=LINES,
    created_at=st.integers(0, 2**62).map(Timestamp.from_unix_ns),
    metadata=st.dictionaries(LINES.filter(lambda key: key != "peatnet"), VALUES, max_size=4),
)


def new(**others: Any) -> ModelManifest:
    return ModelManifest.new("m", "M", ModelType.LLM, created_at=NOW, **others)


@given(MANIFESTS)
@settings(deadline=None)
def test_round_trip(manifest: ModelManifest) -> None:
    text = manifest.to_json()
    again = ModelManifest.from_json(text)
    assert again == manifest
    assert hash(again) == hash(manifest)
    assert again.to_json() == text
    assert json.loads(text) == manifest.payload() == manifest.model_dump()
    assert ModelManifest.from_json(json.dumps(manifest.payload())) == manifest
    assert ModelManifest.from_draft(text) == manifest
    present = [name for name in ModelManifest.model_fields if name in json.loads(text)]
    assert list(json.loads(text)) == present


def test_defaults_of_a_new_one() -> None:
    manifest = new()
    assert manifest.format is ModelFormat.GGUF
    assert manifest.version == "1.0.0"
    assert manifest.quantization is Quantization.Q4_K_M
    assert (manifest.size_bytes, manifest.sha256, manifest.source) == (0, "", "")
    assert manifest.license == "Apache-2.0"
    assert manifest.requirements == HardwareRequirements()
    assert (manifest.features, manifest.metadata) == ((), {})
    assert (manifest.blob_hash, manifest.download_url, manifest.classes) == (None, None, None)
    assert (manifest.params_billions, manifest.context_length, manifest.chunks) == (
        None,
        None,
        None,
    )
    assert manifest.created_at == NOW
    for name in ("blob_hash", "download_url", "params_billions", "classes", "metadata"):
        assert name not in manifest.payload()


def test_requirements() -> None:
    default = HardwareRequirements()
    assert default.payload() == {
        "min_vram_mb": 0,
        "recommended_vram_mb": 0,
        "min_ram_mb": 2048,
        "execution_providers": ["cpu"],
        "architectures": ["aarch64", "x86_64"],
    }
    assert HardwareRequirements.from_json(default.to_json()) == default
    both = ("aarch64", "x86_64")
    assert [
        tuple(r.payload().values())
        for r in (
            HardwareRequirements.small_llm(),
            HardwareRequirements.medium_llm(),
            HardwareRequirements.yolo_nano(),
        )
    ] == [
        (2048, 4096, 4096, ["cuda", "cpu"], list(both)),
        (4096, 8192, 8192, ["cuda", "cpu"], list(both)),
        (512, 1024, 1024, ["tensorrt", "cuda", "cpu"], list(both)),
    ]
    assert default.supports_provider("cpu")
    assert not default.supports_provider("cuda")


@pytest.mark.parametrize(
    ("vram", "ram", "arch", "runs"),
    [
        (2048, 4096, "aarch64", True),
        (2047, 4096, "aarch64", False),
        (2048, 4095, "aarch64", False),
        (2048, 4096, "armv7l", False),
    ],
)
def test_can_run_on(vram: int, ram: int, arch: str, runs: bool) -> None:  # noqa: FBT001  # a parameter of the test
    manifest = new(requirements=HardwareRequirements.small_llm())
    assert manifest.can_run_on(vram, ram, arch) is runs


def test_no_vram_is_enough_where_none_is_needed() -> None:
    assert HardwareRequirements().can_run_on(0, 2048, "x86_64")


@pytest.mark.parametrize(
    ("version", "quantization", "file_format", "filename"),
    [
        ("25.12", Quantization.Q4_K_M, ModelFormat.GGUF, "m-25_12-q4_k_m.gguf"),
        ("1.0.0", Quantization.F16, ModelFormat.TENSORRT, "m-1_0_0-f16.engine"),
        ("v2", Quantization.BF16, ModelFormat.PYTORCH, "m-v2-bf16.pt"),
        ("v2", Quantization.INT8, ModelFormat.SAFETENSORS, "m-v2-int8.safetensors"),
    ],
)
def test_filename(
    version: str, quantization: Quantization, file_format: ModelFormat, filename: str
) -> None:
    manifest = new(version=version, quantization=quantization, format=file_format)
    assert manifest.filename() == filename
    assert manifest.key == f"m@{version}"


# Computed in Rust, in f32.
@pytest.mark.parametrize(
    ("params", "quantization", "megabytes"),
    [
        (3, Quantization.F32, 14_745),
        (3, Quantization.Q4_K_M, 2064),
        (3, Quantization.Q6_K, 3022),
        (8, Quantization.F16, 19_660),
        (8, Quantization.Q5_K_S, 6881),
        (8, Quantization.Q8_0, 9830),
        (0, Quantization.F16, 0),
        (1e6, Quantization.F32, 2**32 - 1),
    ],
)
def test_estimated_vram(params: float, quantization: Quantization, megabytes: int) -> None:
    assert new(params_billions=params, quantization=quantization).estimated_vram_mb() == megabytes


def test_estimated_vram_without_a_parameter_count() -> None:
    assert new(requirements=HardwareRequirements.yolo_nano()).estimated_vram_mb() == 1024


def test_with_blob() -> None:
    before = new(
        metadata={"a": [1], "peatnet": {"chunk_size": 65536, "table_hash": "0" * 64, "x": 1}}
    )
    digest = "aB" * 32
    after = before.with_blob(
        blob_hash=digest, size_bytes=5, sha256="CD" * 32, chunk_size=2**20, table_hash="ef" * 32
    )
    assert (after.blob_hash, after.size_bytes, after.sha256) == ("ab" * 32, 5, "cd" * 32)
    assert after.chunks == ChunkHint(2**20, "ef" * 32)
    assert before.chunks == ChunkHint(65536, "0" * 64)
    assert after.metadata["a"] == [1]
    assert after.metadata["peatnet"]["x"] == 1
    assert ModelManifest.from_json(after.to_json()) == after
    fresh = new().with_blob(
        blob_hash=digest, size_bytes=5, sha256="", chunk_size=2**20, table_hash="ef" * 32
    )
    assert fresh.chunks == ChunkHint(2**20, "ef" * 32)
    with pytest.raises(InvalidManifest, match=r"metadata\.peatnet\.chunk_size"):
        new().with_blob(
            blob_hash=digest, size_bytes=5, sha256="", chunk_size=5, table_hash="ef" * 32
        )


def test_values_are_frozen_and_metadata_is_copied() -> None:
    inner = {"b": [1]}
    manifest = new(metadata={"a": inner})
    inner["b"].append(2)
    assert manifest.metadata == {"a": {"b": [1]}}
    with pytest.raises(ValidationError):
        manifest.name = "other"  # type: ignore[misc]  # frozen is the point


def test_equal_manifests_are_one_in_a_set() -> None:
    assert len({new(), new(), new(version="2")}) == 2


def test_drafts() -> None:
    draft = '{"model_id":"d","name":"D","model_type":"vlm","requirements":{"min_ram_mb":1}}'
    manifest = ModelManifest.from_draft(
        draft, created_at=datetime(2025, 1, 1, tzinfo=UTC), name="-"
    )
    assert (manifest.name, manifest.model_type) == ("D", ModelType.VLM)
    assert manifest.requirements == HardwareRequirements(min_ram_mb=1)
    assert manifest.created_at == "2025-01-01T00:00:00Z"
    with pytest.raises(InvalidManifest, match="field created_at: is missing"):
        ModelManifest.from_draft(draft)
    with pytest.raises(InvalidManifest, match="'licence': there is no such field") as caught:
        ModelManifest.from_draft('{"licence":"MIT"}')
    assert caught.value.hint is not None
    assert "license" in caught.value.hint


def test_foreign_json_may_hold_more_but_not_less() -> None:
    payload = new().payload()
    more = json.dumps({**payload, "future": {"x": 1}, "blob_hash": None, "classes": None})
    assert ModelManifest.from_json(more) == new()
    for name in payload:
        less = {key: value for key, value in payload.items() if key != name}
        with pytest.raises(InvalidManifest, match=f"manifest field {name}: is missing"):
            ModelManifest.from_json(json.dumps(less))
    for name in payload["requirements"]:
        less = dict(payload["requirements"])
        del less[name]
        with pytest.raises(InvalidManifest, match=rf"field requirements\.{name}: is missing"):
            ModelManifest.from_json(json.dumps({**payload, "requirements": less}))


def test_schema() -> None:
    schema = manifest_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert list(schema["properties"]) == list(ModelManifest.model_fields)
    assert schema["required"] == list(new().payload())
    assert schema["$defs"]["HardwareRequirements"]["required"] == list(
        HardwareRequirements().payload()
    )
    assert schema["properties"]["created_at"]["format"] == "date-time"
    assert schema["properties"]["model_id"]["maxLength"] == limits.MAX_NAME_BYTES
    json.dumps(schema)


def test_words_of_types() -> None:
    assert [(t.value, t.display_name, t.capability_type) for t in ModelType] == [
        ("detector", "Object Detector", "OBJECT_DETECTION"),
        ("llm", "Language Model", "LLM_INFERENCE"),
        ("tracker", "Tracker", "OBJECT_TRACKING"),
        ("embedder", "Embedder", "FEATURE_EMBEDDING"),
        ("vlm", "Vision-Language Model", "VISION_LANGUAGE"),
        ("whisper", "Audio Transcription", "AUDIO_TRANSCRIPTION"),
        ("custom", "Custom Model", "CUSTOM"),
    ]
    assert {f.value: f.extension for f in ModelFormat} == {
        "onnx": "onnx",
        "gguf": "gguf",
        "tensorrt": "engine",
        "pytorch": "pt",
        "safetensors": "safetensors",
    }
    assert {q.value: q.memory_factor for q in Quantization} == {
        "F32": 2.0,
        "F16": 1.0,
        "BF16": 1.0,
        "INT8": 0.5,
        "Q4_0": 0.28,
        "Q4_K_S": 0.28,
        "Q4_K_M": 0.28,
        "Q5_K_S": 0.35,
        "Q5_K_M": 0.35,
        "Q6_K": 0.41,
        "Q8_0": 0.5,
    }
