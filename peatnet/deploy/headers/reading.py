"""Model files on disk: which format they are, what they say, and whether they hold what they claim."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from peatnet.deploy.headers import gguf, onnx, safetensors
from peatnet.deploy.headers.describing import (
    describe_gguf,
    describe_onnx,
    describe_other,
    describe_safetensors,
)
from peatnet.deploy.headers.window import Window
from peatnet.errors import BadModelFile, NotFound, StorageError, UsageError
from peatnet.models import ModelFormat, guess_from_filename

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peatnet.deploy.headers.inspection import Inspection
    from peatnet.deploy.headers.window import ReadAt

READ: Final = frozenset({ModelFormat.GGUF, ModelFormat.SAFETENSORS, ModelFormat.ONNX})
"""Formats that have a reader here."""

_STRANGERS: Final = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file", "`git lfs pull` fetches it"),
    (b"<!doctype html", "is a web page", "download the file itself"),
    (b"<html", "is a web page", "download the file itself"),
    (b"lmgg", "is a GGML file, the format before GGUF", "convert the model to GGUF"),
    (b"fmgg", "is a GGMF file, a format before GGUF", "convert the model to GGUF"),
    (b"tjgg", "is a GGJT file, a format before GGUF", "convert the model to GGUF"),
)
_HEAD_BYTES: Final = 64


def check_header(path: Path, model_format: ModelFormat | str) -> None:
    """Check that everything the header of a model file claims lies within the file. Blocks.

    Reads the header only, and bounds what it reads, keeps and loops over; 0.5 s for the largest vocabularies.
    Formats without a reader pass.

    Args:
        path: the file.
        model_format: what it is said to be.

    Raises:
        BadModelFile: it is no file of this format, or claims what it does not hold; says what and where.
        NotFound: there is no such file.
        UsageError: it is no regular file.
        StorageError: it cannot be read.
    """
    if model_format not in READ:
        return
    with _opened(path) as (read_at, size):
        _read(ModelFormat(model_format), read_at, size, path)


def inspect_file(path: Path, model_format: ModelFormat | None = None) -> Inspection:
    """Read what a model file says of itself. Blocks.

    The content decides what the file is; where it says nothing, what the caller says, and then the name. Of formats
    without a reader only the name is looked at.

    Args:
        path: the file.
        model_format: what it is said to be; None for what its name says.

    Raises:
        BadModelFile: its header is broken, claims what the file does not hold, or is of no known format.
        NotFound: there is no such file.
        UsageError: it is no regular file.
        StorageError: it cannot be read.
    """
    said = model_format or guess_from_filename(path.name).format
    with _opened(path) as (read_at, size):
        head = read_at(0, _HEAD_BYTES)
        found = _recognized(head, size)
        if found is not None:
            return _read(found, read_at, size, path)
        _refuse_strangers(head, path)
        if said is not None and said not in READ:
            return describe_other(said, size, path.name)
        if said is not None:
            return _read(said, read_at, size, path)
        if head[:1] == b"\x08":  # as ONNX files begin, and few others
            try:
                return _read(ModelFormat.ONNX, read_at, size, path)
            except BadModelFile:
                pass  # a file that begins like that by chance; not a broken one
    raise BadModelFile(
        f"{path}: is no GGUF, safetensors or ONNX file",
        hint="these are the formats whose headers are read",
    )


def _recognized(head: bytes, size: int) -> ModelFormat | None:
    """The format that the first bytes tell for sure."""
    if head.startswith(gguf.MAGIC):
        return ModelFormat.GGUF
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= length <= min(size, safetensors.MAX_HEADER_BYTES):
        return ModelFormat.SAFETENSORS
    return None


def _refuse_strangers(head: bytes, path: Path) -> None:
    start = head.lstrip().lower()
    for beginning, what, hint in _STRANGERS:
        if start.startswith(beginning):
            raise BadModelFile(f"{path}: {what}", hint=hint)


def _read(model_format: ModelFormat, read_at: ReadAt, size: int, path: Path) -> Inspection:
    name = str(path)
    if model_format is ModelFormat.GGUF:
        window = Window(read_at, size, name, limit=gguf.MAX_HEADER_BYTES)
        return describe_gguf(gguf.read_gguf(window), size, path.name)
    if model_format is ModelFormat.SAFETENSORS:
        return describe_safetensors(
            safetensors.read_safetensors(Window(read_at, size, name)), size, path.name
        )
    return describe_onnx(onnx.read_onnx(Window(read_at, size, name)), size, path.name)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[ReadAt, int]]:
    """How to read the file, and its size."""
    try:
        # Without O_NONBLOCK, a named pipe would block until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as exc:
        raise NotFound(f"there is no file {path}", hint="check the path") from exc
    except OSError as exc:
        hint = "check its owner and mode" if isinstance(exc, PermissionError) else None
        raise StorageError(f"{path} cannot be read: {exc.strerror}", hint=hint) from exc
    except ValueError as exc:  # a path that no file can have
        raise StorageError(f"{path} cannot be read: {exc}") from exc
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is not a regular file")

        def read_at(offset: int, count: int) -> bytes:
            pieces: list[bytes] = []
            try:
                while count and (piece := os.pread(descriptor, count, offset)):
                    pieces.append(piece)
                    offset += len(piece)
                    count -= len(piece)
            except OSError as exc:
                raise StorageError(f"{path} cannot be read: {exc.strerror}") from exc
            return b"".join(pieces)

        yield read_at, status.st_size
    finally:
        os.close(descriptor)
