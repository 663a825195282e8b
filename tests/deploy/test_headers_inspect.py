"""Which format a file is, what is refused, and what `inspect` and `publish` make of it."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from headers_kit import small_gguf, small_onnx, small_safetensors

from peatnet.cli import main
from peatnet.cli.draft import draft_manifest, look_at
from peatnet.deploy.headers import check_header, inspect_file, inspect_name
from peatnet.errors import BadModelFile, NotFound, StorageError, UsageError
from peatnet.models import ModelFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Peatnet = Callable[..., tuple[int, str, str]]

WHOLE = {"gguf": small_gguf(), "safetensors": small_safetensors(), "onnx": small_onnx()}


def written(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.fixture
def peatnet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Peatnet]:
    def run(*words: str | Path) -> tuple[int, str, str]:
        argv = ["peatnet", "--data-dir", str(tmp_path / "data"), *map(str, words)]
        monkeypatch.setattr(sys, "argv", argv)
        code = main()
        out, err = capsys.readouterr()
        return code, out, err

    level = logging.getLogger("peatnet").level
    yield run
    logging.getLogger("peatnet").setLevel(level)


@pytest.mark.parametrize("model_format", WHOLE)
def test_a_header_is_checked_by_its_format(tmp_path: Path, model_format: str) -> None:
    data = WHOLE[model_format]
    check_header(written(tmp_path, "whole", data), model_format)
    check_header(tmp_path / "whole", ModelFormat(model_format))
    short = written(tmp_path, "short", data[: len(data) // 2])
    with pytest.raises(BadModelFile, match=r"short: "):
        check_header(short, model_format)
    for other in WHOLE.keys() - {model_format}:
        with pytest.raises(BadModelFile):
            check_header(tmp_path / "whole", other)


@pytest.mark.parametrize("model_format", ["pytorch", ModelFormat.TENSORRT, "unheard-of"])
def test_formats_without_a_reader_pass(tmp_path: Path, model_format: str) -> None:
    check_header(written(tmp_path, "m", b"x"), model_format)


@pytest.mark.parametrize("model_format", WHOLE)
def test_the_content_tells_the_format(tmp_path: Path, model_format: str) -> None:
    assert inspect_file(written(tmp_path, "m", WHOLE[model_format])).format == model_format


def test_a_name_that_says_something_else(tmp_path: Path) -> None:
    inspection = inspect_file(written(tmp_path, "m.onnx", small_gguf()))
    assert inspection.format == "gguf"
    assert inspection.remarks == ("is named like a onnx file",)


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("m.gguf", b"\0" * 100, "is no GGUF file: its first bytes are 00 00 00 00"),
        ("m.safetensors", small_safetensors()[:50], "the header, "),
        ("m.onnx", b"junk", "(byte "),
        ("m.bin", b"", "is no GGUF, safetensors or ONNX file"),
        ("m.bin", b"\x08\x01", "is no GGUF, safetensors or ONNX file"),
        ("m.gguf", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("m.gguf", b"\n<!DOCTYPE html><html>", "is a web page"),
        ("m.pt", b"<html>", "is a web page"),
        ("m.bin", b"tjgg" + bytes(99), "a format before GGUF"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, name: str, data: bytes, complaint: str) -> None:
    with pytest.raises(BadModelFile) as caught:
        inspect_file(written(tmp_path, name, data))
    assert complaint in caught.value.message
    assert name in caught.value.message


def test_other_formats_are_known_by_their_names(tmp_path: Path) -> None:
    path = written(tmp_path, "yolov8n-fp16.pt", b"PK\3\4")
    inspection = inspect_file(path)
    assert {each.field: each.value for each in inspection.findings} == {
        "model_type": "detector",
        "format": "pytorch",
        "quantization": "F16",
    }
    assert inspection.findings == inspect_name(path.name)
    assert inspect_file(path, ModelFormat.TENSORRT).format == "tensorrt"


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    written(tmp_path, "loop", b"").unlink()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(NotFound, match="there is no file"):
        inspect_file(tmp_path / "none.gguf")
    for strange in (tmp_path, tmp_path / "pipe.gguf"):
        with pytest.raises(UsageError, match="is not a regular file"):
            check_header(strange, "gguf")
    with pytest.raises(StorageError, match="cannot be read"):
        inspect_file(tmp_path / "loop")


def test_an_error_of_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "m.gguf", small_gguf())

    def broken(descriptor: int, count: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(StorageError, match="cannot be read: Input/output error"):
        check_header(path, "gguf")


def draft(path: Path, fields: Path | None = None, **options: Any) -> tuple[dict[str, Any], str]:
    inspection, warnings = look_at(path, options.get("format"))
    options = {"model_id": "m"} | options
    drafted, remarks = draft_manifest(path.name, fields, options, inspection)
    return drafted, "\n".join([*warnings, *remarks])


def test_publish_takes_what_the_file_says(tmp_path: Path) -> None:
    drafted, said = draft(written(tmp_path, "what-q8_0.bin", small_gguf()))
    assert (drafted["name"], drafted["model_type"]) == ("Tiny Llama", "llm")
    assert (drafted["format"], drafted["quantization"]) == ("gguf", "Q4_K_M")
    assert drafted["context_length"] == 8192
    assert (drafted["license"], drafted["source"]) == ("apache-2.0", "Tiny People")
    assert drafted["metadata"]["gguf"]["architecture"] == "llama"
    assert said == (
        "found in the file: name Tiny Llama, format gguf, quantization Q4_K_M, params_billions 3.072e-06, "
        "context_length 8192, license apache-2.0, source Tiny People, metadata gguf\n"
        "guessed from the file: type llm"
    )


def test_what_a_person_says_wins(tmp_path: Path) -> None:
    fields = written(
        tmp_path,
        "m.json",
        json.dumps(
            {"context_length": 4096, "params_billions": None, "metadata": {"gguf": 1, "team": "edge"}}
        ).encode(),
    )  # fmt: skip
    drafted, said = draft(
        written(tmp_path, "m.gguf", small_gguf()),
        fields,
        name="Mine",
        model_type="vlm",
        quantization="q5_k_m",
        license="MIT",
    )
    assert (drafted["name"], drafted["model_type"], drafted["license"]) == ("Mine", "vlm", "MIT")
    assert (drafted["quantization"], drafted["context_length"]) == ("Q5_K_M", 4096)
    assert "params_billions" not in drafted
    assert drafted["metadata"] == {"gguf": 1, "team": "edge"}
    assert (
        "the file says something else, which is not used: quantization Q4_K_M, not Q5_K_M, "
        "context_length 8192, not 4096" in said
    )


def test_a_rounded_count_of_parameters_is_no_difference(tmp_path: Path) -> None:
    path = written(tmp_path, "m.onnx", small_onnx())
    fields = written(tmp_path, "m.json", b'{"params_billions": 1.3e-8}')
    drafted, said = draft(path, fields)
    assert drafted["params_billions"] == pytest.approx(1.3e-8)
    assert "something else" not in said
    assert "classes (3)" in said


def test_a_broken_file_is_warned_of(tmp_path: Path) -> None:
    drafted, said = draft(written(tmp_path, "mistral-q8_0.gguf", small_gguf()[:-1]))
    assert "warning: " in said
    assert "'output_norm.weight' ends at byte" in said
    assert "guessed from the file's name: type llm, format gguf, quantization Q8_0" in said
    assert drafted["quantization"] == "Q8_0"


def test_a_file_that_this_person_may_not_read(tmp_path: Path) -> None:
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    _, said = draft(tmp_path / "loop.gguf")
    assert "not looked into: " in said


def test_the_format_that_a_person_names_is_tried(tmp_path: Path) -> None:
    path = written(tmp_path, "m.bin", b"what is this")
    assert "is no GGUF file" in draft(path, format="GGUF")[1]
    assert "not read here" in draft(path, format="pytorch")[1]


def test_inspect_prints_facts_and_fields(tmp_path: Path, peatnet: Peatnet) -> None:
    code, out, err = peatnet("inspect", written(tmp_path, "m.onnx", small_onnx()))
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["format", "onnx"] in lines
    assert ["producer", "hand", "1.2"] in lines
    assert ["quantization", "F32", "found:", "the", "tensors'", "type"] in lines
    assert not (tmp_path / "data").exists()


def test_inspect_in_json(tmp_path: Path, peatnet: Peatnet) -> None:
    path = written(tmp_path, "m.gguf", small_gguf())
    code, out, err = peatnet("inspect", path, "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert list(said) == ["path", "format", "size_bytes", "facts", "manifest", "remarks"]
    assert (said["path"], said["format"]) == (str(path), "gguf")
    assert said["size_bytes"] == path.stat().st_size
    assert said["facts"]["context_length"] == 8192
    assert said["manifest"]["guessed"] == {"model_type": "llm"}
    assert said["manifest"]["found"]["params_billions"] == 3.072e-06


def test_inspect_is_safe_to_look_at(tmp_path: Path, peatnet: Peatnet) -> None:
    data = small_gguf().replace(b"Tiny Llama", b"\x1b[2J[b]x[/b]"[:10])
    path = written(tmp_path, "m.gguf", data)
    code, out, _ = peatnet("inspect", path)
    assert code == 0
    assert "\x1b" not in out
    assert "[b]" in out


def test_inspect_of_a_broken_file(tmp_path: Path, peatnet: Peatnet) -> None:
    path = written(tmp_path, "m.gguf", small_gguf()[:-1])
    code, out, err = peatnet("inspect", path, "--json")
    assert (code, out) == (30, "")
    assert json.loads(err.splitlines()[-1])["error"]["slug"] == "bad-model-file"
    assert "hint:  the file may have been cut off" in err


def test_publish_shows_what_it_found_before_it_signs(tmp_path: Path, peatnet: Peatnet) -> None:
    path = written(tmp_path, "m.safetensors", small_safetensors())
    code, out, err = peatnet("publish", path, "--id", "tiny", "--type", "embedder")
    assert code == 0
    assert "found in the file: format safetensors, quantization F16" in err
    manifest = json.loads(out)
    assert manifest["params_billions"] == 3.6e-08
    assert manifest["metadata"]["safetensors"]["dtypes"] == {"F16": 36, "I64": 4}
    assert manifest["metadata"]["peatnet"]["chunk_size"] > 0
