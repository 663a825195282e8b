r"""JSON text as Rust's serde_json reads and writes it, within bounds that hostile text cannot pass.

Reading refuses what serde_json refuses and the standard library lets through (NaN, lone surrogates, numbers
that overflow) and, beyond that, repeated keys, deep nesting and overlong numbers. A fraction
remembers how it was written, because versions of serde_json differ (1e16 and 1e+16), so text that is read
and written again is unchanged.

Writing is compact, keys in the order they are in, control characters as \u00xx, everything else as it is.
"""

from __future__ import annotations

import json
import math
import re
import struct
from json.encoder import encode_basestring
from typing import Any, Self

from peatnet.errors import InvalidManifest
from peatnet.models.limits import I64_MIN, MAX_NUMBER_CHARS, U64_MAX

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)

# Where the shortest digits are laid out as plain decimals: values below 10**upper, and those with fewer
# than `lower` zeros behind the point. The same in serde_json's two number writers, ryu and zmij.
_F64_PLAIN = (16, 5)
_F32_PLAIN = (13, 6)


class JsonFloat(float):
    """A float that knows its JSON text.

    Args:
        value: the number.
        text: how to write it; by default the shortest text that reads back as the same 64-bit float.
    """

    __slots__ = ("text",)

    text: str

    def __new__(cls, value: float, text: str | None = None) -> Self:
        """Make one; see the class."""
        self = super().__new__(cls, value)
        self.text = _f64_text(value) if text is None else text
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[float, str]]:
        """What copying and pickling make the number from again."""
        return type(self), (float(self), self.text)


def to_f32(value: float) -> float:
    """Round to what a 32-bit float holds; what is beyond its range becomes an infinity, as in Rust."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return rounded


def f32(value: float) -> JsonFloat:
    """A number as Rust's f32: rounded to 32 bits, written with the fewest digits that read back the same.

    What is returned equals those digits (7.24, not 7.239999771118164); `to_f32` of it is what Rust holds.

    Args:
        value: a number within the range of a 32-bit float.
    """
    text = _f32_text(to_f32(value))
    return JsonFloat(float(text), text)


def read_object(text: str | bytes, *, what: str, max_bytes: int, max_depth: int) -> dict[str, Any]:
    """Parse one JSON object.

    Args:
        text: the JSON text; bytes must be UTF-8 without a byte order mark.
        what: what the text should be, for messages ("manifest").
        max_bytes: the most UTF-8 bytes that are looked at.
        max_depth: the most objects and lists inside one another.

    Raises:
        InvalidManifest: it is too large, not JSON, or not an object.
    """
    try:
        size = len(text) if isinstance(text, bytes) or len(text) > max_bytes else len(text.encode())
        if size > max_bytes:
            raise InvalidManifest(f"{what}: {size} bytes of JSON, at most {max_bytes} are allowed")
        chars = text.decode() if isinstance(text, bytes) else text
    except UnicodeError as exc:
        raise InvalidManifest(f"{what}: not UTF-8 text") from exc
    _check_depth(chars, what, max_depth)
    try:
        value = json.loads(
            chars,
            parse_float=_read_fraction,
            parse_int=_read_integer,
            parse_constant=_refuse_constant,
            object_pairs_hook=_read_pairs,
        )
    except ValueError as exc:
        raise InvalidManifest(f"{what}: not valid JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise InvalidManifest(f"{what}: must be a JSON object")
    return value


def write(value: Any) -> str:
    """The compact JSON text of a value made of dict, list, tuple, str, int, float, bool and None."""
    if isinstance(value, str):
        # All that json.dumps does to a text, without its preparations.
        return encode_basestring(value)
    if isinstance(value, dict):
        return "{" + ",".join([f"{write(key)}:{write(item)}" for key, item in value.items()]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([write(item) for item in value]) + "]"
    if isinstance(value, JsonFloat):
        return value.text
    if isinstance(value, float):
        return _f64_text(value)
    return json.dumps(value)


def is_unicode(text: str) -> bool:
    """Whether the text has no lone surrogates, so that it can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_depth(text: str, what: str, limit: int) -> None:
    # Before parsing: the parser recurses, and how deep it can depends on who called it.
    if text.count("[") + text.count("{") <= limit:
        return
    depth = 0
    for match in _TOKEN.finditer(text):
        found = match[0]
        if found in "[{":
            depth += 1
            if depth > limit:
                raise InvalidManifest(f"{what}: JSON nested more than {limit} deep")
        elif found in "]}":
            depth -= 1


def _read_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # add() is falsy on purpose
        raise ValueError(f"key {twice[:64]!a} is given twice")
    for key in result:
        if not is_unicode(key):
            raise ValueError(f"key {key[:64]!a} holds a lone surrogate")
    return result


def _read_integer(text: str) -> int | float:
    _check_number(text)
    number = int(text)
    # serde_json too keeps what 64 bits cannot hold, and minus zero, as fractions.
    if I64_MIN <= number <= U64_MAX and text != "-0":
        return number
    return JsonFloat(float(text), text)


def _read_fraction(text: str) -> float:
    _check_number(text)
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"number {text} is out of range")
    return JsonFloat(number, text)


def _check_number(text: str) -> None:
    if len(text) > MAX_NUMBER_CHARS:
        raise ValueError(f"a number of more than {MAX_NUMBER_CHARS} characters")


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _f64_text(value: float) -> str:
    # repr() gives the shortest digits already; only their layout differs.
    mantissa, _, exponent = float.__repr__(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)
    return _lay_out(value, digits, point, _F64_PLAIN)


def _f32_text(value: float) -> str:
    # The decimal nearest to the value is the shortest at nearly every precision; just above a power of two
    # the one beside it may be the only one that reads back, hence its two neighbors.
    for places in range(8):
        mantissa, _, exponent = f"{abs(value):.{places}e}".partition("e")
        nearest = int(mantissa.replace(".", ""))
        scale = int(exponent) - places
        for number in (nearest, nearest + 1, nearest - 1):
            if to_f32(float(f"{number}e{scale}")) == abs(value):
                return _lay_out(value, str(number), len(str(number)) + scale, _F32_PLAIN)
    mantissa, _, exponent = f"{abs(value):.8e}".partition("e")  # nine digits always suffice
    return _lay_out(value, mantissa.replace(".", ""), int(exponent) + 1, _F32_PLAIN)


def _lay_out(value: float, digits: str, point: int, plain: tuple[int, int]) -> str:
    """Write 0.DIGITS * 10**point, with the sign of value."""
    upper, lower = plain
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    digits = digits.rstrip("0")
    if not digits or digits == "0":
        return sign + "0.0"
    if len(digits) <= point <= upper:
        return f"{sign}{digits}{'0' * (point - len(digits))}.0"
    if 0 < point <= upper:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -lower < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"
