from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from headers_kit import Counted, entry, gguf, small_gguf, tensor, text, value, window

from peatnet.deploy.headers import inspect_file
from peatnet.deploy.headers import window as reading
from peatnet.deploy.headers.ggml import FILE_TYPES, TENSOR_TYPES, word_for
from peatnet.deploy.headers.gguf import read_gguf
from peatnet.deploy.headers.window import Window
from peatnet.errors import BadModelFile
from peatnet.models import Quantization

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.deploy.headers import Inspection

HUGE = 2**63


def inspected(tmp_path: Path, data: bytes, name: str = "m.gguf") -> Inspection:
    path = tmp_path / name
    path.write_bytes(data)
    return inspect_file(path)


def fields(inspection: Inspection) -> dict[str, tuple[Any, str]]:
    return {each.field: (each.value, each.certainty.value) for each in inspection.findings}


def test_what_a_file_says(tmp_path: Path) -> None:
    inspection = inspected(tmp_path, small_gguf())
    assert inspection.format == "gguf"
    assert inspection.remarks == ()
    assert dict(inspection.facts) == {
        "version": 3,
        "architecture": "llama",
        "name": "Tiny Llama",
        "quantization": "Q4_K_M",
        "parameters": 3072,
        "context_length": 8192,
        "blocks": 2,
        "vocabulary": 4,
        "tensors": 2,
        "elements_by_type": {"Q4_K": 2560, "F32": 512},
        "license": "apache-2.0",
        "source": "Tiny People",
    }
    found = fields(inspection)
    metadata = found.pop("metadata")
    assert found == {
        "name": ("Tiny Llama", "found"),
        "model_type": ("llm", "guessed"),
        "format": ("gguf", "found"),
        "quantization": ("Q4_K_M", "found"),
        "params_billions": (3.072e-06, "found"),
        "context_length": (8192, "found"),
        "license": ("apache-2.0", "found"),
        "source": ("Tiny People", "found"),
    }
    assert metadata[0]["gguf"]["architecture"] == "llama"


def test_version_2_reads_like_3() -> None:
    header = read_gguf(window(gguf([entry("a.b", "u8", 1)], [], version=2)))
    assert (header.version, header.entries, header.tensors) == (2, 1, 0)


def test_every_kind_of_value_is_gone_past() -> None:
    kinds: list[tuple[str, Any]] = [
        ("u8", 1),
        ("i8", -1),
        ("u16", 1),
        ("i16", -1),
        ("u32", 1),
        ("i32", -1),
        ("f32", 1.5),
    ]
    kinds += [("bool", True), ("text", "ä"), ("u64", 2**64 - 1), ("i64", -1), ("f64", 0.1)]
    entries = [entry(f"general.{kind}", kind, item) for kind, item in kinds]
    lists = [
        entry(f"l.{kind}", "list", (kind, [item] * count))
        for kind, item in kinds
        for count in (0, 3)
    ]
    nested = entry("n", "list", ("list", [("u8", [1, 2]), ("text", ["x", ""])]))
    entries += [each.replace(b"l.", f"{i:02}".encode(), 1) for i, each in enumerate(lists)]
    header = read_gguf(window(gguf([*entries, nested], [tensor("t", (4,), 0, 0)], data=16)))
    assert header.elements == {"F32": 4}
    assert {key.removeprefix("general."): item for key, item in header.metadata.items()} == dict(
        kinds
    )


