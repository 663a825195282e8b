"""Whatever the bytes: they are read, or BadModelFile is raised. Nothing else, and never more work than bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import headers_kit as kit
import pytest
from headers_kit import Counted
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.deploy.headers.describing import describe_gguf, describe_onnx, describe_safetensors
from peatnet.deploy.headers.gguf import read_gguf
from peatnet.deploy.headers.onnx import read_onnx
from peatnet.deploy.headers.safetensors import read_safetensors
from peatnet.deploy.headers.window import Window
from peatnet.errors import BadModelFile
from peatnet.models import ModelManifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.deploy.headers import Inspection

# Small ones, and those at the edges of what a field can hold.
NUMBERS = st.one_of(
    st.integers(0, 40),
    st.sampled_from([2**k + d for k in (7, 8, 16, 31, 32, 40, 62, 63) for d in (-1, 0)]),
    st.integers(0, 2**64 - 1),
)
NAMES = st.one_of(st.sampled_from(["a", "b", "w", ""]), st.binary(max_size=8), st.text(max_size=8))
BLANK = settings(deadline=None, max_examples=150)


def read(which: str, data: bytes) -> Inspection | None:
    """What the file says, or None for a BadModelFile; its findings must make a manifest."""
    counted = Counted(data)
    view = Window(counted.read_at, len(data), "m")
    try:
        inspection = {
            "gguf": lambda: describe_gguf(read_gguf(view), len(data), "m"),
            "safetensors": lambda: describe_safetensors(read_safetensors(view), len(data), "m"),
            "onnx": lambda: describe_onnx(read_onnx(view), len(data), "m"),
        }[which]()
    except BadModelFile as exc:
        assert exc.message.startswith("m: ")  # noqa: PT017  # one of two good ends
        inspection = None
    assert counted.read <= len(data) + 64 * 1024
    if inspection is not None:
        json.dumps(dict(inspection.facts), allow_nan=False)
        draft = {"model_id": "m", "name": "m", "model_type": "custom", "created_at": WHEN}
        draft |= {each.field: each.value for each in inspection.findings}
        ModelManifest.from_draft(json.dumps(draft, allow_nan=False))
    return inspection


WHEN = "2026-01-02T03:04:05Z"
MAKERS: dict[str, Callable[[], bytes]] = {
    "gguf": kit.small_gguf,
    "safetensors": kit.small_safetensors,
    "onnx": kit.small_onnx,
}


@pytest.mark.parametrize("which", MAKERS)
def test_the_file_itself_is_read(which: str) -> None:
    assert read(which, MAKERS[which]()) is not None


@pytest.mark.parametrize("which", MAKERS)
def test_any_one_byte_may_be_another(which: str) -> None:
    whole = MAKERS[which]()
    for at in range(min(len(whole), 700)):
        for byte in {0x00, 0xFF, whole[at] ^ 1, whole[at] ^ 0x80} - {whole[at]}:
            read(which, whole[:at] + bytes([byte]) + whole[at + 1 :])


@pytest.mark.parametrize("which", MAKERS)
@given(data=st.data())
@BLANK
def test_any_mutation(which: str, data: st.DataObject) -> None:
    mutated = bytearray(MAKERS[which]())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(mutated), 1200)))
        kind = data.draw(st.sampled_from(["overwrite", "insert", "delete", "number", "cut"]))
        piece = data.draw(st.binary(max_size=12))
        if kind == "number":
            piece = data.draw(NUMBERS).to_bytes(8, "little")
        if kind == "cut":
            del mutated[at:]
        elif kind == "delete":
            del mutated[at : at + len(piece)]
        else:
            mutated[at : at + (0 if kind == "insert" else len(piece))] = piece
    read(which, bytes(mutated))


@pytest.mark.parametrize("which", MAKERS)
@given(data=st.binary(max_size=200))
@BLANK
def test_any_bytes(which: str, data: bytes) -> None:
    head = {"gguf": b"GGUF\x03\0\0\0", "safetensors": len(data).to_bytes(8, "little"), "onnx": b""}
    read(which, data)
    read(which, head[which] + data)


@st.composite
def gguf_values(draw: st.DrawFn, depth: int = 0) -> tuple[str, Any]:
    kinds = [*kit.NUMBERS, "text", *(["list"] if depth < 3 else [])]
    kind = draw(st.sampled_from(kinds))
    if kind == "list":
        inner, item = draw(gguf_values(depth + 1))
        return "list", (inner, [item] * draw(st.integers(0, 3)))
    if kind == "text":
        return kind, draw(NAMES)
    if kind in ("f32", "f64"):
        return kind, draw(st.floats(width=32))
    if kind == "bool":
        return kind, draw(st.booleans())
    bits = int(kind[1:])
    low, high = (0, 2**bits - 1) if kind[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return kind, draw(st.integers(low, high))


KEYS = st.one_of(
    st.sampled_from(
        [
            "general.architecture", "general.alignment", "general.file_type", "general.name", "general.type",
            "general.license", "split.count", "split.no", "a.context_length", "a.pooling_type",
            "tokenizer.ggml.tokens",
        ]
    ),
    NAMES,
)  # fmt: skip


@given(
    entries=st.lists(st.tuples(KEYS, gguf_values()), max_size=6),
    tensors=st.lists(
        st.tuples(NAMES, st.lists(NUMBERS, max_size=5), st.integers(0, 45), NUMBERS), max_size=4
    ),
    data=st.integers(0, 5000),
    version=st.sampled_from([2, 3]),
)
@BLANK
def test_any_gguf_of_the_right_shape(
    entries: list[tuple[str | bytes, tuple[str, Any]]],
    tensors: list[tuple[str | bytes, list[int], int, int]],
    data: int,
    version: int,
) -> None:
    read(
        "gguf",
        kit.gguf(
            [kit.entry(key, kind, item) for key, (kind, item) in entries],
            [
                kit.tensor(name, tuple(shape), kind, offset // 32 * 32)
                for name, shape, kind, offset in tensors
            ],
            data=data,
            version=version,
        ),
    )


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner)),
    max_leaves=8,
)  # fmt: skip
TENSORS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "F4", "BF16", "NEW", "u8"]),
        "shape": st.lists(NUMBERS, max_size=4),
        "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2).map(sorted),
    },
    optional={"more": st.one_of(st.none(), NUMBERS)},
)


@given(
    header=st.dictionaries(
        st.one_of(st.sampled_from(["__metadata__", "a"]), st.text(max_size=6)),
        st.one_of(TENSORS, JSON, st.dictionaries(st.text(max_size=6), st.text(max_size=6))),
        max_size=4,
    ),
    data=st.integers(0, 100),
    escaped=st.booleans(),
)
@BLANK
def test_any_safetensors_of_the_right_shape(
    header: dict[str, Any], data: int, *, escaped: bool
) -> None:
    text = json.dumps(header, ensure_ascii=escaped).encode(errors="surrogatepass")
    read("safetensors", kit.safetensors(text, data))


@given(
    parts=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(
            lambda name: name != "__metadata__"
        ),
        st.integers(0, 50),
        max_size=6,
    ),
    notes=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
        max_size=3,
    ),
    escaped=st.booleans(),
)
@BLANK
def test_every_right_safetensors_is_read(
    parts: dict[str, int], notes: dict[str, str], *, escaped: bool
) -> None:
    header: dict[str, Any] = {"__metadata__": notes}
    at = 0
    for name, size in parts.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, ensure_ascii=escaped).encode()
    inspection = read("safetensors", kit.safetensors(text, at))
    assert inspection is not None
    assert inspection.facts.get("metadata", {}) == notes


MESSAGES = st.recursive(
    st.one_of(NUMBERS, NAMES, st.binary(max_size=12)),
    lambda inner: st.lists(st.tuples(st.integers(1, 15), inner), max_size=4),
    max_leaves=20,
)


def encoded(message: Any) -> int | str | bytes:
    if isinstance(message, list):
        return b"".join(kit.field(number, encoded(item)) for number, item in message)
    return message  # type: ignore[no-any-return]  # a leaf


@given(message=MESSAGES, tensor=st.lists(st.tuples(st.integers(1, 15), MESSAGES), max_size=6))
@BLANK
def test_any_onnx_of_the_right_shape(message: Any, tensor: list[tuple[int, Any]]) -> None:
    inner = encoded(tensor)
    assert isinstance(inner, bytes)
    graph = kit.field(5, inner) + kit.field(11, encoded(message))
    read("onnx", kit.onnx(graph, rest=kit.field(14, encoded(message))))
    read("onnx", kit.field(7, encoded(message)) + kit.field(1, 8))
