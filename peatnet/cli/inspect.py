"""``peatnet inspect``: what a model file says of itself."""

# ruff: noqa: PLC0415  # heavy modules are imported late: --help must answer at once

from pathlib import Path
from typing import Annotated, Any

import typer

from peatnet.cli.options import DataDir, Json, Verbose, typed_path
from peatnet.cli.output import human_size, note, plain, print_json, print_line, print_table
from peatnet.cli.session import Session

_MAX_CELL = 160
_MAX_MEMBERS = 8


def inspect(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            parser=typed_path, metavar="FILE", help="The model file.", show_default=False
        ),
    ],
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Print what a GGUF, safetensors or ONNX file says of itself, and what publish would make of it.

    Only the header is read; it is checked as it is before a model is put into service.
    """
    from peatnet.deploy.headers import Certainty, inspect_file

    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    path = file.expanduser().absolute()
    inspection = inspect_file(path)
    if session.json:
        findings = {
            certainty.value: {
                each.field: each.value
                for each in inspection.findings
                if each.certainty is certainty
            }
            for certainty in Certainty
        }
        print_json(
            {
                "path": str(path),
                "format": inspection.format.value,
                "size_bytes": inspection.size_bytes,
                "facts": dict(inspection.facts),
                "manifest": findings,
                "remarks": list(inspection.remarks),
            },
            indent=False,
        )
        return
    facts = {
        "format": inspection.format.value,
        "size": human_size(inspection.size_bytes),
        **inspection.facts,
    }
    print_table(
        ("FACT", "VALUE"),
        [(key.replace("_", " "), _cell(value)) for key, value in facts.items()],
        shrinking=[{"VALUE": 8}],
    )
    if inspection.findings:
        print_line("")
        print_table(
            ("MANIFEST FIELD", "VALUE", "HOW"),
            [
                (plain(each.field), _cell(each.value), plain(f"{each.certainty}: {each.reason}"))
                for each in inspection.findings
            ],
            shrinking=[{"VALUE": 8, "HOW": 8}],
        )
    for remark in inspection.remarks:
        note(f"note: the file {remark}")


def _cell(value: Any) -> str:
    text = _text(value)
    return plain(text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]}…")


def _text(value: Any) -> str:
    """A value on one line, long lists cut short."""
    if isinstance(value, dict):
        return _joined([f"{key} {_text(inner)}" for key, inner in value.items()])
    if isinstance(value, list):
        return _joined([_text(inner) for inner in value])
    if value is None:
        return "?"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _joined(members: list[str]) -> str:
    more = len(members) - _MAX_MEMBERS
    return ", ".join(members[:_MAX_MEMBERS]) + (f" and {more} more" if more > 0 else "")
