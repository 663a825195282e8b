"""``peatnet gc``: remove what nobody asked to keep."""

from typing import Annotated

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import counted, human_size, note, print_json, print_line
from peatnet.cli.session import Session


def gc(
    ctx: typer.Context,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Remove blobs that are neither pinned nor named by a live manifest, and left-over temporary files."""
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    report = session.call("gc", {"dry_run": dry_run})
    if session.json:
        print_json(report)
        return
    for blob_hash in report["restored"]:
        note(
            f"put back: {blob_hash}: its file was gone, and its name under models/ still led to it"
        )
    for blob in report["removed"]:
        print_line(f"{blob['blob_hash']}  {human_size(blob['size_bytes'])}")
    for file in report["files"]:
        print_line(f"{file['path']}  {human_size(file['size_bytes'])}")
    count = len(report["removed"]) + len(report["files"])
    verb = "would be removed" if dry_run else "removed"
    freed = human_size(report["freed_bytes"])
    print_line(f"{counted(count, 'file')} {verb}, {freed}" if count else "nothing to remove")
