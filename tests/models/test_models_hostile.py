from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.errors import InvalidManifest
from peatnet.models import ModelManifest, ModelType, Timestamp, limits
from peatnet.models.jsontext import write

BASE = ModelManifest.new("m", "M", ModelType.LLM, created_at=Timestamp("2025-12-02T10:11:12Z"))

BAD_NAMES = [
    "",
    ".",
    "..",
    "a..b",
    ".hidden",
    " a",
    "a ",
    "a.",
    "a/b",
    "/a",
    "a\\b",
    "../a",
    "C:",
    "a:stream",
    "a*",
    "a?",
    'a"',
    "<a>",
    "a|b",
    "a\0b",
    "a\nb",
    "a\x1b[31m",
    "a\x7f",
    "a\u202eb",
    "a\u200bb",
    "a\ud800",
    "a\u2028b",
    "x" * 129,
    "é" * 65,
    "CON",
    "con.gguf",
    "nul",
    "NUL .txt",
    "Aux",
    "prn",
    "COM1",
    "lpt9.x",
    "com¹",
    "current",
    "Current",
]


@pytest.mark.parametrize("field", ["model_id", "version"])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_not_safe_in_a_folder(field: str, name: str) -> None:
    with pytest.raises(InvalidManifest, match=f"^manifest field {field}: "):
        BASE.replace(**{field: name})
    with pytest.raises(InvalidManifest):
        ModelManifest.from_json(json.dumps({**BASE.payload(), field: name}))


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "ministral-3b",
        "Qwen2.5-7B_instruct+x",
        "模型",
        "a b",
        "x" * 128,
        "console",
        "com",
        "currents",
    ],
)
def test_names_that_are(name: str) -> None:
    assert BASE.replace(model_id=name).model_id == name
    assert BASE.replace(version=name).version == name


def test_the_at_sign_is_for_references() -> None:
    with pytest.raises(InvalidManifest, match="model_id: must not hold @"):
        BASE.replace(model_id="a@b")
    assert BASE.replace(version="a@b").key == "m@a@b"


def test_the_file_name_must_fit() -> None:
    assert len(BASE.replace(model_id="x" * 128, version="y" * 99).filename()) == 240
    with pytest.raises(InvalidManifest, match="file name of more than 240 bytes"):
        BASE.replace(model_id="x" * 128, version="y" * 100)


LONG = "x" * 513

BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("name", "", "must not be empty"),
    ("name", LONG, "at most 512"),
    ("name", "é" * 300, "more than 512 bytes"),
    ("name", "a\x1b[2J", "control characters"),
    ("name", "a\u202e", "reorder"),
    ("name", "\ud800", "must be UTF-8"),
    ("name", 5, "must be text"),
    ("name", None, "must be text"),
    ("model_type", "LLM", "must be 'detector'"),
    ("model_type", ["llm"], "must be 'detector'"),
    ("format", "zip", "must be 'onnx'"),
    ("quantization", "q4_k_m", "must be 'F32'"),
    ("quantization", 1, "must be 'F32'"),
    ("size_bytes", -1, "must be at least 0"),
    ("size_bytes", 2**64, "must be at most"),
    ("size_bytes", 1.0, "must be a whole number"),
    ("size_bytes", "1", "must be a whole number"),
    ("size_bytes", True, "must be a whole number"),
    ("sha256", "ab", "64 hex digits"),
    ("sha256", "g" * 64, "64 hex digits"),
    ("sha256", "é" * 64, "64 hex digits"),
    ("sha256", None, "must be text"),
    ("blob_hash", "", "64 hex digits"),
    ("blob_hash", "0" * 63 + "\n", "64 hex digits"),
    ("blob_hash", "0" * 65, "64 hex digits"),
    ("requirements", None, "must be a table"),
    ("requirements", [], "must be a table"),
    ("features", "chat", "must be a list"),
    ("features", [""], "features.0: "),
    ("features", ["a", "b\n"], "features.1: must not hold control"),
    ("features", ["a", 3], "features.1: must be text"),
    ("features", ["é" * 100], "more than 128 bytes"),
    ("features", ["a"] * 129, "at most 128"),
    ("features", {"a": 1}, "must be a list"),
    ("classes", ["a"] * 8193, "at most 8192"),
    ("classes", ["abcdefghij"] * 8000, "at most 49152 are allowed"),
    ("params_billions", -0.5, "between 0 and 1000000"),
    ("params_billions", 1e7, "between 0 and 1000000"),
    ("params_billions", 1e-12, "tenth of a parameter"),
    ("params_billions", float("nan"), "between 0 and 1000000"),
    ("params_billions", 10**400, "smaller number"),
    ("params_billions", "3", "must be a number"),
    ("params_billions", False, "must be a number"),
    ("context_length", 2**32, "must be at most"),
    ("context_length", -1, "must be at least 0"),
    ("license", LONG, "at most 512"),
    ("source", "a\nb", "line breaks"),
    ("created_at", "yesterday", "not an RFC 3339 time"),
    ("created_at", 5, "must be an RFC 3339 time"),
    ("created_at", None, "must be an RFC 3339 time"),
    ("metadata", None, "must be a JSON object"),
    ("metadata", [], "must be a JSON object"),
    ("metadata", {"a": "\ud800"}, "surrogates"),
    ("metadata", {"\ud800": 1}, "not Unicode text"),
    ("metadata", {1: 1}, "not Unicode text"),
    ("metadata", {"k" * 257: 1}, "more than 256 bytes"),
    ("metadata", {"a": float("inf")}, "NaN or an infinity"),
    ("metadata", {"a": [2**64]}, "64 bits"),
    ("metadata", {"a": -(2**63) - 1}, "64 bits"),
    ("metadata", {"a": b"x"}, "a bytes, which JSON does not know"),
    ("metadata", {"a": [0] * 4096}, "more than 4096 values"),
    ("metadata", {"a": "x" * 50_000}, "at most 49152 are allowed"),
    ("metadata", {"peatnet": []}, "metadata.peatnet: must be a JSON object"),
    ("metadata", {"peatnet": {}}, "peatnet.chunk_size: must be a power of two"),
]


