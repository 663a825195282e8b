"""The manifest that ``publish`` sends: the options, the manifest file, what the model file and its name tell.

The options win over the manifest file; the model file is asked only about what neither of them says, and its name
only about what its header leaves open.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from peatnet.deploy.headers import NAME_REASON, Certainty, inspect_file, inspect_name
from peatnet.errors import BadModelFile, InvalidManifest, NotFound, StorageError, UsageError
from peatnet.models import MAX_MANIFEST_BYTES, ModelFormat, ModelManifest
from peatnet.models import Quantization as Quant

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.deploy.headers import Finding, Inspection

# What a publisher's own measurements fill in; from a manifest file they would only be in the way.
_MEASURED = ("size_bytes", "sha256", "blob_hash")

# How people know these fields: by the options that set them.
_OPTIONS = {"model_type": "type"}

_SOURCES = (_FOUND, _GUESSED, _NAMED) = (
    "found in the file",
    "guessed from the file",
    "guessed from the file's name",
)

# Where the file and a person may differ, and somebody should look twice.
_COMPARED = ("format", "quantization", "params_billions", "context_length")


def look_at(path: Path, model_format: str | None) -> tuple[Inspection | None, list[str]]:
    """Read what the model file says of itself.

    A file that is broken, or whose format is not known, is no error here: bytes of any kind can be published.

    Args:
        path: the model file.
        model_format: what the person says that it is, or None.

    Returns:
        What it says, or None, and a sentence on what is wrong with it.

    Raises:
        NotFound: there is no such file.
        UsageError: it is no regular file.
    """
    said = (model_format or "").lower()
    known = ModelFormat(said) if said in set(ModelFormat) else None
    try:
        inspection = inspect_file(path, known)
    except BadModelFile as exc:
        return None, [f"warning: {exc.message}; a node that checks it will not put it into service"]
    except StorageError as exc:  # the node may be allowed what this person is not
        return None, [f"not looked into: {exc.message}"]
    return inspection, [f"note: the file {remark}" for remark in inspection.remarks]


def draft_manifest(
    file_name: str,
    manifest: Path | None,
    options: dict[str, Any],
    inspection: Inspection | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Put a manifest together, all but its sizes and hashes.

    Args:
        file_name: the model file's name, without its directory.
        manifest: a JSON file with manifest fields, or None.
        options: manifest fields by name; None means "not given".
        inspection: what the model file says of itself; None for its name alone.

    Returns:
        The manifest's JSON object, and a sentence each on what was found, guessed and assumed.

    Raises:
        UsageError: there is no model id.
        InvalidManifest: a field (named) breaks a rule, or the manifest file is not a manifest.
        NotFound: there is no such manifest file.
        StorageError: it cannot be read.
    """
    fields = {} if manifest is None else _read(manifest)
    for name in _MEASURED:
        fields.pop(name, None)
    fields |= {name: value for name, value in options.items() if value is not None}
    if not fields.get("model_id"):
        raise UsageError(
            "the model needs an id", hint="--id ID, or model_id in the --manifest file"
        )
    _spell(fields)
    findings = inspect_name(file_name) if inspection is None else inspection.findings
    remarks = _fill(fields, findings)
    fields.setdefault("name", fields["model_id"])
    fields.setdefault("created_at", datetime.now(UTC).isoformat().replace("+00:00", "Z"))
    return ModelManifest.from_draft(json.dumps(fields)).payload(), remarks


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.expanduser().open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError as exc:
        raise NotFound(f"there is no file {path}", hint="check the path") from exc
    except OSError as exc:
        raise StorageError(
            f"{path} cannot be read: {exc.strerror}", hint="check the path, and its owner and mode"
        ) from exc
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


def _fill(fields: dict[str, Any], findings: tuple[Finding, ...]) -> list[str]:
    """Fill in what was found and guessed, and what nobody says; a sentence on each."""
    told: dict[str, list[str]] = {source: [] for source in _SOURCES}  # in this order
    differing: list[str] = []
    for finding in findings:
        name, value = finding.field, finding.value
        if name == "metadata" and isinstance(given := fields.get(name, {}), dict):
            value = {**value, **given}
        elif name in fields:
            if name in _COMPARED and _differs(fields[name], finding):
                differing.append(f"{name} {_shown(value)}, not {_shown(fields[name])}")
            continue
        fields[name] = value
        told[_source(finding)].append(f"{_OPTIONS.get(name, name)} {_shown(value)}")
    remarks = [f"{source}: {', '.join(entries)}" for source, entries in told.items() if entries]
    if differing:
        remarks.append(f"the file says something else, which is not used: {', '.join(differing)}")
    # Q4_K_M, the manifest's own default, is a thing of GGUF files.
    assumed: list[str] = []
    for name, otherwise in (
        ("model_type", "custom"),
        ("format", ModelFormat.GGUF),
        ("quantization", None),
    ):
        if name not in fields:
            plain = Quant.Q4_K_M if fields.get("format") == ModelFormat.GGUF else Quant.F32
            fields[name] = otherwise or plain
            assumed.append(f"{_OPTIONS.get(name, name)} {fields[name]}")
    if assumed:
        options = ", ".join(f"--{entry.split()[0]}" for entry in assumed)
        remarks.append(f"assumed: {', '.join(assumed)} (set with {options})")
    return remarks


def _source(finding: Finding) -> str:
    if finding.certainty is Certainty.FOUND:
        return _FOUND
    return _NAMED if finding.reason == NAME_REASON else _GUESSED


def _differs(given: Any, finding: Finding) -> bool:
    if finding.certainty is not Certainty.FOUND or given is None:
        return False
    if isinstance(given, int | float) and isinstance(finding.value, float):
        return abs(given - finding.value) > 0.15 * finding.value  # 7 for 7.24 is what people say
    return bool(given != finding.value)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict | list):
        return f"({len(value)})" if isinstance(value, list) else ".".join(value)
    return str(value)
