"""Model files made by hand, byte by byte, and a window on bytes that counts what is read of them."""

from __future__ import annotations

import json
import struct
from typing import Any

from peatnet.deploy.headers.window import Window

NUMBERS = {
    "u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i"),
    "f32": (6, "f"), "bool": (7, "?"), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d"),
}  # fmt: skip


class Counted:
    """Bytes that are read like a file, of which the last ones may have been lost meanwhile."""

    def __init__(self, data: bytes, lost: int = 0) -> None:
        self.data = data
        self._there = len(data) - lost
        self.read = 0

    def read_at(self, offset: int, count: int) -> bytes:
        assert offset >= 0
        assert 0 <= count <= len(self.data), "asked for more than there is"
        piece = self.data[offset : min(offset + count, self._there)]
        self.read += len(piece)
        return piece


def window(data: bytes, *, limit: int | None = None) -> Window:
    return Window(Counted(data).read_at, len(data), "m.bin", limit=limit)


# GGUF


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(kind: str, item: Any) -> bytes:
    """A value with its type before it. Lists: kind "list", item (kind, items)."""
    if kind == "text":
        return struct.pack("<I", 8) + text(item)
    if kind == "list":
        inner, items = item
        parts = [value(inner, each) for each in items]
        number = {"text": 8, "list": 9}.get(inner) or NUMBERS[inner][0]
        return struct.pack("<IIQ", 9, number, len(items)) + b"".join(part[4:] for part in parts)
    number, code = NUMBERS[kind]
    return struct.pack(f"<I{code}", number, item)


def entry(key: str | bytes, kind: str, item: Any) -> bytes:
    return text(key) + value(kind, item)


def tensor(name: str | bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(
    entries: list[bytes],
    tensors: list[bytes],
    *,
    data: int = 0,
    version: int = 3,
    alignment: int = 32,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A GGUF file; counts stand in for the true numbers of tensors and entries."""
    n_tensors, n_entries = counts or (len(tensors), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_entries)
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + bytes(data)


def small_gguf() -> bytes:
    """A language model of two tensors and 3,072 parameters."""
    return gguf(
        [
            entry("general.architecture", "text", "llama"),
            entry("general.name", "text", "Tiny Llama"),
            entry("general.file_type", "u32", 15),
            entry("general.license", "text", "apache-2.0"),
            entry("general.organization", "text", "Tiny People"),
            entry("llama.context_length", "u32", 8192),
            entry("llama.block_count", "u32", 2),
            entry("llama.rope.freq_base", "f32", 10000.0),
            entry("tokenizer.ggml.tokens", "list", ("text", ["<s>", "</s>", "a", ""])),
            entry("tokenizer.ggml.scores", "list", ("f32", [0.0, 1.0, 2.0, 3.0])),
            entry("tokenizer.chat_template", "text", "x" * 5000),
        ],
        [
            tensor("token_embd.weight", (256, 10), 12, 0),
            tensor("output_norm.weight", (512,), 0, 1440),
        ],
        data=1440 + 2048,
    )


# safetensors


def safetensors(header: Any, data: int, *, length: int | None = None) -> bytes:
    """A safetensors file; the header a dict, or its text."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data)


def small_safetensors() -> bytes:
    """Three tensors, 36 parameters, and 4 positions."""
    return safetensors(
        {
            "__metadata__": {"format": "pt", "notes": "n" * 2000, "braces": '{"a": {}}'},
            "a.weight": {"dtype": "F16", "shape": [4, 8], "data_offsets": [0, 64]},
            "a.bias": {"dtype": "F16", "shape": [4], "data_offsets": [64, 72]},
            "positions": {"dtype": "I64", "shape": [1, 4], "data_offsets": [72, 104]},
        },
        104,
    )


# ONNX


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, item: int | str | bytes) -> bytes:
    """A protobuf field: a varint, or bytes."""
    if isinstance(item, int):
        return varint(number << 3) + varint(item)
    raw = item.encode() if isinstance(item, str) else item
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def initializer(name: str, shape: tuple[int, ...], kind: int, *rest: bytes) -> bytes:
    """As a field of the graph."""
    body = b"".join(field(1, length) for length in shape) + field(2, kind) + field(8, name)
    return field(5, body + b"".join(rest))


def graph_value(number: int, name: str, kind: int, shape: tuple[int | str | None, ...]) -> bytes:
    """An input (11) or output (12) of the graph."""
    dims = b""
    for length in shape:
        inner = b"" if length is None else field(2 if isinstance(length, str) else 1, length)
        dims += field(1, inner)
    return field(number, field(1, name) + field(2, field(1, field(1, kind) + field(2, dims))))


def onnx(*graph: bytes, rest: bytes = b"", ir: int = 9) -> bytes:
    opset = field(8, field(1, "") + field(2, 17)) + field(8, field(1, "com.x") + field(2, 1))
    head = field(1, ir) + field(2, "hand") + field(3, "1.2")
    return head + field(7, b"".join(graph)) + opset + rest


def small_onnx() -> bytes:
    """Two initializers (12 parameters and a shape), an input, an output."""
    names = "{0: 'person', 1: \"driver's cab\", 2: 'car'}"
    return onnx(
        field(1, field(4, "MatMul")),
        field(2, "main"),
        initializer("w", (3, 4), 1, field(9, bytes(48))),
        initializer("shape", (2,), 7, field(7, varint(-1) + varint(5))),
        graph_value(11, "x", 1, ("batch", 3, None)),
        graph_value(11, "w", 1, (3, 4)),
        graph_value(12, "y", 10, (-1, 4)),
        rest=field(14, field(1, "task") + field(2, "detect"))
        + field(14, field(1, "names") + field(2, names))
        + field(14, field(1, "license") + field(2, "AGPL-3.0 License (https://x.example)")),
    )
