"""``peatnet show``: one model's manifest."""

from typing import Annotated

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import print_json
from peatnet.cli.session import Session


def show(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL[@VERSION]", help="The newest version, or this one.", show_default=False
        ),
    ],
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Print a model's manifest: what it is, what it needs, where its bytes are. Always JSON."""
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    print_json(session.call("show", {"reference": model}), indent=not session.json)
