"""``peatnet peers``: the other nodes that this one knows."""

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import note, plain, print_json, print_table
from peatnet.cli.session import Session


def peers(
    ctx: typer.Context,
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the other nodes: connected now, known from before, or banned."""
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    rows = session.call("peers")
    if session.json:
        print_json(rows)
        return
    if not rows:
        note(
            "no peers known yet"
            if session.node_is_running()
            else "no node is running here: `peatnet up` runs one"
        )
        return
    print_table(
        ("PEER", "STATE", "ADDRESSES"),
        [
            (row["peer_id"], _state(row), plain("  ".join(row["addrs"])))
            for row in sorted(rows, key=lambda row: (not row["connected"], row["peer_id"]))
        ],
    )


def _state(row: dict[str, object]) -> str:
    if row["banned_until"]:
        return f"[red]banned until {plain(str(row['banned_until']))}[/]"
    return "[green]connected[/]" if row["connected"] else "[dim]away[/]"
