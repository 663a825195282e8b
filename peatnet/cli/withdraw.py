"""``peatnet withdraw``: take a published model back."""

from typing import Annotated

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import print_json, print_line
from peatnet.cli.session import Session


def withdraw(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL[@VERSION]",
            help="A model; without a version, the one published last.",
            show_default=False,
        ),
    ],
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Take back a model that this node published: the others stop listing and fetching it.

    The bytes stay, here and elsewhere, until `gc` removes them, or `rm` with the blob's hash: the name is gone.
    """
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    answer = session.call("withdraw", {"reference": model})
    if session.json:
        print_json(answer)
    else:
        print_line(f"withdrawn: {answer['withdrawn']}")
