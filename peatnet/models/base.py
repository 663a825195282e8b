"""What the types of this room share: immutability, strictness, Peat's JSON, and errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from peatnet.errors import InvalidManifest, complaint
from peatnet.models import jsontext, limits

_WIRE: Final = "wire"
"""The validation context of text that another machine wrote."""

_SHORT_WIRE: Final = "short wire"
"""The same of text that has at most half of the bytes that are allowed.

Written again it is not too long: reading adds nothing to it but some digits to a few numbers.
"""


def _require_wire_fields(schema: dict[str, Any], cls: type[Strict]) -> None:
    schema["required"] = cls.wire_required()


@cache
def _wire_required(cls: type[Strict]) -> tuple[str, ...]:
    return tuple(cls.wire_required())


class Strict(BaseModel):
    """A frozen value whose every field is checked, however it came to be.

    Made in Python, it refuses unknown fields and fills in defaults. Read from JSON, it does as serde does:
    unknown fields are ignored and all but optional ones must be there.
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
        json_schema_extra=_require_wire_fields,
    )

    label: ClassVar[str]
    """What messages call such a value."""
    prefix: ClassVar[str] = ""
    """What messages put before a field's name: where this value sits in another one."""
    max_bytes: ClassVar[int] = limits.MAX_MANIFEST_BYTES
    """The longest JSON text of such a value."""
    max_depth: ClassVar[int] = limits.MAX_METADATA_DEPTH + 1
    """The deepest JSON text of such a value."""
    wire_optional: ClassVar[frozenset[str]] = frozenset()
    """Fields that JSON may lack."""
    left_out: ClassVar[frozenset[str]] = frozenset()
    """Fields that are not written when they are None or empty."""

    @classmethod
    def wire_required(cls) -> list[str]:
        """The fields that JSON must have, in order."""
        return [name for name in cls.model_fields if name not in cls.wire_optional]

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what Peat's serde, or `to_json`, wrote.

        Raises:
            InvalidManifest: the text is too large, not JSON, or a field (named) breaks a rule.
        """
        at_most = len(text) * (4 if isinstance(text, str) else 1)
        short = 2 * at_most <= cls.max_bytes
        return cls.model_validate(cls._read(text), context=_SHORT_WIRE if short else _WIRE)

    def to_json(self) -> str:
        """The compact JSON text, as Peat's serde writes it: fields in order, absent ones left out."""
        return jsontext.write(self.payload())

    def payload(self) -> dict[str, Any]:
        """The JSON object as plain dicts, lists, strings and numbers, in the order of `to_json`."""
        result: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in self.left_out and (value is None or value == {}):
                continue
            if isinstance(value, Strict):
                value = value.payload()
            elif isinstance(value, tuple):
                value = list(value)
            result[name] = value
        return result

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked like a new one.

        Raises:
            InvalidManifest: a field (named) breaks a rule, or there is no such field.
        """
        return type(self)(
            **{name: getattr(self, name) for name in type(self).model_fields} | changes
        )

    def check_whole(self) -> None:
        """Check what concerns more than one field, but for the length of the text.

        Raises:
            InvalidManifest: the fields do not go together.
        """

    def check_length(self) -> None:
        """Check that the JSON text is not too long.

        Raises:
            InvalidManifest: it is.
        """
        size = len(self.to_json().encode())
        if size > self.max_bytes:
            raise InvalidManifest(
                f"{self.label}: takes {size} bytes of JSON, at most {self.max_bytes} are allowed"
            )

    @classmethod
    def _read(cls, text: str | bytes) -> dict[str, Any]:
        return jsontext.read_object(
            text, what=cls.label, max_bytes=cls.max_bytes, max_depth=cls.max_depth
        )

    @model_validator(mode="wrap")
    @classmethod
    def _validate(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        if isinstance(data, Mapping):
            cls._check_keys(data, wire=info.context in {_WIRE, _SHORT_WIRE})
        try:
            made = handler(data)
        except ValidationError as exc:
            raise InvalidManifest(cls._explain(exc)) from exc
        if info.context != _SHORT_WIRE:
            made.check_length()
        made.check_whole()
        return made

    @classmethod
    def _check_keys(cls, data: Mapping[Any, Any], *, wire: bool) -> None:
        if wire:
            for name in _wire_required(cls):
                if name not in data:
                    raise InvalidManifest(f"{cls.label} field {cls.prefix}{name}: is missing")
            return
        for name in data:
            if name not in cls.model_fields:
                raise InvalidManifest(
                    f"{cls.label} field {cls.prefix}{str(name)[:64]!a}: there is no such field",
                    hint=f"the fields are {', '.join(cls.model_fields)}",
                )

    @classmethod
    def _explain(cls, exc: ValidationError) -> str:
        errors = exc.errors(include_url=False, include_input=False)
        first = errors[0]
        path = (cls.prefix + ".".join(map(str, first["loc"]))).rstrip(".")
        where = f"{cls.label} field {path}" if path else cls.label
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return f"{where}: {complaint(first)}{more}"

    @model_serializer(mode="plain")
    def _serialize(self) -> dict[str, Any]:
        return self.payload()
