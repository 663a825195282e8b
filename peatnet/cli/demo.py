"""``peatnet demo``: the whole product in one minute, on this machine."""

# ruff: noqa: PLC0415  # heavy modules are imported late: --help must answer at once

from pathlib import Path
from typing import Annotated

import typer

from peatnet.cli.options import Json, Verbose, typed_path
from peatnet.cli.session import Session


def demo(
    ctx: typer.Context,
    *,
    nodes: Annotated[
        int,
        typer.Option(
            "--nodes", "-n", min=1, max=32, help="Nodes that fetch, beside the publisher."
        ),
    ] = 3,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            parser=typed_path,
            metavar="PATH",
            help="Publish this file. Otherwise a safetensors file of 64 MiB is made.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show peatnet at work: a publisher and other nodes as real processes, the last one joining late.

    Everything happens in a temporary directory and over the loopback, and is gone afterwards.
    """
    from peatnet.cli.demo_run import run_demo

    session = Session(ctx, json=json, verbose=verbose)
    run_demo(nodes=nodes, file=file, as_json=session.json, keep_logs=session.verbose)
