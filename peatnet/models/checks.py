"""Checks of single values. Each returns the value to keep or raises ValueError with the reason alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from peatnet.errors import InvalidManifest
from peatnet.models import limits
from peatnet.models.jsontext import JsonFloat, f32, is_unicode
from peatnet.models.timestamp import Timestamp

_HEX_64 = re.compile(r"[0-9a-f]{64}", re.ASCII)

# C0 and C1 controls, line and paragraph separators, and the marks that reorder text on a terminal.
_UNSAFE_IN_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_NOT_IN_NAME: Final = frozenset('/\\:*?"<>|')

_RESERVED_NAMES: Final = frozenset(
    {"current", "con", "prn", "aux", "nul"}
    | {f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"}
)
"""`current` is the link to the model in service; the others are devices wherever a file system is Windows'."""


def path_name(text: str) -> str:
    """A text that is safe as a single name in any folder.

    Raises:
        ValueError: it could leave the folder, hide in it, or mean something else on some file system.
    """
    if not text:
        raise ValueError("must not be empty")
    if not text.isprintable():
        raise ValueError("must not hold control, format or other unprintable characters")
    if len(text.encode()) > limits.MAX_NAME_BYTES:
        raise ValueError(f"must not take more than {limits.MAX_NAME_BYTES} bytes")
    bad = sorted(_NOT_IN_NAME & set(text))
    if bad:
        raise ValueError(f"must not hold {' '.join(bad)}")
    if ".." in text:
        raise ValueError("must not hold '..'")
    if text[0] in ". ":
        raise ValueError("must not begin with a dot or a space")
    if text[-1] in ". ":
        raise ValueError("must not end with a dot or a space")
    if text.partition(".")[0].rstrip(" ").lower() in _RESERVED_NAMES:
        raise ValueError("is a reserved name")
    return text


def model_id(text: str) -> str:
    """A path name without @, which sets the version off in MODEL@VERSION.

    Raises:
        ValueError: it is no such name.
    """
    if "@" in text:
        raise ValueError("must not hold @")
    return path_name(text)


def line(text: str, max_bytes: int) -> str:
    """One line of text that is safe to show on a terminal.

    Raises:
        ValueError: it is longer than max_bytes in UTF-8, cannot be UTF-8, or holds control characters.
    """
    if len(text.encode()) > max_bytes:
        raise ValueError(f"must not take more than {max_bytes} bytes")
    if _UNSAFE_IN_LINE.search(text):
        raise ValueError("must not hold control characters, line breaks or marks that reorder text")
    return text


def hex_digest(text: str) -> str:
    """A 32-byte digest as 64 hex digits; returned in lower case.

    Raises:
        ValueError: it is no such text.
    """
    lower = text.lower()
    if not _HEX_64.fullmatch(lower):
        raise ValueError("must be 64 hex digits")
    return lower


def hex_digest_or_empty(text: str) -> str:
    """A digest, or "" where it is not known: what Peat writes before a file was hashed.

    Raises:
        ValueError: it is neither.
    """
    return hex_digest(text) if text else text


def http_url(text: str) -> str:
    """An absolute http or https URL.

    Raises:
        ValueError: it is no such URL, or carries a user name, a password or a fragment.
    """
    if len(text) > limits.MAX_URL_BYTES:
        raise ValueError(f"must not take more than {limits.MAX_URL_BYTES} bytes")
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise ValueError(
            "must be plain ASCII without spaces or backslashes; percent-encode the rest"
        )
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError(f"is not a URL: {exc}") from exc
    if parts.scheme not in {"http", "https"}:
        raise ValueError("must begin with http:// or https://")
    if not host or port == 0:
        raise ValueError("must name a host")
    if "@" in parts.netloc:
        raise ValueError("must not carry a user name or password: manifests are read by everyone")
    if "#" in text:
        raise ValueError("must not carry a fragment (#...)")
    return text


def timestamp(value: object) -> Timestamp:
    """An instant from a Timestamp, an RFC 3339 text or an aware datetime.

    Raises:
        ValueError: it is none of these.
    """
    try:
        if isinstance(value, Timestamp):
            return value
        if isinstance(value, str):
            return Timestamp(value)
        if isinstance(value, datetime):
            return Timestamp.from_datetime(value)
    except InvalidManifest as exc:
        raise ValueError(exc.message) from exc
    raise ValueError("must be an RFC 3339 time in UTC")


def params_billions(value: object) -> JsonFloat:
    """A count of parameters in billions, as a 32-bit float.

    Raises:
        ValueError: it is no number, or out of range.
    """
    number = _number(value)
    if not 0 <= number <= limits.MAX_PARAMS_BILLIONS:
        raise ValueError(f"must be between 0 and {limits.MAX_PARAMS_BILLIONS:.0f}")
    rounded = f32(number)
    if number and rounded < f32(limits.MIN_PARAMS_BILLIONS):
        raise ValueError("must be 0 or at least a tenth of a parameter")
    return rounded


def progress(value: object) -> JsonFloat:
    """A share from 0 to 1 as a 32-bit float; what is outside is clamped.

    Raises:
        ValueError: it is no number.
    """
    number = _number(value)
    if math.isnan(number):
        raise ValueError("must be a number")
    return f32(min(max(number, 0.0), 1.0))


def priority(value: object) -> int:
    """An urgency of 1 (highest) to 5; what a byte can hold besides is clamped.

    Raises:
        ValueError: it is no integer from 0 to 255.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limits.U8_MAX:
        raise ValueError("must be an integer from 0 to 255")
    return min(max(value, 1), 5)


def metadata(value: object) -> dict[str, Any]:
    """A JSON object; what is returned shares nothing that can change with what was given.

    Raises:
        ValueError: something in it is not JSON, or it is larger or deeper than allowed.
    """
    if not isinstance(value, Mapping):
        raise ValueError("must be a JSON object")  # noqa: TRY004  # pydantic collects ValueError only
    left = limits.MAX_METADATA_VALUES

    def copy(item: object, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"must not hold more than {limits.MAX_METADATA_VALUES} values")
        if isinstance(item, Mapping | list | tuple):
            if depth > limits.MAX_METADATA_DEPTH:
                raise ValueError(f"must not be nested more than {limits.MAX_METADATA_DEPTH} deep")
            if isinstance(item, Mapping):
                return {_key(key): copy(inner, depth + 1) for key, inner in item.items()}
            return [copy(inner, depth + 1) for inner in item]
        return _scalar(item)

    copied: dict[str, Any] = copy(value, 1)
    return copied


def _key(key: object) -> str:
    if not isinstance(key, str) or not is_unicode(key):
        raise ValueError(f"key {str(key)[:64]!a} is not Unicode text")
    if len(key.encode()) > limits.MAX_METADATA_KEY_BYTES:
        raise ValueError(f"a key takes more than {limits.MAX_METADATA_KEY_BYTES} bytes")
    return key


def _scalar(item: object) -> Any:
    if isinstance(item, str):
        if not is_unicode(item):
            raise ValueError("must not hold lone surrogates")
    elif isinstance(item, float):
        if not math.isfinite(item):
            raise ValueError("must not hold NaN or an infinity")
    elif isinstance(item, int):
        if not limits.I64_MIN <= item <= limits.U64_MAX:
            raise ValueError("must not hold integers of more than 64 bits")
    elif item is not None:
        raise ValueError(f"must not hold a {type(item).__name__}, which JSON does not know")
    return item


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004  # pydantic collects ValueError only
    try:
        return float(value)
    except OverflowError as exc:
        raise ValueError("must be a smaller number") from exc
