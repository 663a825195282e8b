"""From the header of each format to an `Inspection`. Pure: no files here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from peatnet.deploy.headers.ggml import FILE_TYPES, word_for
from peatnet.deploy.headers.inspection import Findings, Inspection, weigh
from peatnet.models import ModelFormat, ModelType, guess_from_filename
from peatnet.models.checks import line
from peatnet.models.limits import MAX_CLASSES, MAX_TAG_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peatnet.deploy.headers.gguf import GgufHeader
    from peatnet.deploy.headers.onnx import OnnxHeader, Value
    from peatnet.deploy.headers.safetensors import SafetensorsHeader

_MAX_SHOWN: Final = 32
"""Entries of a list or object that go into a manifest's metadata."""

_MAX_METADATA_BYTES: Final = 8 * 1024
_MAX_CLASSES_BYTES: Final = 16 * 1024
"""JSON of what goes into a manifest, of which the whole may take 48 KiB."""

_EMBEDDERS: Final = re.compile(r"bert|embed(?!ded)|t5encoder")
_SEEING: Final = re.compile(r"vl|clip|ocr")
_SPEECH: Final = re.compile(r"whisper|parakeet|moonshine")

# What Ultralytics writes into the ONNX files that it exports.
_TASKS: Final = {"detect": ModelType.DETECTOR, "obb": ModelType.DETECTOR}
_CLASS: Final = re.compile(r"""\s*(\d{1,5}): (?:'([^'\\]*)'|"([^"\\]*)")\s*(?:,|$)""")


def describe_gguf(header: GgufHeader, size: int, file_name: str) -> Inspection:
    """What a GGUF header says.

    Args:
        header: as read.
        size: of the file, in bytes.
        file_name: which may tell more.
    """
    said = header.metadata
    architecture = str(said.get("general.architecture", ""))[:64]
    elements = _most_first(header.elements)
    parts = said.get("split.count", 0)
    findings, remarks = Findings(), []
    findings.found("format", ModelFormat.GGUF.value, "the file's header")
    findings.text("name", said.get("general.name"), "general.name")
    findings.text("license", said.get("general.license"), "general.license")
    for key in ("general.organization", "general.author"):
        findings.text("source", said.get(key), key)
    file_type = _quantization(header, elements, findings)
    if isinstance(parts, int) and parts > 1:
        remarks.append(
            f"is part {(_number(said.get('split.no')) or 0) + 1} of {parts}: a runtime needs all of them"
        )
    else:
        findings.parameters(sum(elements.values()), "counted in the tensors")
    findings.context_length(
        said.get(f"{architecture}.context_length"), f"{architecture}.context_length"
    )
    kind = _gguf_type(header, architecture)
    if kind is not None:
        findings.guessed("model_type", kind.value, f"the architecture {architecture}")
    facts = _filled(
        {
            "version": header.version,
            "architecture": architecture,
            "kind": said.get("general.type"),
            "name": said.get("general.name"),
            "quantization": file_type,
            "parameters": sum(elements.values()),
            "context_length": _number(said.get(f"{architecture}.context_length")),
            "embedding_length": _number(said.get(f"{architecture}.embedding_length")),
            "blocks": _number(said.get(f"{architecture}.block_count")),
            "experts": _number(said.get(f"{architecture}.expert_count")),
            "vocabulary": header.vocabulary,
            "tensors": header.tensors,
            "elements_by_type": elements,
            "license": said.get("general.license"),
            "source": said.get("general.organization") or said.get("general.author"),
        }
    )
    kept = {
        name: facts[name]
        for name in ("architecture", "quantization", "embedding_length", "blocks", "experts", "vocabulary", "tensors")
        if name in facts
    }  # fmt: skip
    findings.found_within(_MAX_METADATA_BYTES, "metadata", {"gguf": kept}, "the file's header")
    if header.unknown_types:
        remarks.append(_unknown("tensor types", sorted(header.unknown_types)))
    return _finished(ModelFormat.GGUF, size, facts, findings, remarks, file_name)


def _quantization(header: GgufHeader, elements: Mapping[str, int], findings: Findings) -> str:
    """Note the manifest's word for the file's quantization; the file's own is returned."""
    number = header.metadata.get("general.file_type")
    if isinstance(number, int) and number in FILE_TYPES:
        name, source, sure = FILE_TYPES[number], "general.file_type", True
    elif elements and not next(iter(elements)).startswith("type "):
        name, source, sure = next(iter(elements)), "what most tensors are", False
    else:
        return ""
    word, same = word_for(name)
    if same and sure:
        findings.found("quantization", word.value, source)
    elif same:
        findings.guessed("quantization", word.value, source)
    else:
        findings.guessed("quantization", word.value, f"the nearest word for {name}")
    return name


def _gguf_type(header: GgufHeader, architecture: str) -> ModelType | None:
    kind = header.metadata.get("general.type", "model")
    if _SPEECH.search(architecture):
        return ModelType.WHISPER
    if kind == "mmproj" or _SEEING.search(architecture):
        return ModelType.VLM
    if kind != "model":
        return ModelType.CUSTOM  # an adapter, a vocabulary
    pooled = _number(header.metadata.get(f"{architecture}.pooling_type")) in (1, 2, 3)
    if pooled or _EMBEDDERS.search(architecture):
        return ModelType.EMBEDDER
    speaks = header.vocabulary and f"{architecture}.context_length" in header.metadata
    return ModelType.LLM if speaks else None


