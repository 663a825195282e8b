from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.errors import UsageError
from peatnet.models import (
    Guess,
    ModelFormat,
    ModelReference,
    ModelType,
    Quantization,
    guess_from_filename,
    parse_reference,
)

F, Q, T = ModelFormat, Quantization, ModelType


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("ministral-3b-25_12-q4_k_m.gguf", Guess(T.LLM, F.GGUF, Q.Q4_K_M)),
        ("Ministral-3-3B-Instruct-2512-Q4_K_M.gguf", Guess(T.LLM, F.GGUF, Q.Q4_K_M)),
        ("/models/Qwen2.5-7B-Instruct-Q5_K_S.gguf", Guess(T.LLM, F.GGUF, Q.Q5_K_S)),
        ("unheard-of.Q8_0.gguf", Guess(T.LLM, F.GGUF, Q.Q8_0)),
        ("ministral-3b-q4km.gguf", Guess(T.LLM, F.GGUF, Q.Q4_K_M)),
        ("phi-4-q6_k.gguf", Guess(T.LLM, F.GGUF, Q.Q6_K)),
        ("phi-4-q6k.gguf", Guess(T.LLM, F.GGUF, Q.Q6_K)),
        ("phi-4-Q6_K_L.gguf", Guess(T.LLM, F.GGUF, None)),
        ("llama-IQ4_XS.gguf", Guess(T.LLM, F.GGUF, None)),
        ("llama-q4_0_4_4.gguf", Guess(T.LLM, F.GGUF, None)),
        ("llama-f16-q4_0.gguf", Guess(T.LLM, F.GGUF, Q.Q4_0)),
        ("llava-1.6-mistral-7b.gguf", Guess(T.VLM, F.GGUF, None)),
        ("Qwen2-VL-2B.safetensors", Guess(T.VLM, F.SAFETENSORS, None)),
        ("yolov8n.pt", Guess(T.DETECTOR, F.PYTORCH, None)),
        ("yolov8n-8_0_0-f16.onnx", Guess(T.DETECTOR, F.ONNX, Q.F16)),
        ("yolov8n_fp16.engine", Guess(T.DETECTOR, F.TENSORRT, Q.F16)),
        ("rtdetr-l.plan", Guess(T.DETECTOR, F.TENSORRT, None)),
        ("osnet_x1_0.pth", Guess(T.TRACKER, F.PYTORCH, None)),
        ("whisper-large-v3-int8.onnx", Guess(T.WHISPER, F.ONNX, Q.INT8)),
        ("all-MiniLM-L6-v2.safetensors", Guess(T.EMBEDDER, F.SAFETENSORS, None)),
        ("bge-m3-BF16.safetensors", Guess(T.EMBEDDER, F.SAFETENSORS, Q.BF16)),
        ("thing fp32.ckpt", Guess(None, F.PYTORCH, Q.F32)),
        ("model.safetensors", Guess(None, F.SAFETENSORS, None)),
        ("weights-f32.bin", Guess(None, None, Q.F32)),
        ("gguf", Guess(None, None, None)),
        ("", Guess(None, None, None)),
    ],
)
def test_guesses(name: str, guess: Guess) -> None:
    assert guess_from_filename(name) == guess


@given(st.text(max_size=600))
@settings(deadline=None)
def test_any_name_can_be_guessed_at(name: str) -> None:
    assert guess_from_filename(name + ".onnx").format is F.ONNX


@pytest.mark.parametrize("quantization", list(Quantization))
def test_what_filename_writes_is_recognized(quantization: Quantization) -> None:
    assert Quantization.from_filename_part(quantization.lower()) is quantization
    assert guess_from_filename(f"m-1_0_0-{quantization.lower()}.gguf").quantization is quantization


@pytest.mark.parametrize(
    ("part", "quantization"), [("fp16", Q.F16), ("FP32", Q.F32), ("q4", None), ("", None)]
)
def test_parts_of_file_names(part: str, quantization: Quantization | None) -> None:
    assert Quantization.from_filename_part(part) is quantization


@pytest.mark.parametrize(
    ("text", "reference", "prefix"),
    [
        ("ministral-3b", ModelReference("ministral-3b"), None),
        ("ministral-3b@25.12", ModelReference("ministral-3b", "25.12"), None),
        ("a@b@c", ModelReference("a", "b@c"), None),
        ("deadbeef", ModelReference("deadbeef"), "deadbeef"),
        ("DEADBEEF00", ModelReference("DEADBEEF00"), "deadbeef00"),
        ("deadbee", ModelReference("deadbee"), None),
        ("deadbeef@1", ModelReference("deadbeef", "1"), None),
        ("0" * 64, ModelReference("0" * 64), "0" * 64),
        ("0" * 65, ModelReference("0" * 65), None),
    ],
)
def test_references(text: str, reference: ModelReference, prefix: str | None) -> None:
    assert parse_reference(text) == reference
    assert reference.hash_prefix == prefix
    assert str(reference) == text


@pytest.mark.parametrize(
    "text", ["", "@", "@1", "a@", "../x", "a@../x", "a/b", "x" * 5000, "\ud800"]
)
def test_bad_references(text: str) -> None:
    with pytest.raises(UsageError, match=r"^model reference ") as caught:
        parse_reference(text)
    assert len(caught.value.message) < 400
    assert caught.value.hint
