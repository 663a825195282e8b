"""Walking protobuf messages without building anything: which fields there are, and where they lie.

There is no recursion here. Whoever finds a field that is a message walks it, from its begin to its end, with a
call of its own; so the depth is that of the reader's code, whatever the file says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peatnet.deploy.headers.window import Window

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_WIDTHS: Final = {FIXED64: 8, FIXED32: 4}
_MAX_FIELD_NUMBER: Final = 2**29 - 1


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: which one.
        wire: VARINT, FIXED64, BYTES or FIXED32.
        value: the integer of a VARINT; of BYTES the place in the file where they end. Else 0.
        at: where it begins: of BYTES the first one, else the field.
    """

    number: int
    wire: int
    value: int
    at: int

    @property
    def size(self) -> int:
        """Bytes that a field of BYTES holds."""
        return self.value - self.at


class Walker:
    """Walks the messages of one file.

    Args:
        window: the file.
        max_fields: how many fields of all messages together may be walked.
    """

    def __init__(self, window: Window, max_fields: int) -> None:
        self.window = window
        self._max_fields = max_fields
        self._fields_left = max_fields

    def fields(self, end: int, what: str) -> Iterator[Field]:
        """The fields of the message that begins here, one after the other.

        While one of BYTES is the present one, the window stands at its begin, and the caller may read or walk
        what is in it; for the next one the window is moved past it in any case.

        Args:
            end: where the message ends.
            what: it is, for messages.

        Raises:
            BadModelFile: it is no protobuf message, or one of too many fields.
        """
        window = self.window
        while window.position < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise window.bad(f"more than {self._max_fields} protobuf fields")
            field = self._field(what)
            if field.value > end and field.wire == BYTES:
                raise window.bad(
                    f"the field {field.number} of {what} reaches {field.value - end} bytes beyond its end",
                    field.at,
                    hint="the file may have been cut off; copy or download it again",
                )
            yield field
            after = field.value if field.wire == BYTES else window.position
            window.skip(after - window.position, what)
        if window.position > end:
            raise window.bad(f"a field of {what} reaches beyond its end")

    def _field(self, what: str) -> Field:
        window, at = self.window, self.window.position
        number, wire = divmod(window.varint(f"a field of {what}"), 8)
        if not 1 <= number <= _MAX_FIELD_NUMBER:
            raise window.bad(f"{what} has a field {number}, which protobuf does not know", at)
        if wire == VARINT:
            return Field(number, wire, window.varint(what), at)
        if wire == BYTES:
            length = window.varint(what)
            return Field(number, wire, window.position + length, window.position)
        if wire not in _WIDTHS:
            raise window.bad(f"{what} has a field of the wire type {wire}", at)
        window.skip(_WIDTHS[wire], what)
        return Field(number, wire, 0, at)

    def text(self, field: Field, most: int) -> str | None:
        """The text in a field; None where it is no text or longer than most bytes."""
        if field.wire != BYTES or field.size > most:
            return None
        return self.window.take(field.size, "a text").decode(errors="replace")

    def varints(self, field: Field, most: int, what: str) -> Iterator[int]:
        """The integers of a repeated field, of which this is one entry: packed or not.

        Raises:
            BadModelFile: it holds more than most of them, or no integers.
        """
        if field.wire == VARINT:
            yield field.value
            return
        if field.wire != BYTES:
            raise self.window.bad(f"{what} is no list of integers", field.at)
        while self.window.position < field.value:
            most -= 1
            if most < 0:
                raise self.window.bad(f"{what} has too many entries", field.at)
            yield self.window.varint(what)
        if self.window.position > field.value:
            raise self.window.bad(f"{what} reaches beyond its end", field.at)
