from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from headers_kit import (
    Counted,
    field,
    graph_value,
    initializer,
    onnx,
    small_onnx,
    varint,
    window,
)

from peatnet.deploy.headers import inspect_file
from peatnet.deploy.headers import onnx as onnx_reader
from peatnet.deploy.headers import window as reading
from peatnet.deploy.headers.onnx import ELEMENT_TYPES, read_onnx
from peatnet.deploy.headers.window import Window
from peatnet.errors import BadModelFile

if TYPE_CHECKING:
    from pathlib import Path


def fields(path: Path) -> dict[str, tuple[Any, str]]:
    return {each.field: (each.value, each.certainty.value) for each in inspect_file(path).findings}


def written(tmp_path: Path, data: bytes, name: str = "m.onnx") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_what_a_file_says(tmp_path: Path) -> None:
    path = written(tmp_path, small_onnx())
    inspection = inspect_file(path)
    assert inspection.format == "onnx"
    facts = dict(inspection.facts)
    assert list(facts.pop("properties")) == ["task", "names", "license"]
    inputs = [{"name": "x", "type": "float32", "shape": ["batch", 3, None]}]
    outputs = [{"name": "y", "type": "float16", "shape": [None, 4]}]
    said = {
        "ir_version": 9,
        "opset": {"ai.onnx": 17, "com.x": 1},
        "producer": "hand 1.2",
        "inputs": inputs,
        "outputs": outputs,
    }
    assert facts == said | {
        "parameters": 12,
        "initializers": 2,
        "elements_by_type": {"float32": 12, "int64": 2},
    }
    assert fields(path) == {
        "model_type": ("detector", "guessed"),
        "format": ("onnx", "found"),
        "quantization": ("F32", "found"),
        "params_billions": (1.2e-08, "found"),
        "classes": (["person", "driver's cab", "car"], "found"),
        "license": ("AGPL-3.0", "found"),
        "metadata": ({"onnx": said}, "found"),
    }


def test_it_is_known_without_its_name(tmp_path: Path) -> None:
    assert inspect_file(written(tmp_path, small_onnx(), "m.bin")).format == "onnx"
    with pytest.raises(BadModelFile, match="is no GGUF, safetensors or ONNX file"):
        inspect_file(written(tmp_path, b"\x08\x09" + b"\xff" * 100, "n.bin"))


@pytest.mark.parametrize(
    "names", ["", "{}", "person", "{1: 'a'}", "{0: 'a', 0: 'b'}", "{0: a}", "{0: 'a\\n'}", "{0: ''}",
              "{0: '" + "x" * 129 + "'}", "{0: 'a' 1: 'b'}", "{0: '\u202e'}"],
)  # fmt: skip
def test_names_that_are_no_classes_are_left_out(tmp_path: Path, names: str) -> None:
    rest = field(14, field(1, "task") + field(2, "detect")) + field(
        14, field(1, "names") + field(2, names)
    )
    assert "classes" not in fields(written(tmp_path, onnx(rest=rest)))


def test_what_a_manifest_cannot_hold_is_left_out(tmp_path: Path) -> None:
    names = "{" + ", ".join(f"{i}: '{'c' * 100}'" for i in range(300)) + "}"
    rest = field(14, field(1, "task") + field(2, "detect")) + field(
        14, field(1, "names") + field(2, names)
    )
    values = [graph_value(11, f"x{i}" + "y" * 200, 1, ("z" * 250,) * 3) for i in range(40)]
    found = fields(written(tmp_path, onnx(*values, rest=rest)))
    assert set(found) == {"model_type", "format"}


def test_weights_in_other_files(tmp_path: Path) -> None:
    place = field(13, field(1, "location") + field(2, "weights.data"))
    other = initializer(
        "w", (2**40, 2), 1, place, field(13, field(1, "offset") + field(2, "0")), field(14, 1)
    )
    path = written(tmp_path, onnx(other, other.replace(b"w", b"v", 1)))
    inspection = inspect_file(path)
    assert inspection.facts["other_files"] == ["weights.data"]
    assert "weights.data" in inspection.remarks[0]
    assert fields(path)["params_billions"] == (4398.046511104, "found")