def test_a_vocabulary_larger_than_the_buffer() -> None:
    tokens = [f"token {i}" * (i % 7) for i in range(20_000)]
    data = gguf([entry("tokenizer.ggml.tokens", "list", ("text", tokens))], [])
    counted = Counted(data)
    header = read_gguf(Window(counted.read_at, len(data), "m"))
    assert header.vocabulary == 20_000
    assert counted.read < len(data) + 64 * 1024


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_file_that_was_cut_off(cut: int) -> None:
    """Wherever: in the data, or in the header."""
    whole = small_gguf()
    with pytest.raises(BadModelFile, match=r"m\.bin: .*\(byte \d+\)"):
        read_gguf(window(whole[: -cut * len(whole) // 40]))
    with pytest.raises(BadModelFile):
        read_gguf(window(whole[: cut - 1]))


def test_every_cut_of_the_header() -> None:
    whole = gguf([entry("a", "list", ("text", ["bc", "d"]))], [tensor("t", (32,), 2, 0)], data=18)
    read_gguf(window(whole))
    for cut in range(len(whole)):
        with pytest.raises(BadModelFile):
            read_gguf(window(whole[:cut]))


def one(kind: int, shape: tuple[int, ...], offset: int = 0, *, data: int = 0) -> bytes:
    return gguf([], [tensor("t", shape, kind, offset)], data=data)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"GGML" + bytes(20), "is no GGUF file"),
        (gguf([], [], version=1), "GGUF version 1"),
        (gguf([], [], version=4), "GGUF version 4"),
        (gguf([], [], version=0), "GGUF version 0"),
        (gguf([], [], version=0x03000000), "big-endian"),
        (gguf([], [], counts=(HUGE, 0)), "claims 9223372036854775808 tensors"),
        (gguf([], [], counts=(0, HUGE)), "claims 9223372036854775808 entries"),
        (gguf([], [], counts=(0, 5)), "beyond the end"),
        (gguf([], [], counts=(5, 0)), "beyond the end"),
        (gguf([struct.pack("<Q", HUGE)], []), "a key of 9223372036854775808 bytes"),
        (gguf([entry("k" * 1025, "u8", 1)], []), "a key of 1025 bytes"),
        (gguf([entry(b"\xff", "u8", 1)], []), "a key is not UTF-8"),
        (gguf([entry("k", "u8", 1)] * 2, []), "the key 'k' comes twice"),
        (gguf([text("k") + struct.pack("<I", 13)], []), "the type 13"),
        (gguf([text("k") + struct.pack("<IQ", 8, HUGE)], []), "beyond the end"),
        (gguf([text("k") + struct.pack("<IIQ", 9, 0, HUGE)], []), "beyond the end"),
        (gguf([text("k") + struct.pack("<IIQ", 9, 12, 2**64 - 1)], []), "beyond the end"),
        (gguf([text("k") + struct.pack("<IIQ", 9, 8, HUGE)], []), "lists of more than"),
        (gguf([text("k") + struct.pack("<IIQ", 9, 9, HUGE)], []), "lists of more than"),
        (gguf([text("k") + struct.pack("<IIQ", 9, 13, 1)], []), "items of the type 13"),
        (gguf([text("k") + struct.pack("<IIQQ", 9, 8, 2, HUGE)], []), "beyond the end"),
        (gguf([text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9], []), "more than 4"),
        (gguf([entry("general.alignment", "u32", 0)], []), "a power of two"),
        (gguf([entry("general.alignment", "u32", 24)], []), "a power of two"),
        (gguf([entry("general.alignment", "u64", 32)], []), "a power of two"),
        (gguf([entry("general.alignment", "text", "32")], []), "a power of two"),
        (gguf([], [tensor("t" * 257, (1,), 0, 0)], data=4), "a tensor's name of 257 bytes"),
        (gguf([], [tensor("t", (1,), 0, 0)] * 2, data=4), "the tensor 't' comes twice"),
        (one(0, (1,) * 5, data=4), "5 dimensions"),
        (one(0, (1,), 8, data=64), "not aligned"),
        (one(0, (1, 2), data=7), "the tensor 't' ends at byte"),
        (one(0, (1,), 32, data=35), "the tensor 't' ends at byte"),
        (one(0, (HUGE, HUGE, HUGE, HUGE)), "the tensor 't' ends at byte"),
        (one(0, (1,), 2**64 - 32), "the tensor 't' ends at byte"),
        (one(12, (128,), data=144), "whole blocks of 256"),
        (one(12, (), data=144), "whole blocks of 256"),
        (one(99, (2**40,), data=144), "claims 1099511627776 elements"),
        (one(99, (1,), 64, data=32), "the tensor 't' ends at byte"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_named(data: bytes, complaint: str) -> None:
    with pytest.raises(BadModelFile) as caught:
        read_gguf(window(data))
    assert complaint in caught.value.message
    assert caught.value.message.startswith("m.bin: ")
    assert len(caught.value.message) < 600


def test_a_header_that_is_too_large() -> None:
    with pytest.raises(BadModelFile, match="larger than 1000 bytes"):
        read_gguf(window(small_gguf(), limit=1000))


def test_a_lie_costs_no_memory() -> None:
    lists = [entry(f"k{i}", "list", ("u8", [0] * 50)) for i in range(200)]
    lie = text("z") + struct.pack("<IIQ", 9, 8, 2**22) + struct.pack("<Q", 0)
    data = gguf([*lists, lie], [])
    tracemalloc.start()
    with pytest.raises(BadModelFile):
        read_gguf(window(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_file_that_shrinks_meanwhile() -> None:
    data = small_gguf()
    with pytest.raises(BadModelFile, match="became shorter"):
        read_gguf(Window(Counted(data, lost=len(data) - 100).read_at, len(data), "m"))


def test_a_tensor_type_of_the_future_passes_with_a_remark(tmp_path: Path) -> None:
    inspection = inspected(tmp_path, one(99, (64,), data=32))
    assert inspection.remarks == (
        "has tensor types unknown here (99): their sizes were not checked",
    )
    assert "quantization" not in fields(inspection)


def test_parts_of_a_split_model(tmp_path: Path) -> None:
    entries = [entry("split.count", "u16", 3), entry("split.no", "u16", 1)]
    inspection = inspected(tmp_path, gguf(entries, [tensor("t", (4,), 0, 0)], data=16))
    assert inspection.remarks == ("is part 2 of 3: a runtime needs all of them",)
    assert "params_billions" not in fields(inspection)


@pytest.mark.parametrize(
    ("architecture", "more", "name", "model_type"),
    [
        ("bert", [], "m.gguf", "embedder"),
        ("nomic-bert", [], "m.gguf", "embedder"),
        ("gemma-embedding", [], "m.gguf", "embedder"),
        ("qwen3", [entry("qwen3.pooling_type", "u32", 3)], "m.gguf", "embedder"),
        ("clip", [entry("general.type", "text", "mmproj")], "m.gguf", "vlm"),
        ("qwen2vl", [], "m.gguf", "vlm"),
        ("whisper", [], "m.gguf", "whisper"),
        ("llama", [entry("general.type", "text", "adapter")], "m.gguf", "custom"),
        ("pangu-embedded", [], "m.gguf", "llm"),
        ("llama", [], "m.gguf", "llm"),
        ("llama", [], "llava-7b.gguf", "vlm"),
        ("bert", [], "llama.gguf", "embedder"),
        ("flux", None, "m.gguf", "llm"),  # from the name: hardly anything else is gguf
    ],
)
def test_the_type_follows_from_the_architecture(
    tmp_path: Path, architecture: str, more: list[bytes] | None, name: str, model_type: str
) -> None:
    entries = [entry("general.architecture", "text", architecture), *(more or [])]
    if more is not None:
        entries += [
            entry(f"{architecture}.context_length", "u32", 512),
            entry("tokenizer.ggml.tokens", "list", ("text", ["a"])),
        ]
    inspection = inspected(tmp_path, gguf(entries, []), name)
    assert fields(inspection)["model_type"] == (model_type, "guessed")


@pytest.mark.parametrize(
    ("number", "word", "certainty"),
    [(0, "F32", "found"), (2, "Q4_0", "found"), (18, "Q6_K", "found"), (32, "BF16", "found"),
     (12, "Q4_K_S", "guessed"), (9, "Q5_K_M", "guessed"), (1024, "Q8_0", "guessed"), (None, "Q8_0", "guessed")],
)  # fmt: skip
def test_the_quantization_follows_from_the_file_type(
    tmp_path: Path, number: int | None, word: str, certainty: str
) -> None:
    entries = [] if number is None else [entry("general.file_type", "u32", number)]
    data = gguf(entries, [tensor("t", (32,), 8, 0)], data=34)
    assert fields(inspected(tmp_path, data))["quantization"] == (word, certainty)


def test_every_quantization_of_a_manifest_is_the_word_for_itself() -> None:
    assert all(word_for(each) == (each, True) for each in Quantization)
    assert {word_for(name)[0] for name in FILE_TYPES.values()} <= set(Quantization)


def test_strange_values_stay_out_of_the_manifest(tmp_path: Path) -> None:
    entries = [
        entry("general.architecture", "text", b"\xff\x1b[2J" + b"x" * 100),
        entry("general.name", "text", "line\nbreak"),
        entry("general.license", "text", "x" * 600),
        entry("general.file_type", "f32", float("nan")),
        entry("general.organization", "u8", 7),
        entry("general.author", "text", "  Ann "),
        entry("split.count", "text", "many"),
    ]
    inspection = inspected(tmp_path, gguf(entries, []), "m")
    found = fields(inspection)
    assert set(found) == {"format", "source", "metadata"}
    assert found["source"] == ("Ann", "found")


def test_numbers_of_a_wrong_kind_are_left_out(tmp_path: Path) -> None:
    entries = [
        entry("general.architecture", "text", "a"),
        entry("a.context_length", "f32", float("inf")),
        entry("a.block_count", "text", "x" * 4000),
        entry("a.embedding_length", "bool", True),  # noqa: FBT003  # the value under test
    ]
    inspection = inspected(tmp_path, gguf(entries, []))
    assert not {"context_length", "blocks", "embedding_length"} & set(inspection.facts)
    assert "context_length" not in fields(inspection)


def test_it_reads_what_the_gguf_package_writes(tmp_path: Path) -> None:
    package = pytest.importorskip("gguf")
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "written.gguf"
    writer = package.GGUFWriter(path, "llama")
    writer.add_name("Written")
    writer.add_context_length(4096)
    writer.add_file_type(7)
    writer.add_custom_alignment(64)
    writer.add_token_list(["a", "b", "ü"])
    weights = numpy.random.default_rng(1).random((8, 64), dtype=numpy.float32)
    writer.add_tensor("plain", weights)
    writer.add_tensor("half", weights[:3].astype(numpy.float16))
    quantized = package.quants.quantize(weights, package.GGMLQuantizationType.Q8_0)
    writer.add_tensor("small", quantized, raw_dtype=package.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = path.read_bytes()
    header = read_gguf(window(data))
    theirs = package.GGUFReader(path)
    assert header.elements == {"F32": 512, "F16": 192, "Q8_0": 512}
    assert header.tensors == len(theirs.tensors)
    assert sum(header.elements.values()) == sum(int(each.n_elements) for each in theirs.tensors)
    assert header.tensor_bytes == sum(int(each.n_bytes) for each in theirs.tensors)
    assert header.alignment == theirs.alignment == 64
    assert header.vocabulary == 3
    assert fields(inspect_file(path))["context_length"] == (4096, "found")
    with pytest.raises(BadModelFile):
        read_gguf(window(data[: theirs.tensors[-1].data_offset + 1]))


def test_the_table_of_tensor_types_agrees_with_the_gguf_package() -> None:
    package = pytest.importorskip("gguf")
    sizes = {int(kind): size for kind, size in package.GGML_QUANT_SIZES.items()}
    known = {kind: size for kind, (_, *size) in TENSOR_TYPES.items()}
    both = (sizes.keys() & known.keys()) - {
        9
    }  # Q8_1: in no file; the package still has its first layout
    assert len(both) > 20
    assert {kind: tuple(known[kind]) for kind in both} == {kind: sizes[kind] for kind in both}
    theirs = {int(each): each.name for each in package.GGMLQuantizationType}
    assert {kind: TENSOR_TYPES[kind][0] for kind in both} == {kind: theirs[kind] for kind in both}


def test_values_are_written_as_the_format_says() -> None:
    """The kit itself, by hand."""
    assert value("list", ("u8", [1, 2])) == bytes([9, 0, 0, 0, 0, 0, 0, 0, 2, *[0] * 7, 1, 2])


SMILE = "\U0001f600"  # one of these makes each letter of a text take four bytes


@pytest.mark.parametrize(
    "data",
    [
        gguf([entry(f"{i}{SMILE}" + "k" * 500, "u8", 1) for i in range(500)], []),
        gguf([entry(f"general.a{i}", "text", SMILE + "v" * 500) for i in range(500)], []),
        gguf([], [tensor(f"{i}{SMILE}" + "t" * 200, (), 0, 0) for i in range(1000)], data=32),
    ],
    ids=["keys", "values", "tensors"],
)
def test_all_kept_texts_have_one_bound(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    read_gguf(window(data))
    monkeypatch.setattr(reading, "MAX_KEPT_BYTES", 400_000)
    view = window(data)
    tracemalloc.start()
    with pytest.raises(BadModelFile, match="take more than 400000 bytes"):
        read_gguf(view)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 900_000