@pytest.mark.parametrize(("field", "value", "why"), BAD_FIELDS)
def test_bad_fields_are_named(field: str, value: Any, why: str) -> None:
    with pytest.raises(InvalidManifest, match=r"^manifest") as caught:
        BASE.replace(**{field: value})
    assert why in caught.value.message
    assert field in caught.value.message or "bytes of JSON" in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("size", "digest", "field"),
    [
        (32768, "0" * 64, "chunk_size"),
        (2**23, "0" * 64, "chunk_size"),
        (65537, "0" * 64, "chunk_size"),
        (65536.0, "0" * 64, "chunk_size"),
        (True, "0" * 64, "chunk_size"),
        ("65536", "0" * 64, "chunk_size"),
        (65536, "A" * 64, "table_hash"),
        (65536, "0" * 63, "table_hash"),
        (65536, 5, "table_hash"),
        (65536, None, "table_hash"),
    ],
)
def test_bad_chunk_hints_are_refused(size: Any, digest: Any, field: str) -> None:
    with pytest.raises(InvalidManifest, match=rf"metadata\.peatnet\.{field}: "):
        BASE.replace(metadata={"peatnet": {"chunk_size": size, "table_hash": digest}})


def test_too_many_chunks_are_refused() -> None:
    hint = {"peatnet": {"chunk_size": 65536, "table_hash": "0" * 64}}
    assert BASE.replace(metadata=hint, size_bytes=2**36).chunks is not None
    with pytest.raises(InvalidManifest, match="more than 1048576 chunks"):
        BASE.replace(metadata=hint, size_bytes=2**36 + 1)


def nested(depth: int) -> dict[str, Any]:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return {"a": value}


def test_metadata_depth() -> None:
    deepest = nested(limits.MAX_METADATA_DEPTH - 1)
    manifest = BASE.replace(metadata=deepest)
    assert ModelManifest.from_json(manifest.to_json()) == manifest
    too_deep = nested(limits.MAX_METADATA_DEPTH)
    with pytest.raises(InvalidManifest, match="metadata: must not be nested more than 16 deep"):
        BASE.replace(metadata=too_deep)
    with pytest.raises(InvalidManifest, match="nested more than 17 deep"):
        ModelManifest.from_json(json.dumps({**BASE.payload(), "metadata": too_deep}))
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(InvalidManifest, match="nested"):
        BASE.replace(metadata=endless)


GOOD_URLS = [
    "http://example.org/a",
    "https://example.org:8443/a?b=c&d=%20",
    "HTTPS://EXAMPLE.org",
    "http://10.0.0.1:80/x",
    "http://[2001:db8::1]/x",
]

BAD_URLS = [
    "",
    "example.org/a",
    "//example.org/a",
    "ftp://example.org/a",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "http://",
    "http:///a",
    "http://:80/a",
    "http://h:0/a",
    "http://h:99999/a",
    "http://h:x/a",
    "http://[::1/a",
    "http://user@h/a",
    "http://user:secret@h/a",
    "http://@h/a",
    "http://h/a b",
    "http://h/a\nHost: b",
    "http://h\\@evil/a",
    "http://h/é",
    "http://h/\ud800",
    "http://h/a#b",
    "http://h/" + "a" * 2048,
]


@pytest.mark.parametrize("url", GOOD_URLS)
def test_good_urls(url: str) -> None:
    assert BASE.replace(download_url=url).download_url == url


@pytest.mark.parametrize("url", BAD_URLS)
def test_bad_urls(url: str) -> None:
    with pytest.raises(InvalidManifest, match=r"^manifest field download_url: "):
        BASE.replace(download_url=url)


def test_several_mistakes_are_counted() -> None:
    with pytest.raises(InvalidManifest, match=r"name: .*\(and 2 more\)$"):
        BASE.replace(name=1, version=2, license=3)


def test_a_large_text_is_refused_before_it_is_parsed() -> None:
    text = " " * limits.MAX_MANIFEST_BYTES + BASE.to_json()
    with pytest.raises(InvalidManifest, match=r"^manifest: 4[0-9]+ bytes of JSON, at most 49152"):
        ModelManifest.from_json(text)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(ModelManifest.model_fields, ANY)))
@settings(deadline=None)
def test_any_change_is_taken_or_refused(changes: dict[str, Any]) -> None:
    try:
        changed = BASE.replace(**changes)
    except InvalidManifest:
        return
    assert ModelManifest.from_json(changed.to_json()) == changed


@given(st.data())
@settings(deadline=None)
def test_any_damage_to_the_text_is_taken_or_refused(data: st.DataObject) -> None:
    text = bytearray(write({**BASE.payload(), "metadata": {"a": [1.5, None]}}).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = ModelManifest.from_json(bytes(text))
    except InvalidManifest:
        return
    assert ModelManifest.from_json(read.to_json()) == read
