from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from peatnet.errors import InvalidManifest
from peatnet.models import jsontext
from peatnet.models.jsontext import JsonFloat, f32, read_object, to_f32, write

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


def read(text: str | bytes, max_bytes: int = 10_000, max_depth: int = 8) -> dict[str, Any]:
    return read_object(text, what="thing", max_bytes=max_bytes, max_depth=max_depth)


# What ryu and zmij, the number writers of serde_json, give for 64 bits.
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (-12.34, "-12.34"),
        (0.00001, "0.00001"),
        (0.000001, "1e-6"),
        (1.5e-7, "1.5e-7"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e+16"),
        (-1.25e300, "-1.25e+300"),
        (123456.75, "123456.75"),
        (5e-324, "5e-324"),
    ],
)
def test_64_bit_floats_are_laid_out_as_by_serde_json(value: float, text: str) -> None:
    assert write(value) == text
    assert JsonFloat(value).text == text


# The same for 32 bits.
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (3.0, "3.0"),
        (7.24, "7.24"),
        (0.1 + 0.2, "0.3"),
        (0.000001, "0.000001"),
        (0.0000001, "1e-7"),
        (1e12, "1000000000000.0"),
        (1e13, "1e+13"),
        (16777216.0, "16777216.0"),
        (2.0**-96, "1.2621775e-29"),
        (2.0**90, "1.2379401e+27"),
        (3.4028234663852886e38, "3.4028235e+38"),
        (0.10000012814998627, "0.10000013"),
        (8388609.0, "8388609.0"),
        (123.80096435546875, "123.800964"),  # all nine digits
        (0.000244140654, "0.00024414065"),
    ],
)
def test_32_bit_floats_are_written_with_the_fewest_digits(value: float, text: str) -> None:
    assert f32(value).text == text


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@example(1.00000012e-3)
@settings(deadline=None)
def test_32_bit_floats_read_back(value: float) -> None:
    value = to_f32(value)
    number = f32(value)
    text = number.text
    assert to_f32(number) == value
    assert number == float(text)
    assert to_f32(float(text)) == value
    digits = text.lstrip("-").partition("e")[0].replace(".", "").strip("0")
    assert len(digits) <= 9


def test_beyond_32_bits_is_infinite() -> None:
    assert to_f32(1e39) == math.inf
    assert to_f32(-1e39) == -math.inf


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=5))
@settings(deadline=None)
def test_what_is_written_reads_back_and_is_written_alike(value: dict[str, Any]) -> None:
    text = write(value)
    assert read(text, max_bytes=10**6, max_depth=30) == value
    assert write(read(text, max_bytes=10**6, max_depth=30)) == text
    assert json.loads(text) == value


def test_floats_keep_how_they_were_written() -> None:
    text = '{"a":[1.10,1E5,-0,-0.0,123456789012345678901234567890,1e16]}'
    value = read(text)
    assert write(value) == text
    assert value == {"a": [1.1, 1e5, 0.0, 0.0, 123456789012345678901234567890.0, 1e16]}
    assert write(copy.deepcopy(value)) == text
    assert write(pickle.loads(pickle.dumps(value))) == text


def test_tuples_are_written_as_lists() -> None:
    assert write({"a": (1, "x")}) == '{"a":[1,"x"]}'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "must be a JSON object"),
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ('{"a":1}x', "not valid JSON"),
        ('{"a":NaN}', "NaN is not JSON"),
        ('{"a":-Infinity}', "-Infinity is not JSON"),
        ('{"a":1e999}', "out of range"),
        ('{"a":' + "1" * 65 + "}", "more than 64 characters"),
        ('{"a":0.' + "1" * 65 + "}", "more than 64 characters"),
        ('{"a":1,"b":2,"a":3}', "key 'a' is given twice"),
        ('{"a":{"b":1,"b":1}}', "key 'b' is given twice"),
        ('{"\\ud800":1}', "lone surrogate"),
        ('{"a":"\n"}', "not valid JSON"),
        ("\ufeff{}", "not valid JSON"),
        (b"\xff{}", "not UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        ('{"a":"\ud800"}', "not UTF-8"),
        ('{"a":' + "[" * 8 + "]" * 8 + "}", "nested more than 8 deep"),
        ("[" * 10_000, "nested more than 8 deep"),
    ],
)
def test_bad_text_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(InvalidManifest, match=r"^thing: ") as caught:
        read(text)
    assert why in caught.value.message


def test_brackets_in_strings_do_not_nest() -> None:
    assert read('{"a":"[[[[[[[[[[[[\\"[[[","b":[[]]}')["b"] == [[]]


@pytest.mark.parametrize("text", ['{"a":"é"}', '{"a":"é"}'.encode(), b" " * 11, " " * 11])
def test_the_size_is_counted_in_bytes(text: str | bytes) -> None:
    with pytest.raises(InvalidManifest, match=r"(10|11) bytes of JSON, at most 9"):
        read(text, max_bytes=9)


@given(st.binary(max_size=200) | st.text(max_size=200))
@settings(deadline=None)
def test_any_text_parses_or_is_refused(text: str | bytes) -> None:
    try:
        value = read(text)
    except InvalidManifest:
        return
    assert read(write(value)) == value


@pytest.mark.parametrize(("text", "good"), [("é", True), ("\ud800", False)])
def test_is_unicode(text: str, good: bool) -> None:  # noqa: FBT001  # a parameter of the test
    assert jsontext.is_unicode(text) is good
