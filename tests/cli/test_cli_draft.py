"""What `publish` puts into a manifest: options, the manifest file, the file's name, defaults."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from peatnet.cli.draft import draft_manifest
from peatnet.errors import InvalidManifest, NotFound, StorageError, UsageError
from peatnet.models import MAX_MANIFEST_BYTES

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_the_files_name_tells_what_nobody_said() -> None:
    drafted, remarks = draft_manifest("mistral-7b-instruct-q5_k_m.gguf", None, {"model_id": "m7"})
    assert (drafted["format"], drafted["quantization"]) == ("gguf", "Q5_K_M")
    assert drafted["name"] == "m7"
    assert remarks[0].startswith("guessed from the file's name: ")
    assert "format gguf, quantization Q5_K_M" in remarks[0]


def test_what_nothing_tells_is_a_default_and_said() -> None:
    drafted, remarks = draft_manifest("weights.bin", None, {"model_id": "m"})
    assert (drafted["format"], drafted["quantization"]) == ("gguf", "Q4_K_M")
    assert (drafted["version"], drafted["license"]) == ("1.0.0", "Apache-2.0")
    assert remarks == [
        "assumed: type custom, format gguf, quantization Q4_K_M (set with --type, --format, --quantization)"
    ]
    # Q4_K_M means nothing in safetensors.
    assert draft_manifest("m.safetensors", None, {"model_id": "m"})[0]["quantization"] == "F32"


def test_options_win_over_the_file_and_both_over_the_name(tmp_path: Path) -> None:
    file = write(
        tmp_path / "m.json",
        {
            "model_id": "from-file",
            "model_type": "vlm",
            "format": "onnx",
            "quantization": "INT8",
            "context_length": 4096,
            "metadata": {"team": "edge"},
            "created_at": "2025-12-02T10:11:12.123456789Z",
            # Measured anew:
            "size_bytes": 1,
            "sha256": "00" * 32,
            "blob_hash": "11" * 32,
        },
    )
    options = {"model_id": "mine", "format": "GGUF", "quantization": "fp16", "features": ["chat"]}
    drafted, remarks = draft_manifest("whisper-q8_0.pt", file, options)
    assert remarks == []
    assert drafted["model_id"] == drafted["name"] == "mine"
    assert (drafted["model_type"], drafted["format"]) == ("vlm", "gguf")
    assert drafted["quantization"] == "F16"
    assert drafted["features"] == ["chat"]
    assert drafted["context_length"] == 4096
    assert drafted["metadata"] == {"team": "edge"}
    assert drafted["created_at"] == "2025-12-02T10:11:12.123456789Z"
    assert (drafted["size_bytes"], drafted["sha256"]) == (0, "")
    assert "blob_hash" not in drafted


def test_an_id_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs an id"):
        draft_manifest("m.gguf", None, {"model_id": None})
    with pytest.raises(UsageError, match="needs an id"):
        draft_manifest("m.gguf", write(tmp_path / "m.json", {}), {})


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"model_id": "../up"}, "model_id"),
        ({"model_id": "m", "quantization": "Q3"}, "quantization"),
        ({"model_id": "m", "model_type": "robot"}, "model_type"),
        ({"model_id": "m", "format": "zip"}, "format"),
        ({"model_id": "m", "download_url": "ftp://host/x"}, "download_url"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidManifest, match=field):
        draft_manifest("m.gguf", None, options)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 40_000, " " * (MAX_MANIFEST_BYTES + 1)])
def test_a_manifest_file_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "broken.json", text)
    with pytest.raises(InvalidManifest, match=r"broken\.json"):
        draft_manifest("m.gguf", file, {"model_id": "m"})


def test_a_manifest_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no file .*none\.json") as missing:
        draft_manifest("m.gguf", tmp_path / "none.json", {"model_id": "m"})
    assert missing.value.hint == "check the path"
    with pytest.raises(StorageError, match=r"cannot be read: Is a directory"):
        draft_manifest("m.gguf", tmp_path, {"model_id": "m"})