def describe_safetensors(header: SafetensorsHeader, size: int, file_name: str) -> Inspection:
    """What a safetensors header says.

    Args:
        header: as read.
        size: of the file, in bytes.
        file_name: which may tell more.
    """
    elements = _most_first(header.elements)
    findings = Findings()
    findings.found("format", ModelFormat.SAFETENSORS.value, "the file's header")
    weights = weigh(findings, elements)
    facts = _filled(
        {
            "parameters": weights,
            "tensors": header.tensors,
            "elements_by_dtype": elements,
            "metadata": header.metadata,
        }
    )
    kept = {"dtypes": _first(elements), "tensors": header.tensors}
    findings.found_within(
        _MAX_METADATA_BYTES, "metadata", {"safetensors": kept}, "the file's header"
    )
    remarks = []
    if header.unknown_dtypes:
        remarks.append(_unknown("dtypes", sorted(header.unknown_dtypes)))
    return _finished(ModelFormat.SAFETENSORS, size, facts, findings, remarks, file_name)


def describe_onnx(header: OnnxHeader, size: int, file_name: str) -> Inspection:
    """What an ONNX file says.

    Args:
        header: as read.
        size: of the file, in bytes.
        file_name: which may tell more.
    """
    elements = _most_first(header.elements)
    said = header.properties
    findings, remarks = Findings(), []
    findings.found("format", ModelFormat.ONNX.value, "the file's content")
    weights = weigh(findings, elements)
    if (task := said.get("task")) in _TASKS:
        findings.guessed("model_type", _TASKS[task].value, "the property task")
        if classes := _classes(said.get("names", "")):
            findings.found_within(_MAX_CLASSES_BYTES, "classes", classes, "the property names")
    findings.text("license", _license(said.get("license", "")), "the property license")
    findings.text("source", said.get("author"), "the property author")
    inputs = [_value(each) for each in header.inputs[:_MAX_SHOWN]]
    outputs = [_value(each) for each in header.outputs[:_MAX_SHOWN]]
    facts = _filled(
        {
            "ir_version": header.ir_version,
            "opset": header.opsets,
            "producer": header.producer,
            "inputs": inputs,
            "outputs": outputs,
            "parameters": weights,
            "initializers": header.initializers,
            "elements_by_type": elements,
            "properties": {key: text for key, text in said.items() if len(text) <= 256},
            "other_files": header.other_files,
        }
    )
    kept = _filled(
        {
            "ir_version": header.ir_version,
            "opset": _first(header.opsets),
            "producer": header.producer,
            "inputs": inputs,
            "outputs": outputs,
        }
    )
    findings.found_within(_MAX_METADATA_BYTES, "metadata", {"onnx": kept}, "the file's content")
    if header.other_files:
        others = ", ".join(header.other_files)
        remarks.append(
            f"keeps weights in other files ({others}), which are not part of it: a runtime needs these too"
        )
    if header.unknown_types:
        remarks.append(_unknown("element types", sorted(header.unknown_types)))
    return _finished(ModelFormat.ONNX, size, facts, findings, remarks, file_name)


def describe_other(model_format: ModelFormat, size: int, file_name: str) -> Inspection:
    """What the name says of a file of a format that has no reader here."""
    findings = Findings()
    findings.named(file_name)
    findings.guessed("format", model_format.value, "what was said of it")
    remarks = (f"headers of {model_format} files are not read here",)
    return Inspection(model_format, size, {}, findings.all(), remarks)


def _finished(
    model_format: ModelFormat,
    size: int,
    facts: Mapping[str, Any],
    findings: Findings,
    remarks: list[str],
    file_name: str,
) -> Inspection:
    findings.named(file_name)
    named = guess_from_filename(file_name).format
    if named is not None and named != model_format:
        remarks.append(f"is named like a {named} file")
    return Inspection(model_format, size, facts, findings.all(), tuple(remarks))


def _value(value: Value) -> dict[str, Any]:
    return {"name": value.name, "type": value.type, "shape": value.shape}


def _license(text: str) -> str:
    """An SPDX identifier out of what Ultralytics writes: "AGPL-3.0 License (https://…)"."""
    return text.partition(" License (")[0]


def _classes(text: str) -> list[str]:
    """The names in the text of a Python dict {0: 'person', 1: 'car'}; none where it is anything else."""
    body = text.strip()
    if not (body.startswith("{") and body.endswith("}")):
        return []
    names: list[str] = []
    at, body = 0, body[1:-1].rstrip()
    while at < len(body):
        match = _CLASS.match(body, at)
        if match is None or int(match[1]) != len(names) or len(names) >= MAX_CLASSES:
            return []
        try:
            names.append(line(match[2] or match[3] or "", MAX_TAG_BYTES))
        except ValueError:
            return []
        at = match.end()
    return names if all(names) else []


def _number(value: object) -> int | None:
    return value if type(value) is int else None


def _most_first(elements: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(elements.items(), key=lambda item: -item[1]))


def _first(members: Mapping[str, Any]) -> dict[str, Any]:
    return dict(list(members.items())[:_MAX_SHOWN])


def _filled(members: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in members.items() if value not in (None, "", {}, [])}


def _unknown(what: str, which: list[Any]) -> str:
    return (
        f"has {what} unknown here ({', '.join(map(str, which[:8]))}): their sizes were not checked"
    )
