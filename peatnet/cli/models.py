"""``peatnet models``: what models there are, and which of them are here."""

from typing import Any

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import human_size, note, plain, print_json, print_table, short_peer
from peatnet.cli.session import Session

# Anybody can publish a model with an id of 128 characters, so ids and versions are the first to give way, down to what
# most need. Of a publisher "…(untrusted)" is kept, the hash may go altogether, and status and size stay whole.
_SHRINKING = (
    {"MODEL": 32, "VERSION": 12},
    {"PUBLISHER": 18},
    {"HASH": 6},
    {"PUBLISHER": 12},
    {"HASH": 0},
    {"MODEL": 8, "VERSION": 5},
    {"PUBLISHER": 0},
)

_STATUS_STYLE = {"ready": "green", "loaded": "bold green", "downloading": "cyan", "failed": "red"}


def models(
    ctx: typer.Context,
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List all models that this node knows of, with their state here."""
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    rows = session.call("models")
    if session.json:
        print_json(rows)
        return
    if not rows:
        note("no models yet: `peatnet publish FILE --id ID` offers one to all")
        return
    print_models(rows)


def print_models(rows: list[dict[str, Any]]) -> None:
    """The models as a table on stdout, and what went wrong with them on stderr."""
    print_table(
        ("MODEL", "VERSION", "STATUS", "SIZE", "HASH", "PUBLISHER"),
        [
            (
                f"[bold]{plain(row['model_id'])}[/]",
                plain(row["version"]),
                _status(row),
                human_size(row["size_bytes"]),
                (row["blob_hash"] or "")[:12],
                short_peer(row["publisher"])
                + ("" if row["trusted"] else " [yellow](untrusted)[/]"),
            )
            for row in rows
        ],
        right="SIZE",
        ends="PUBLISHER",
        shrinking=_SHRINKING,
    )
    for row in rows:
        if row["error"]:
            note(f"{row['model_id']}@{row['version']}: {row['error']}")


def _status(row: dict[str, Any]) -> str:
    status = row["status"]
    style = _STATUS_STYLE.get(status, "default")
    share = f" {row['download_progress']:.0%}" if status == "downloading" else ""
    return f"[{style}]{plain(status)}{share}[/]"
