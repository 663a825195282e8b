"""``peatnet peers``: the other nodes that this one knows."""

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import note, print_json, print_line, safe
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
    # Not a table: ids and addresses are there to be copied, and too long for columns.
    for row in sorted(rows, key=lambda row: (not row["connected"], row["peer_id"])):
        print_line(f"{safe(row['peer_id'])}  {_state(row)}")
        for address in row["addrs"]:
            print_line(f"  {safe(address)}")


def _state(row: dict[str, object]) -> str:
    if row["banned_until"]:
        return f"banned until {safe(str(row['banned_until']))}"
    return "connected" if row["connected"] else "away"
