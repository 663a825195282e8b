"""Signed records of publishers that exist only in tests, and frames, made without peatnet's own writers."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import msgpack

from peatnet.records import KeyPair, RecordType, sign_record
from support.files import blake3_of, chunk_digests, sha256_of

if TYPE_CHECKING:
    from pathlib import Path

import blake3


def frame(header: Any, payload: bytes = b"") -> bytes:
    """One message of a stream protocol, as docs/protocol.md has it: two lengths, header, payload."""
    packed: bytes = msgpack.packb(header)
    return raw_frame(packed, payload)


def raw_frame(header: bytes, payload: bytes = b"") -> bytes:
    """A frame whose header need not be msgpack."""
    return struct.pack(">II", len(header), len(payload)) + header + payload


def manifest_of(path: Path, model_id: str, **changes: Any) -> dict[str, Any]:
    """The JSON object of a manifest of this file, in Peat's order, with some fields changed."""
    size = path.stat().st_size
    table_hash = blake3.blake3(b"".join(chunk_digests(path))).hexdigest()
    manifest = {
        "model_id": model_id,
        "name": model_id,
        "model_type": "custom",
        "format": "safetensors",
        "version": "1.0.0",
        "quantization": "F16",
        "size_bytes": size,
        "sha256": sha256_of(path),
        "blob_hash": blake3_of(path),
        "requirements": {
            "min_vram_mb": 0,
            "recommended_vram_mb": 0,
            "min_ram_mb": 1,
            "execution_providers": ["cpu"],
            "architectures": ["x86_64", "aarch64"],
        },
        "features": [],
        "license": "Apache-2.0",
        "source": "",
        "created_at": "2026-01-02T03:04:05.123456789Z",
        "metadata": {"peatnet": {"chunk_size": 1048576, "table_hash": table_hash}},
    }
    return manifest | changes


def record_of(keys: KeyPair, manifest: dict[str, Any], sequence: int = 1) -> bytes:
    """The envelope of a manifest's record, well signed whatever the manifest says."""
    key = f"{manifest['model_id']}@{manifest['version']}"
    body = json.dumps(manifest, separators=(",", ":")).encode()
    return sign_record(keys, RecordType.MANIFEST, key, sequence, body).envelope
