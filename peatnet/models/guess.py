"""What a model file's name gives away: its type, format and quantization."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from peatnet.models.enums import ModelFormat, ModelType, Quantization


@dataclass(frozen=True, slots=True)
class Guess:
    """What could be told from a name; None where it says nothing.

    Attributes:
        model_type: what the model does.
        format: how the file is laid out.
        quantization: how many bits its weights are kept in.
    """

    model_type: ModelType | None
    format: ModelFormat | None
    quantization: Quantization | None


_FORMATS: Final = {
    "onnx": ModelFormat.ONNX,
    "gguf": ModelFormat.GGUF,
    "engine": ModelFormat.TENSORRT,
    "plan": ModelFormat.TENSORRT,
    "trt": ModelFormat.TENSORRT,
    "ckpt": ModelFormat.PYTORCH,
    "pt": ModelFormat.PYTORCH,
    "pth": ModelFormat.PYTORCH,
    "safetensors": ModelFormat.SAFETENSORS,
}

# A name is often more than one of these ("qwen2-vl", "bge-llama"): the first that fits, the more special first.
_FAMILIES: Final = (
    (ModelType.TRACKER, r"bytetrack|deepsort|strongsort|botsort|ocsort|osnet|reid|tracker"),
    (ModelType.WHISPER, r"whisper|wav2vec|parakeet|moonshine|asr"),
    (ModelType.EMBEDDER, r"embed|minilm|sbert|\bbge\b|\bgte\b|\be5\b|\bclip\b|siglip|mpnet"),
    (ModelType.VLM, r"llava|pixtral|paligemma|moondream|internvl|smolvlm|\bvlm?\b|\d+vl\b|vision"),
    (ModelType.DETECTOR, r"yolo|detr\b|rcnn|ssd\b|retinanet|efficientdet|detector|rfdetr"),
    (
        ModelType.LLM,
        (
            r"llama|mistral|ministral|mixtral|qwen|gemma|falcon|deepseek|smollm|granite|olmo|vicuna|\bphi"
            r"|\bgpt|starcoder|\bllm\b|instruct\b|\bchat\b"
        ),
    ),
)
_TYPES: Final = tuple((kind, re.compile(pattern)) for kind, pattern in _FAMILIES)

_QUANTIZATION: Final = re.compile(
    r"(?<![a-z0-9])(?:fp?32|fp?16|bf16|int8|q4_0|q8_0|q6_?k(?!_l)|q[45]_?k_?[sm])(?![a-z0-9]|_\d)"
)

_SHORT_K: Final = re.compile(r"q(\d)_?k_?([sm]?)")

_MAX_CHARS: Final = 512


def guess_from_filename(name: str) -> Guess:
    """What a model file's name says about it.

    Args:
        name: a file name or a path; only what follows the last slash counts.
    """
    lower = name.rpartition("/")[2][-_MAX_CHARS:].lower()
    stem, dot, extension = lower.rpartition(".")
    file_format = _FORMATS.get(extension) if dot else None
    text = stem if file_format else lower
    return Guess(_guess_type(text, file_format), file_format, _guess_quantization(text))


def _guess_type(text: str, file_format: ModelFormat | None) -> ModelType | None:
    words = re.sub(r"[^a-z0-9]+", " ", text)
    for kind, pattern in _TYPES:
        if pattern.search(words):
            return kind
    # Hardly anything but language models is published as gguf.
    return ModelType.LLM if file_format is ModelFormat.GGUF else None


def _guess_quantization(text: str) -> Quantization | None:
    found = _QUANTIZATION.findall(text.replace("-", ".").replace(" ", "."))
    if not found:
        return None
    # The last one: "model-f16-q4_k_m" was made from the one and is the other.
    spelled = _SHORT_K.sub(lambda m: f"q{m[1]}_k" + (f"_{m[2]}" if m[2] else ""), found[-1])
    return Quantization.from_filename_part(spelled)
