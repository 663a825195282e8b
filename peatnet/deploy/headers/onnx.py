"""The parts of an ONNX file that say what it is: one protobuf message, ModelProto, of at most 2 GiB.

Read are the model's own fields, the graph's inputs and outputs, and of each initializer what it claims, which
must agree with the bytes that it holds. Nodes are passed over. Weights may lie in other files ("external data"):
these are named, not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from peatnet.deploy.headers.protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, Walker

if TYPE_CHECKING:
    from peatnet.deploy.headers.window import Window

MAX_BYTES: Final = 2**31 - 1
"""What protobuf allows a message."""
MAX_FIELDS: Final = 2**21
MAX_VALUES: Final = 65_536
"""Inputs, and outputs."""
MAX_INITIALIZERS: Final = 262_144
MAX_RANK: Final = 64
MAX_NAME_BYTES: Final = 256
"""Of inputs, outputs, initializers and dimensions; longer ones are not kept."""
MAX_TEXT_BYTES: Final = 1024
MAX_PROPERTY_BYTES: Final = 64 * 1024
MAX_PROPERTIES: Final = 64
MAX_OPSETS: Final = 64
MAX_FILES: Final = 16

ELEMENT_TYPES: Final = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 8: ("string", 0), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64),
    12: ("uint32", 32), 13: ("uint64", 64), 14: ("complex64", 64), 15: ("complex128", 128), 16: ("bfloat16", 16),
    17: ("float8e4m3fn", 8), 18: ("float8e4m3fnuz", 8), 19: ("float8e5m2", 8), 20: ("float8e5m2fnuz", 8),
    21: ("uint4", 4), 22: ("int4", 4), 23: ("float4e2m1", 4), 24: ("float8e8m0", 8), 25: ("uint2", 2),
    26: ("int2", 2), 27: ("float6e2m3", 6), 28: ("float6e3m2", 6),
}  # fmt: skip
"""TensorProto.DataType: names, and the bits of an element."""

_COMPLEX: Final = (14, 15)
_FLOATS, _INTS, _STRINGS, _LONGS, _RAW, _DOUBLES, _UNSIGNED = 4, 5, 6, 7, 9, 10, 11
_PACKED_BYTES: Final = {_FLOATS: 4, _DOUBLES: 8}
_I64_END: Final = 2**63

Shape = list[int | str | None]


@dataclass(slots=True)
class Value:
    """An input or output of the graph.

    Attributes:
        name: its name.
        type: of its elements, or None where it is no tensor.
        shape: its dimensions, numbers or names, None for one that is open; None where it says nothing.
    """

    name: str = ""
    type: str | None = None
    shape: Shape | None = None


@dataclass(slots=True)
class OnnxHeader:
    """What an ONNX file says of itself.

    Attributes:
        ir_version: of the format.
        opsets: the operator sets that it uses, by domain ("" is written "ai.onnx").
        producer: who wrote it, with the version; perhaps "".
        properties: its metadata_props; long ones are left out.
        inputs: what the graph is given; not the initializers, which older files list there too.
        outputs: what it gives.
        initializers: how many.
        elements: numbers in all initializers, by their type.
        other_files: where weights are that are not in this file, the first of them.
        unknown_types: element types that are not known here: their sizes could not be checked.
    """

    ir_version: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    producer: str = ""
    properties: dict[str, str] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    initializers: int = 0
    elements: dict[str, int] = field(default_factory=dict)
    other_files: list[str] = field(default_factory=list)
    unknown_types: set[int] = field(default_factory=set)


def read_onnx(window: Window) -> OnnxHeader:
    """Read what an ONNX file is, and check that all it claims lies within the file.

    Raises:
        BadModelFile: it breaks a rule of the format, or exceeds a bound above.
    """
    if window.size > MAX_BYTES:
        raise window.bad(f"is larger than an ONNX file can be ({MAX_BYTES} bytes)")
    return _Reader(window).read()


@dataclass(slots=True)
class _Tensor:
    """What one TensorProto claims, and what it holds."""

    shape: list[int] = field(default_factory=list)
    kind: int = 0
    name: str = ""
    raw: int = 0
    typed: int = 0
    most_typed: int = 0
    external: bool = False


class _Reader:
    """One walk through one file."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._walker = Walker(window, MAX_FIELDS)
        self._header = OnnxHeader()
        self._names: set[str] = set()

    def read(self) -> OnnxHeader:
        header = self._header
        producer = version = ""
        graphs = 0
        for entry in self._walker.fields(self._window.size, "the model"):
            match entry.number, entry.wire:
                case 1, 0:
                    header.ir_version = entry.value
                case 2, 2:
                    producer = self._walker.text(entry, MAX_TEXT_BYTES) or ""
                case 3, 2:
                    version = self._walker.text(entry, MAX_TEXT_BYTES) or ""
                case 7, 2:
                    graphs += 1
                    if graphs > 1:
                        raise self._window.bad("has more than one graph", entry.at)
                    self._graph(entry)
                case 8, 2:
                    self._opset(entry)
                case 14, 2:
                    self._property(entry)
        if not graphs or not header.ir_version:
            raise self._window.bad("is no ONNX model: it has no graph, or no version", 0)
        header.producer = f"{producer} {version}".strip()
        header.inputs = [value for value in header.inputs if value.name not in self._names]
        return header

    def _kept(self, entry: Field, most: int) -> str | None:
        """The text in a field, which is kept; None where it is none or too long."""
        text = self._walker.text(entry, most)
        return None if text is None else self._window.keep(text)

    def _opset(self, entry: Field) -> None:
        domain, version = "", 0
        for part in self._walker.fields(entry.value, "an operator set"):
            if part.number == 1:
                domain = self._walker.text(part, MAX_TEXT_BYTES) or ""
            elif part.number == 2 and part.wire == VARINT:
                version = part.value
        if len(self._header.opsets) < MAX_OPSETS and version < _I64_END:
            self._header.opsets[domain or "ai.onnx"] = version

    def _property(self, entry: Field) -> None:
        key, value = self._pair(entry, MAX_PROPERTY_BYTES)
        if key and value is not None and len(self._header.properties) < MAX_PROPERTIES:
            self._header.properties[key] = value

    def _pair(self, entry: Field, most: int) -> tuple[str | None, str | None]:
        key: str | None = ""
        value: str | None = ""
        for part in self._walker.fields(entry.value, "a property"):
            if part.number == 1:
                key = self._walker.text(part, MAX_TEXT_BYTES)
            elif part.number == 2:
                value = self._walker.text(part, most)
        return key, value

    def _graph(self, graph: Field) -> None:
        header = self._header
        for entry in self._walker.fields(graph.value, "the graph"):
            if entry.wire != BYTES:
                continue
            if entry.number == 5:
                header.initializers += 1
                if header.initializers > MAX_INITIALIZERS:
                    raise self._window.bad(f"more than {MAX_INITIALIZERS} initializers")
                self._initializer(entry)
            elif entry.number in (11, 12):
                values = header.inputs if entry.number == 11 else header.outputs
                if len(values) >= MAX_VALUES:
                    raise self._window.bad(f"more than {MAX_VALUES} inputs or outputs")
                values.append(self._value(entry))

    def _value(self, entry: Field) -> Value:
        value = Value()
        for part in self._walker.fields(entry.value, "an input or output"):
            if part.number == 1:
                value.name = self._kept(part, MAX_NAME_BYTES) or ""
            elif part.number == 2 and part.wire == BYTES:
                for kind in self._walker.fields(part.value, "a type"):
                    if kind.number == 1 and kind.wire == BYTES:
                        self._tensor_type(kind, value)
        return value

    def _tensor_type(self, entry: Field, value: Value) -> None:
        for part in self._walker.fields(entry.value, "a type"):
            if part.number == 1 and part.wire == VARINT:
                value.type = ELEMENT_TYPES.get(part.value, (f"type {part.value}", 0))[0]
            elif part.number == 2 and part.wire == BYTES:
                value.shape = []
                for length in self._walker.fields(part.value, "a shape"):
                    if length.number != 1 or length.wire != BYTES:
                        continue
                    if len(value.shape) >= MAX_RANK:
                        raise self._window.bad(
                            f"a shape of more than {MAX_RANK} dimensions", part.at
                        )
                    value.shape.append(self._dimension(length))

    def _dimension(self, entry: Field) -> int | str | None:
        length: int | str | None = None
        for part in self._walker.fields(entry.value, "a dimension"):
            if part.number == 1 and part.wire == VARINT:
                length = part.value if part.value < _I64_END else None  # negative: open
            elif part.number == 2:
                length = self._kept(part, MAX_NAME_BYTES)
        return length

    def _initializer(self, entry: Field) -> None:
        tensor = _Tensor()
        for part in self._walker.fields(entry.value, "an initializer"):
            self._tensor_part(part, tensor)
        self._names.add(tensor.name)
        self._check(tensor, entry.at)

    def _tensor_part(self, part: Field, tensor: _Tensor) -> None:
        walker = self._walker
        if part.number == 1:
            tensor.shape += walker.varints(part, MAX_RANK, "a shape")
            if len(tensor.shape) > MAX_RANK:
                raise self._window.bad(f"a shape of more than {MAX_RANK} dimensions", part.at)
        elif part.number == 2 and part.wire == VARINT:
            tensor.kind = part.value
        elif part.number == 8:
            tensor.name = self._kept(part, MAX_NAME_BYTES) or ""
        elif part.number == _RAW and part.wire == BYTES:
            tensor.raw = part.size
        elif part.number == 13 and part.wire == BYTES:
            key, place = self._pair(part, MAX_TEXT_BYTES)
            others = self._header.other_files
            if key == "location" and place and place not in others and len(others) < MAX_FILES:
                others.append(place)
        elif part.number == 14 and part.wire == VARINT:
            tensor.external = part.value == 1
        elif part.number in (_FLOATS, _INTS, _STRINGS, _LONGS, _DOUBLES, _UNSIGNED):
            self._typed(part, tensor)

    def _typed(self, part: Field, tensor: _Tensor) -> None:
        """Count the numbers that a typed field holds: exactly where their width is fixed, else their bounds."""
        if part.wire in (VARINT, FIXED32, FIXED64) or part.number == _STRINGS:
            least = most = 1
        elif part.number in _PACKED_BYTES:
            least = most = part.size // _PACKED_BYTES[part.number]
        else:
            least, most = -(-part.size // 10), part.size
        tensor.typed += least
        tensor.most_typed += most

    def _check(self, tensor: _Tensor, at: int) -> None:
        """Hold what a tensor claims against what it holds."""
        bad, name = self._window.bad, f"the initializer {tensor.name!a}"
        elements = 1
        for length in tensor.shape:
            elements *= length
            if elements >= _I64_END:  # or negative, which reads as more
                raise bad(f"{name} claims more elements than there can be", at)
        if not tensor.kind:
            raise bad(f"{name} has no type", at)
        label, bits = ELEMENT_TYPES.get(tensor.kind, (f"type {tensor.kind}", 0))
        if tensor.kind not in ELEMENT_TYPES and len(self._header.unknown_types) < MAX_FILES:
            self._header.unknown_types.add(tensor.kind)
        if not tensor.external:
            if tensor.kind not in ELEMENT_TYPES:
                fits = elements <= 8 * max(tensor.raw, tensor.most_typed)
            elif tensor.raw:
                fits = bool(bits) and tensor.raw == -(-elements * bits // 8)
            else:
                fits = self._typed_fits(tensor, elements, bits)
            if not fits:
                raise bad(f"{name}, {elements} elements of {label}, has not these bytes", at)
        if label in self._header.elements or len(self._header.elements) <= len(ELEMENT_TYPES):
            self._header.elements[label] = self._header.elements.get(label, 0) + elements

    @staticmethod
    def _typed_fits(tensor: _Tensor, elements: int, bits: int) -> bool:
        """Whether as many numbers are in the typed fields: two or four of them in one where they are small."""
        if tensor.kind in _COMPLEX:
            elements *= 2
        each = 8 // bits if bits in (2, 4) else 1
        return tensor.typed <= -(-elements // each) <= tensor.most_typed