def test_a_claim_that_no_manifest_holds(tmp_path: Path) -> None:
    other = initializer("w", (2**62,), 1, field(14, 1))
    assert "params_billions" not in fields(written(tmp_path, onnx(other)))


def test_a_type_of_the_future_passes_with_a_remark(tmp_path: Path) -> None:
    inspection = inspect_file(
        written(tmp_path, onnx(initializer("w", (5,), 99, field(9, bytes(5)))))
    )
    assert inspection.remarks == (
        "has element types unknown here (99): their sizes were not checked",
    )


PACKED_DIMS = field(5, field(1, varint(3) + varint(4)) + field(2, 3) + field(9, bytes(12)))
FLOAT, INT64, STRING, INT4, COMPLEX, INT2, FLOAT6 = 1, 7, 8, 22, 14, 26, 27


@pytest.mark.parametrize(
    ("tensor", "elements"),
    [
        (PACKED_DIMS, {"int8": 12}),
        (initializer("s", (), FLOAT, field(9, bytes(4))), {"float32": 1}),
        (initializer("s", (0, 4), FLOAT), {"float32": 0}),
        (initializer("s", (3,), FLOAT, field(4, bytes(12))), {"float32": 3}),
        (initializer("s", (1,), FLOAT, varint(4 << 3 | 5) + bytes(4)), {"float32": 1}),
        (initializer("s", (2,), 11, field(10, bytes(16))), {"float64": 2}),
        (initializer("s", (1,), 11, varint(10 << 3 | 1) + bytes(8)), {"float64": 1}),
        (initializer("s", (2,), INT64, field(7, 300), field(7, -1)), {"int64": 2}),
        (initializer("s", (2,), INT64, field(7, varint(300) + varint(-1))), {"int64": 2}),
        (initializer("s", (2,), STRING, field(6, "a"), field(6, "long")), {"string": 2}),
        (initializer("s", (3,), INT4, field(9, bytes(2))), {"int4": 3}),
        (initializer("s", (3,), INT4, field(5, bytes(2))), {"int4": 3}),
        (initializer("s", (9,), INT2, field(5, bytes(3))), {"int2": 9}),
        (initializer("s", (4,), FLOAT6, field(9, bytes(3))), {"float6e2m3": 4}),
        (initializer("s", (2,), COMPLEX, field(4, bytes(16))), {"complex64": 2}),
        (initializer("s", (2,), COMPLEX, field(9, bytes(16))), {"complex64": 2}),
    ],
)
def test_initializers_of_every_layout(tensor: bytes, elements: dict[str, int]) -> None:
    assert read_onnx(window(onnx(tensor))).elements == elements


