"""The header of a GGUF file, versions 2 and 3, little endian.

    "GGUF"  u32 version  u64 tensors  u64 entries
    entries times (string key, u32 type, value)
    tensors times (string name, u32 dimensions, u64 each dimension, u32 type, u64 offset)
    padding to the alignment; the tensors' bytes, each at its offset from here

A string is a u64 length and its bytes; a list is a u32 type, a u64 count and the values.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from peatnet.deploy.headers.ggml import TENSOR_TYPES

if TYPE_CHECKING:
    from peatnet.deploy.headers.window import Window

MAGIC: Final = b"GGUF"

MAX_HEADER_BYTES: Final = 512 * 1024 * 1024
MAX_ENTRIES: Final = 16_384
MAX_TENSORS: Final = 131_072
MAX_KEY_BYTES: Final = 1024
MAX_NAME_BYTES: Final = 256
MAX_LIST_ITEMS: Final = 2**22
"""Strings and lists in all lists together; numbers are passed over at once."""
MAX_LIST_DEPTH: Final = 4
MAX_DIMENSIONS: Final = 4
MAX_TEXT_BYTES: Final = 4096
"""Of the texts that are kept; longer ones (chat templates) are passed over."""

_VERSIONS: Final = (2, 3)
_DEFAULT_ALIGNMENT: Final = 32

_STRING, _LIST = 8, 9
_SCALARS: Final = {
    kind: struct.Struct(f"<{code}")
    for kind, code in {
        0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
    }.items()
}  # fmt: skip
_U32_KIND: Final = 4

_KEPT: Final = re.compile(
    r"(?:general|split|clip)\.[a-z0-9_.]+|tokenizer\.ggml\.model"
    r"|[^.]+\.(?:context_length|embedding_length|block_count|expert_count|expert_used_count|pooling_type)"
)

Scalar = int | float | bool | str


@dataclass(slots=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        version: of the format.
        entries: how many entries the metadata has.
        metadata: the entries that say what the model is; no lists, no long texts.
        vocabulary: tokens, or None where the file has no tokenizer.
        tensors: how many.
        elements: numbers in all tensors, by the tensors' type.
        tensor_bytes: of all tensors of a known type.
        alignment: of the tensors' offsets, in bytes.
        unknown_types: tensor types whose size is not known here: their ends could not be checked.
    """

    version: int
    entries: int
    metadata: dict[str, Scalar] = field(default_factory=dict)
    vocabulary: int | None = None
    tensors: int = 0
    elements: dict[str, int] = field(default_factory=dict)
    tensor_bytes: int = 0
    alignment: int = _DEFAULT_ALIGNMENT
    unknown_types: set[int] = field(default_factory=set)


def read_gguf(window: Window) -> GgufHeader:
    """Read a GGUF header, and check that all it claims lies within the file.

    Raises:
        BadModelFile: it breaks a rule of the format, or exceeds a bound above.
    """
    return _Reader(window).read()


