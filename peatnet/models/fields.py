"""The types of fields: what pydantic is told so that `checks` are made and the JSON Schema says so too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

from peatnet.models import checks, limits
from peatnet.models.timestamp import Timestamp as _Timestamp


def _line(text: str) -> str:
    return checks.line(text, limits.MAX_LINE_BYTES)


def _tag(text: str) -> str:
    return checks.line(text, limits.MAX_TAG_BYTES)


def _local_path(text: str) -> str:
    return checks.line(text, limits.MAX_PATH_BYTES)


def _error_text(text: str) -> str:
    if len(text.encode()) > limits.MAX_ERROR_BYTES:
        raise ValueError(f"must not take more than {limits.MAX_ERROR_BYTES} bytes")
    return text


def _reference(text: str) -> str:
    name, at, version = text.partition("@")
    checks.model_id(name)
    if at:
        checks.path_name(version)
    return text


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


ModelId = Annotated[
    str, Field(min_length=1, max_length=limits.MAX_NAME_BYTES), AfterValidator(checks.model_id)
]
"""A model's name: safe as a folder name, without @."""

Version = Annotated[
    str, Field(min_length=1, max_length=limits.MAX_NAME_BYTES), AfterValidator(checks.path_name)
]
"""A model's version: safe as a part of a file name."""

ModelOrVersion = Annotated[
    str, Field(min_length=1, max_length=2 * limits.MAX_NAME_BYTES + 1), AfterValidator(_reference)
]
"""A model's name, perhaps with @ and a version of it."""

Line = Annotated[str, Field(max_length=limits.MAX_LINE_BYTES), AfterValidator(_line)]
"""One line of text, perhaps empty."""

FilledLine = Annotated[
    str, Field(min_length=1, max_length=limits.MAX_LINE_BYTES), AfterValidator(_line)
]
"""One line of text that is not empty."""

LocalPath = Annotated[str, Field(max_length=limits.MAX_PATH_BYTES), AfterValidator(_local_path)]
"""A path on this machine."""

ErrorText = Annotated[str, Field(max_length=limits.MAX_ERROR_BYTES), AfterValidator(_error_text)]
"""What went wrong, perhaps in several lines."""

Tag = Annotated[str, Field(min_length=1, max_length=limits.MAX_TAG_BYTES), AfterValidator(_tag)]
"""A short line of text that is not empty."""

Tags = Annotated[tuple[Tag, ...], Field(max_length=limits.MAX_TAGS), BeforeValidator(_tuple)]
Classes = Annotated[tuple[Tag, ...], Field(max_length=limits.MAX_CLASSES), BeforeValidator(_tuple)]
Targets = Annotated[tuple[Tag, ...], Field(max_length=limits.MAX_TARGETS), BeforeValidator(_tuple)]

U32 = Annotated[int, Field(ge=0, le=limits.U32_MAX)]
U64 = Annotated[int, Field(ge=0, le=limits.U64_MAX)]

HexDigest = Annotated[
    str,
    AfterValidator(checks.hex_digest),
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}),
]
"""32 bytes as 64 hex digits, in lower case once read."""

HexDigestOrEmpty = Annotated[
    str,
    AfterValidator(checks.hex_digest_or_empty),
    WithJsonSchema({"type": "string", "pattern": "^([0-9a-fA-F]{64})?$"}),
]
"""The same, or "" for unknown."""

HttpUrl = Annotated[
    str,
    AfterValidator(checks.http_url),
    WithJsonSchema(
        {
            "type": "string",
            "format": "uri",
            "pattern": "^[hH][tT][tT][pP][sS]?://",
            "maxLength": limits.MAX_URL_BYTES,
        }
    ),
]
"""An absolute http or https URL."""

Instant = Annotated[
    _Timestamp,
    PlainValidator(checks.timestamp),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An instant in UTC with nanoseconds."""

ParamsBillions = Annotated[
    float,
    PlainValidator(checks.params_billions),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": limits.MAX_PARAMS_BILLIONS}),
]
"""A count of parameters, in billions, as a 32-bit float."""

Progress = Annotated[
    float,
    PlainValidator(checks.progress),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1}),
]
"""A share from 0 to 1 as a 32-bit float."""

Priority = Annotated[
    int,
    PlainValidator(checks.priority),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 5}),
]
"""1 is the most urgent, 5 the least."""

Metadata = Annotated[
    Mapping[str, Any],
    PlainValidator(checks.metadata),
    WithJsonSchema({"type": "object", "additionalProperties": True}),
]
"""Any JSON object."""