def test_every_cut_is_noticed() -> None:
    """Cuts between two fields of the model leave a model: those after the graph, that is."""
    whole = onnx(initializer("w", (3, 4), 1, field(9, bytes(48))))
    graph_ends = whole.rindex(bytes(48)) + 48
    for cut in range(graph_ends):
        with pytest.raises(BadModelFile):
            read_onnx(window(whole[:cut]))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is no ONNX model"),
        (field(1, 9), "is no ONNX model"),
        (field(7, b""), "is no ONNX model"),
        (onnx() + field(7, b""), "more than one graph"),
        (b"\xff" * 11, "no integer of 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "no integer of 64 bits"),
        (b"\x08", "beyond the end"),
        (b"\x00\x00", "a field 0"),
        (varint(2**29 << 3), "a field 536870912"),
        (b"\x0b", "wire type 3"),
        (b"\x0e", "wire type 6"),
        (b"\x0d\x00", "beyond the end"),
        (b"\x3a" + varint(2**63), "beyond its end"),
        (b"\x3a\x02\x2a\x05" + bytes(9), "beyond its end"),
        (field(7, b"\x09" + bytes(3)) + bytes(9), "beyond its end"),
        (field(7, b"\x08\xff") + b"\x01", "beyond its end"),
        (onnx(initializer("w", (3,), FLOAT, field(9, bytes(11)))), "has not these bytes"),
        (onnx(initializer("w", (3,), FLOAT, field(9, bytes(13)))), "has not these bytes"),
        (onnx(initializer("w", (3,), FLOAT, field(4, bytes(16)))), "has not these bytes"),
        (onnx(initializer("w", (3,), FLOAT)), "has not these bytes"),
        (onnx(initializer("w", (3,), INT64, field(7, varint(1) * 2))), "has not these bytes"),
        (onnx(initializer("w", (3,), INT64, field(7, varint(1) * 31))), "has not these bytes"),
        (onnx(initializer("w", (2,), STRING, field(6, "a"))), "has not these bytes"),
        (onnx(initializer("w", (1,), STRING, field(9, "a"))), "has not these bytes"),
        (onnx(initializer("w", (41,), 99, field(9, bytes(5)))), "has not these bytes"),
        (onnx(initializer("w", (2**62, 2), FLOAT)), "more elements"),
        (onnx(initializer("w", (-1,), FLOAT)), "more elements"),
        (onnx(initializer("w", (1,) * 65, FLOAT)), "more than 64 dimensions"),
        (onnx(field(5, field(1, varint(1) * 65))), "too many entries"),
        (onnx(field(5, b"\x0d" + bytes(4))), "no list of integers"),
        (onnx(field(5, field(1, b"\xff") + b"\x01")), "beyond its end"),
        (onnx(field(5, field(8, "w"))), "has no type"),
        (onnx(graph_value(11, "x", 1, (1,) * 65)), "more than 64 dimensions"),
    ],
)
def test_what_breaks_a_rule_is_named(data: bytes, complaint: str) -> None:
    with pytest.raises(BadModelFile) as caught:
        read_onnx(window(data))
    assert complaint in caught.value.message
    assert caught.value.message.startswith("m.bin: ")
    assert len(caught.value.message) < 600


@pytest.mark.parametrize(
    ("bound", "data"),
    [
        ("MAX_FIELDS", onnx(field(2, "x") * 50)),
        ("MAX_VALUES", onnx(graph_value(12, "y", 1, ()) * 50)),
        ("MAX_INITIALIZERS", onnx(initializer("w", (), 3, field(9, b"1")) * 50)),
    ],
)
def test_there_are_not_too_many(monkeypatch: pytest.MonkeyPatch, bound: str, data: bytes) -> None:
    read_onnx(window(data))
    monkeypatch.setattr(onnx_reader, bound, 49)
    with pytest.raises(BadModelFile, match="more than 49 "):
        read_onnx(window(data))


def test_a_file_larger_than_protobuf_allows() -> None:
    with pytest.raises(BadModelFile, match="larger than an ONNX file can be"):
        read_onnx(Window(lambda offset, count: b"", 2**31, "m"))


