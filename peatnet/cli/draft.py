"""The manifest that ``publish`` sends: the manifest file, what the options say, what the file's name tells.

The options win over the manifest file; the file's name is asked only about what neither of them says.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from peatnet.errors import InvalidManifest, StorageError, UsageError
from peatnet.models import MAX_MANIFEST_BYTES, ModelFormat, ModelManifest, guess_from_filename
from peatnet.models import Quantization as Quant

if TYPE_CHECKING:
    from pathlib import Path

# What a publisher's own measurements fill in; from a manifest file they would only be in the way.
_MEASURED = ("size_bytes", "sha256", "blob_hash")


def draft_manifest(
    file_name: str, manifest: Path | None, options: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Put a manifest together, all but its sizes and hashes.

    Args:
        file_name: the model file's name, without its directory.
        manifest: a JSON file with manifest fields, or None.
        options: manifest fields by name; None means "not given".

    Returns:
        The manifest's JSON object, and a sentence each on what was guessed and what was assumed.

    Raises:
        UsageError: there is no model id.
        InvalidManifest: a field (named) breaks a rule, or the manifest file is not a manifest.
        StorageError: the manifest file cannot be read.
    """
    fields = {} if manifest is None else _read(manifest)
    for name in _MEASURED:
        fields.pop(name, None)
    fields |= {name: value for name, value in options.items() if value is not None}
    if not fields.get("model_id"):
        raise UsageError(
            "the model needs an id", hint="--id ID, or model_id in the --manifest file"
        )
    fields.setdefault("name", fields["model_id"])
    _spell(fields)
    remarks = _guess(file_name, fields)
    fields.setdefault("created_at", datetime.now(UTC).isoformat().replace("+00:00", "Z"))
    return ModelManifest.from_draft(json.dumps(fields)).payload(), remarks


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.expanduser().open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as exc:
        raise StorageError(f"{path}: {exc.strerror}") from exc
    if len(text) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"{path}: larger than a manifest may be ({MAX_MANIFEST_BYTES} bytes)")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidManifest(f"{path}: not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise InvalidManifest(f"{path}: not a JSON object")
    return fields


def _spell(fields: dict[str, Any]) -> None:
    """Let people write ``q4_k_m``, ``fp16`` and ``GGUF``; what is no such word is left for the manifest to refuse."""
    if isinstance(spelled := fields.get("quantization"), str):
        fields["quantization"] = Quant.from_filename_part(spelled) or spelled
    for name in ("model_type", "format"):
        if isinstance(spelled := fields.get(name), str):
            fields[name] = spelled.lower()


def _guess(file_name: str, fields: dict[str, Any]) -> list[str]:
    guess = guess_from_filename(file_name)
    told: list[str] = []
    assumed: list[str] = []

    def fill(field: str, option: str, guessed: str | None, otherwise: str) -> None:
        if field not in fields:
            fields[field] = guessed or otherwise
            (told if guessed else assumed).append(f"{option} {fields[field]}")

    fill("model_type", "type", guess.model_type, "custom")
    fill("format", "format", guess.format, ModelFormat.GGUF)
    # Q4_K_M, the manifest's own default, is a thing of GGUF files.
    plain = Quant.Q4_K_M if fields["format"] == ModelFormat.GGUF else Quant.F32
    fill("quantization", "quantization", guess.quantization, plain)
    remarks = []
    if told:
        remarks.append(f"guessed from the file's name: {', '.join(told)}")
    if assumed:
        options = ", ".join(f"--{entry.split()[0]}" for entry in assumed)
        remarks.append(f"assumed: {', '.join(assumed)} (set with {options})")
    return remarks
