"""``peatnet pin`` and ``peatnet unpin``: keep a blob from ``gc`` and ``rm``."""

import typer

from peatnet.cli.options import DataDir, Json, Reference, Verbose
from peatnet.cli.output import print_json, print_line
from peatnet.cli.session import Session


def pin(
    ctx: typer.Context,
    model: Reference,
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Keep a model's bytes here, whatever `gc` would like."""
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    answer = session.call("pin", {"reference": model})
    if session.json:
        print_json(answer)
    else:
        print_line(f"pinned: {answer['blob_hash']}")


def unpin(
    ctx: typer.Context,
    model: Reference,
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Let `gc` and `rm` have a model's bytes again."""
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    answer = session.call("unpin", {"reference": model})
    if session.json:
        print_json(answer)
    else:
        print_line(f"unpinned: {answer['blob_hash']}")