def test_weights_are_not_read() -> None:
    data = onnx(*(initializer(f"w{i}", (10**6,), 3, field(9, bytes(10**6))) for i in range(8)))
    counted = Counted(data)
    tracemalloc.start()
    read_onnx(Window(counted.read_at, len(data), "m"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counted.read < 10 * 64 * 1024
    assert peak < 300_000


SMILE = "\U0001f600"  # one of these makes each letter of a text take four bytes


def peak_of(data: bytes, complaint: str) -> int:
    """The most memory that reading took until it ended with this complaint."""
    view = window(data)
    tracemalloc.start()
    with pytest.raises(BadModelFile, match=complaint):
        read_onnx(view)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_a_shape_of_many_names_costs_no_memory() -> None:
    data = onnx(graph_value(11, "x", 1, (SMILE + "n" * 1000,) * 5000))
    assert peak_of(data, "more than 64 dimensions") < 500_000


def test_the_longest_name_of_a_dimension() -> None:
    data = onnx(graph_value(11, "x", 1, ("n" * 256, "n" * 257)))
    assert read_onnx(window(data)).inputs[0].shape == ["n" * 256, None]


@pytest.mark.parametrize(
    "graph",
    [
        [graph_value(12, f"{i}{SMILE}" + "y" * 200, 1, ()) for i in range(1000)],
        [graph_value(11, "x", 1, (f"{i}{SMILE}" + "n" * 200,) * 20) for i in range(50)],
        [initializer(f"{i}{SMILE}" + "w" * 200, (0,), 1) for i in range(1000)],
    ],
    ids=["values", "dimensions", "initializers"],
)
def test_all_kept_names_have_one_bound(monkeypatch: pytest.MonkeyPatch, graph: list[bytes]) -> None:
    data = onnx(*graph)
    read_onnx(window(data))
    monkeypatch.setattr(reading, "MAX_KEPT_BYTES", 400_000)
    assert peak_of(data, "take more than 400000 bytes") < 800_000


def test_it_reads_what_the_onnx_package_writes(tmp_path: Path) -> None:
    package = pytest.importorskip("onnx")
    numpy = pytest.importorskip("numpy")
    helper, numbers = package.helper, package.numpy_helper
    random = numpy.random.default_rng(1)
    weights = {
        "w": random.random((4, 3), dtype=numpy.float32),
        "h": random.random((5,)).astype(numpy.float16),
        "i": numpy.array([2, -1], numpy.int64),
        "b": numpy.array([True, False]),
        "d": numpy.zeros((), numpy.float64),
    }
    tensors = [numbers.from_array(array, name) for name, array in weights.items()]
    kinds = package.TensorProto
    tensors += [
        helper.make_tensor("typed", kinds.FLOAT, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("longs", kinds.INT64, [3], [1, -2, 2**40]),
        helper.make_tensor("ints", kinds.INT32, [2, 2], [1, -2, 3, -4]),
        helper.make_tensor("texts", kinds.STRING, [2], [b"a", b"bc"]),
        helper.make_tensor("bf", kinds.BFLOAT16, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("f8", kinds.FLOAT8E4M3FN, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("i4", kinds.INT4, [3], [1, -2, 3]),
        helper.make_tensor("unsigned", kinds.UINT64, [2], [1, 2**63]),
        helper.make_tensor("complex", kinds.COMPLEX64, [2], [1 + 2j, 3j]),
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", kinds.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("w", kinds.FLOAT, [4, 3]),
            helper.make_tensor_sequence_value_info("s", kinds.FLOAT, None),
        ],
        [helper.make_tensor_value_info("y", kinds.FLOAT, None)],
        tensors,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, producer_name="test", opset_imports=opsets)
    helper.set_model_props(model, {"key": "text"})
    data = model.SerializeToString()
    header = read_onnx(window(data))
    assert header.initializers == len(tensors)
    expected: dict[str, int] = {}
    for each in tensors:
        label = ELEMENT_TYPES[each.data_type][0]
        expected[label] = expected.get(label, 0) + int(numpy.prod(each.dims))
    assert header.elements == expected
    assert header.opsets == {"ai.onnx": 20, "ai.onnx.ml": 3}
    assert header.ir_version == model.ir_version
    assert header.producer == "test"
    assert header.properties == {"key": "text"}
    assert [(each.name, each.type, each.shape) for each in header.inputs] == [
        ("x", "float32", ["n", 4]),
        ("s", None, None),
    ]
    assert [(each.name, each.type, each.shape) for each in header.outputs] == [
        ("y", "float32", None)
    ]

    path = tmp_path / "apart.onnx"
    package.save_model(
        model, path, save_as_external_data=True, location="apart.data", size_threshold=0
    )
    assert inspect_file(path).facts["other_files"] == ["apart.data"]


def test_the_element_types_agree_with_the_onnx_package() -> None:
    package = pytest.importorskip("onnx")
    theirs = {number: name.lower() for name, number in package.TensorProto.DataType.items()}
    spelled = {"float": "float32", "double": "float64"}
    for number, (name, _) in ELEMENT_TYPES.items():
        assert spelled.get(theirs.get(number, name), theirs.get(number, name)) == name
