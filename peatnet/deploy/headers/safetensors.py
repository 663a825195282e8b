r"""The header of a safetensors file.

    u64 length  JSON, perhaps followed by spaces  the tensors' bytes, without gaps

    {"__metadata__": {"text": "text", …}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …}

The JSON is read by a scanner for just this shape, piece by piece: of a hostile text, a general parser would make
many times its size.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peatnet.deploy.headers.window import Window

MAX_HEADER_BYTES: Final = 100_000_000
"""What the format's own reader allows."""
MAX_TENSORS: Final = 131_072
MAX_METADATA: Final = 4096
MAX_KEPT_METADATA: Final = 64
MAX_NAME_BYTES: Final = 1024
MAX_ENTRY_BYTES: Final = 4096
MAX_TEXT_BYTES: Final = 1024
"""Of the metadata's texts that are kept; longer ones are passed over."""

DTYPE_BITS: Final = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip

_SPACE: Final = re.compile(rb"[ \t\n\r]*")
_STRING: Final = re.compile(rb'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrtu])*+"')
_ENTRY: Final = re.compile(rb"\{[^{}]*+\}")
_U64_END: Final = 2**64
_MAX_RANK: Final = 64


@dataclass(slots=True)
class SafetensorsHeader:
    """What a safetensors file says of itself.

    Attributes:
        tensors: how many.
        elements: numbers in all tensors, by dtype.
        metadata: the texts under __metadata__, the first and the short ones.
        unknown_dtypes: those whose size is not known here: only their place could be checked.
    """

    tensors: int = 0
    elements: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    unknown_dtypes: set[str] = field(default_factory=set)


def read_safetensors(window: Window) -> SafetensorsHeader:
    """Read a safetensors header, and check that the tensors fill the rest of the file, without gaps.

    Raises:
        BadModelFile: it breaks a rule of the format, or exceeds a bound above.
    """
    length = window.u64("the length of the header")
    if length > MAX_HEADER_BYTES:
        raise window.bad(
            f"claims a header of {length} bytes; at most {MAX_HEADER_BYTES} are read", 0
        )
    text = window.take(length, "the header")
    return _Reader(window, text).read()


