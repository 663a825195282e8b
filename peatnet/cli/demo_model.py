"""A model file for the demo: valid safetensors, random weights.

The layout is that of https://github.com/huggingface/safetensors: eight bytes with the header's length (little
endian), a JSON header that says where each tensor lies, the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 64 * 1024 * 1024

_HEADER_BYTES = 4096  # with the eight bytes of its length; padded with spaces, as the format allows
_ROW_BYTES = 2048  # 1024 columns of F16
_TENSOR_ROWS = 2048
_PIECE = 1024 * 1024


def write_demo_model(path: Path) -> None:
    """Write a safetensors file of exactly 64 MiB, whose content no other file has."""
    rows_left = (SIZE - _HEADER_BYTES) // _ROW_BYTES
    header: dict[str, object] = {"__metadata__": {"format": "pt", "made_by": "peatnet demo"}}
    offset = 0
    while rows_left:
        rows = min(rows_left, _TENSOR_ROWS)
        header[f"layers.{len(header) - 1}.weight"] = {
            "dtype": "F16",
            "shape": [rows, _ROW_BYTES // 2],
            "data_offsets": [offset, offset + rows * _ROW_BYTES],
        }
        offset += rows * _ROW_BYTES
        rows_left -= rows
    text = json.dumps(header).encode().ljust(_HEADER_BYTES - 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, offset, _PIECE):
            file.write(os.urandom(min(_PIECE, offset - start)))