class _Reader:
    """One walk through one header."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._items_left = MAX_LIST_ITEMS

    def read(self) -> GgufHeader:
        window = self._window
        if (magic := window.take(4, "the magic number")) != MAGIC:
            raise window.bad(f"is no GGUF file: its first bytes are {magic.hex(' ')}", 0)
        version = window.u32("the version")
        if version not in _VERSIONS:
            raise self._other_version(version)
        tensors = self._count("tensors", MAX_TENSORS)
        header = GgufHeader(version, self._count("entries", MAX_ENTRIES), tensors=tensors)
        self._entries(header)
        self._tensors(header)
        return header

    def _other_version(self, version: int) -> Exception:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
            return self._window.bad(
                "is a big-endian GGUF file",
                4,
                hint="convert it to little endian, which is what runtimes here read",
            )
        older = version < _VERSIONS[0]
        return self._window.bad(
            f"is GGUF version {version}; versions 2 and 3 can be read",
            4,
            hint="convert the model again with a newer tool" if older else "a newer peatnet may",
        )

    def _count(self, what: str, most: int) -> int:
        at = self._window.position
        count = self._window.u64(f"the number of {what}")
        if count > most:
            raise self._window.bad(f"claims {count} {what}; at most {most} are read", at)
        return count

    def _text(self, what: str, most: int) -> str:
        window, at = self._window, self._window.position
        length = window.u64(f"the length of {what}")
        if length > most:
            raise window.bad(f"{what} of {length} bytes; at most {most} are read", at)
        try:
            return window.take(length, what).decode()
        except UnicodeDecodeError as exc:
            raise window.bad(f"{what} is not UTF-8", at) from exc

    def _entries(self, header: GgufHeader) -> None:
        window = self._window
        seen: set[str] = set()
        for _ in range(header.entries):
            at = window.position
            key = self._text("a key", MAX_KEY_BYTES)
            if key in seen:
                raise window.bad(f"the key {key!a} comes twice", at)
            seen.add(window.keep(key))
            kind = window.u32(f"the type of {key!a}")
            if kind == _LIST:
                count = self._pass_list(key, 1)
                if key == "tokenizer.ggml.tokens":
                    header.vocabulary = count
                continue
            value = self._scalar(key, kind)
            if value is not None and len(key) <= 128 and _KEPT.fullmatch(key):
                header.metadata[key] = window.keep(value) if isinstance(value, str) else value
            if key == "general.alignment":
                header.alignment = self._alignment(kind, value, at)

    def _alignment(self, kind: int, value: Scalar | None, at: int) -> int:
        if kind != _U32_KIND or not isinstance(value, int) or value.bit_count() != 1:
            raise self._window.bad("general.alignment must be a u32 and a power of two", at)
        return value

    def _scalar(self, key: str, kind: int) -> Scalar | None:
        """A number, a boolean or a text; None for a text that is too long to keep."""
        window = self._window
        what = f"the value of {key!a}"
        if kind == _STRING:
            length = window.u64(what)
            if length > MAX_TEXT_BYTES:
                window.skip(length, what)
                return None
            return window.take(length, what).decode(errors="replace")
        if kind not in _SCALARS:
            raise window.bad(f"{key!a} has the type {kind}, which GGUF does not know")
        code = _SCALARS[kind]
        value: Scalar = code.unpack(window.take(code.size, what))[0]
        return value

    def _pass_list(self, key: str, depth: int) -> int:
        """Go past a list; at most MAX_LIST_DEPTH calls deep.

        Returns:
            How many items it has.
        """
        window, at = self._window, self._window.position
        what = f"the list {key!a}"
        if depth > MAX_LIST_DEPTH:
            raise window.bad(f"{what} holds lists more than {MAX_LIST_DEPTH} deep")
        kind = window.u32(what)
        count = window.u64(what)
        if kind in _SCALARS:
            window.skip(count * _SCALARS[kind].size, what)
            return count
        if kind not in (_STRING, _LIST):
            raise window.bad(f"{what} has items of the type {kind}, which GGUF does not know", at)
        self._items_left -= count
        if self._items_left < 0:
            raise window.bad(f"lists of more than {MAX_LIST_ITEMS} items", at)
        if kind == _STRING:
            window.skip_strings(count, what)
        else:
            for _ in range(count):
                self._pass_list(key, depth + 1)
        return count

    def _tensors(self, header: GgufHeader) -> None:
        window = self._window
        seen: set[str] = set()
        furthest, of, told_at = 0, "", 0
        for _ in range(header.tensors):
            at = window.position
            name = self._text("a tensor's name", MAX_NAME_BYTES)
            if name in seen:
                raise window.bad(f"the tensor {name!a} comes twice", at)
            seen.add(window.keep(name))
            end = self._tensor(name, header)
            if end > furthest:
                furthest, of, told_at = end, name, at
        start = -(-window.position // header.alignment) * header.alignment
        if header.tensors and start + furthest > window.size:
            raise window.bad(
                f"the tensor {of!a} ends at byte {start + furthest}, beyond the end of the file, "
                f"which has {window.size}",
                told_at,
                hint="the file may have been cut off; copy or download it again",
            )

    def _tensor(self, name: str, header: GgufHeader) -> int:
        """Read what follows a tensor's name; where it ends, counted from the first tensor's begin."""
        window, at = self._window, self._window.position
        what = f"the tensor {name!a}"
        dimensions = window.u32(what)
        if dimensions > MAX_DIMENSIONS:
            raise window.bad(f"{what} has {dimensions} dimensions; at most 4 are read", at)
        shape = [window.u64(what) for _ in range(dimensions)]
        kind = window.u32(what)
        offset = window.u64(what)
        if offset % header.alignment:
            raise window.bad(f"{what} is not aligned to {header.alignment} bytes", at)
        elements = 1
        for length in shape:
            elements *= length
        if kind not in TENSOR_TYPES:
            header.unknown_types.add(kind)
            # An element takes a bit or more: a larger claim is none that could be kept.
            if elements > 8 * window.size:
                raise window.bad(f"{what} claims {elements} elements", at)
            label, size = f"type {kind}", 0
        else:
            label, block, block_bytes = TENSOR_TYPES[kind]
            if (shape[0] if shape else 1) % block:
                raise window.bad(f"{what} has rows that are not whole blocks of {block}", at)
            size = elements // block * block_bytes
        header.elements[label] = header.elements.get(label, 0) + elements
        header.tensor_bytes += size
        return offset + size