class _Reader:
    """One walk through one header's JSON."""

    def __init__(self, window: Window, text: bytes) -> None:
        self._window = window
        self._text = text
        self._at = 0
        self._header = SafetensorsHeader()
        self._places: list[tuple[int, int, str]] = []

    def read(self) -> SafetensorsHeader:
        if not self._text.startswith(b"{"):
            raise self._bad("the header is no JSON object")
        names: set[str] = set()
        for name in self._members("a tensor's name"):
            if name in names:
                raise self._bad(f"the tensor {name!a} comes twice")
            names.add(self._window.keep(name, 8 + self._at))
            if name == "__metadata__":
                self._metadata()
            elif len(names) > MAX_TENSORS:
                raise self._bad(f"more than {MAX_TENSORS} tensors")
            else:
                self._tensor(name)
        if self._text[self._at :].strip(b" \t\n\r"):
            raise self._bad("something follows the header's JSON")
        self._check_places()
        return self._header

    def _bad(self, what: str) -> Exception:
        return self._window.bad(what, 8 + self._at)

    def _mark(self, mark: bytes) -> bool:
        """Go past this character and the space around it, if it is the next one."""
        match = _SPACE.match(self._text, self._at)
        at = match.end() if match else self._at
        if self._text[at : at + 1] != mark:
            return False
        match = _SPACE.match(self._text, at + 1)
        self._at = match.end() if match else at + 1
        return True

    def _members(self, what: str) -> Iterator[str]:
        """The keys of the object that begins here; after each, its value is to be read."""
        if not self._mark(b"{"):
            raise self._bad("a JSON object is missing")
        if self._mark(b"}"):
            return
        while True:
            key = self._string(what, MAX_NAME_BYTES)
            if key is None:
                raise self._bad(f"{what} has more than {MAX_NAME_BYTES} bytes")
            if not self._mark(b":"):
                raise self._bad(f"{key!a} has no value")
            yield key
            if self._mark(b"}"):
                return
            if not self._mark(b","):
                raise self._bad(f"neither , nor }} follows the value of {key!a}")

    def _string(self, what: str, most: int) -> str | None:
        """The text that begins here; None, and past it, where it is longer than most bytes."""
        match = _STRING.match(self._text, self._at)
        if match is None:
            raise self._bad(f"{what} is no JSON text")
        start, self._at = match.span()
        if self._at - start - 2 > most:
            return None
        try:
            value: str = json.loads(match[0].decode())
            value.encode()
        except ValueError as exc:
            self._at = start
            raise self._bad(f"{what} is no JSON text") from exc
        return value

    def _metadata(self) -> None:
        kept = self._header.metadata
        for count, key in enumerate(self._members("a key of __metadata__")):
            if count >= MAX_METADATA:
                raise self._bad(f"more than {MAX_METADATA} entries in __metadata__")
            value = self._string(f"the value of {key!a}", MAX_TEXT_BYTES)
            if value is not None and len(kept) < MAX_KEPT_METADATA:
                kept[key] = value

    def _tensor(self, name: str) -> None:
        match = _ENTRY.match(self._text, self._at, self._at + MAX_ENTRY_BYTES)
        if match is None:
            raise self._bad(f"the tensor {name!a} is not described by a short JSON object")
        try:
            entry = json.loads(match[0].decode(), object_pairs_hook=_once)
        except (ValueError, RecursionError) as exc:
            raise self._bad(f"the tensor {name!a} is described by broken JSON") from exc
        dtype, shape = entry.get("dtype"), entry.get("shape")
        if not isinstance(dtype, str) or not re.fullmatch(r"[A-Z][A-Z0-9_]{0,31}", dtype):
            raise self._bad(f"the tensor {name!a} has no dtype")
        if not _sizes(shape) or len(shape) > _MAX_RANK:
            raise self._bad(f"the tensor {name!a} has no shape")
        place = entry.get("data_offsets")
        if not _sizes(place) or len(place) != 2 or place[0] > place[1]:
            raise self._bad(f"the tensor {name!a} has no data_offsets")
        start, end = place
        rest = self._window.size - self._window.position
        if end > rest:
            raise self._bad(
                f"the tensor {name!a} ends {end} bytes after the header; the file has {rest} there"
            )
        self._add(name, dtype, shape, end - start)
        self._places.append((start, end, name))
        self._at = match.end()

    def _add(self, name: str, dtype: str, shape: list[int], size: int) -> None:
        elements = 1
        for length in shape:
            elements *= length
        if elements >= _U64_END:
            raise self._bad(f"the tensor {name!a} claims more elements than there can be")
        header = self._header
        if dtype not in DTYPE_BITS:
            if dtype not in header.unknown_dtypes:
                header.unknown_dtypes.add(self._window.keep(dtype, 8 + self._at))
            if elements > 8 * size:
                raise self._bad(
                    f"the tensor {name!a}, {elements} elements, cannot take {size} bytes"
                )
        elif elements * DTYPE_BITS[dtype] != size * 8:
            raise self._bad(
                f"the tensor {name!a}, {elements} elements of {dtype}, cannot take {size} bytes"
            )
        header.tensors += 1
        header.elements[dtype] = header.elements.get(dtype, 0) + elements

    def _check_places(self) -> None:
        self._places.sort()
        ended = 0
        for start, end, name in self._places:
            if start != ended:
                kind = "overlaps another one" if start < ended else "leaves a gap before it"
                raise self._bad(f"the tensor {name!a}, {start} bytes after the header, {kind}")
            ended = end
        rest = self._window.size - self._window.position
        if ended != rest:
            raise self._bad(
                f"the tensors end {ended} bytes after the header, but the file has {rest} there"
            )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key comes twice")
    return members


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < _U64_END for n in value)
