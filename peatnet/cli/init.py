"""``peatnet init`` and ``peatnet id``: the node's identity."""

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import print_json, print_line
from peatnet.cli.session import Session


def init(
    ctx: typer.Context,
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Create the data directory and this node's identity.

    Other verbs do so too when they must; a second run changes nothing.
    """
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    peer_id = session.call("id")["peer_id"]
    directory = str(session.config.data_dir)
    if session.json:
        print_json({"peer_id": peer_id, "data_dir": directory})
    else:
        print_line(f"{peer_id}  in {directory}")


def show_id(
    ctx: typer.Context,
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Print this node's peer id: what others trust, and what its manifests are signed with."""
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    answer = session.call("id")
    if session.json:
        print_json(answer)
    else:
        print_line(answer["peer_id"])
