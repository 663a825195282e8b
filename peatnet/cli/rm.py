"""``peatnet rm``: remove a blob from this machine."""

from typing import Annotated

import typer

from peatnet.cli.options import DataDir, Json, Reference, Verbose
from peatnet.cli.output import human_size, print_json, print_line
from peatnet.cli.session import Session


def rm(
    ctx: typer.Context,
    model: Reference,
    *,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Remove it although it is pinned, in service, or the file of another model, too.",
        ),
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Remove a model's bytes from this machine. The model stays listed; others keep their copies."""
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    answer = session.call("rm", {"reference": model, "force": force})
    if session.json:
        print_json(answer)
    else:
        print_line(f"removed: {model}, {human_size(answer['freed_bytes'])} freed")
