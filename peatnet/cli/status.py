"""``peatnet status``: where a model stands on every node, once or for as long as somebody watches."""

# ruff: noqa: PLC0415  # heavy modules are imported late: --help must answer at once

import sys
from typing import Annotated, Any

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import note, print_json, print_line
from peatnet.cli.session import Session


def status(
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
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on showing it, until Ctrl-C.")
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show how far every node is with a model, why it is not there where it is not, and when all will be done.

    With --watch and --json, each line is a JSON object.
    """
    from peatnet.cli.status_view import render

    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    running = session.node_is_running()
    if watch and running:
        _watch(session, model)
        return
    view = session.call("status", {"reference": model})
    if session.json:
        print_json(view)
    else:
        print_line(render(view))
    if not running:
        note("no node is running here, so no other is heard: `peatnet up` runs one")


def _watch(session: Session, model: str) -> None:
    from peatnet.cli.status_view import live_view, render

    params = {"reference": model, "watch": True}
    if session.json:
        session.call("status", params, on_progress=lambda view: print_json(view, indent=False))
    elif sys.stdout.isatty():
        with live_view() as show:
            session.call("status", params, on_progress=show)
    else:
        last: list[str] = []

        def tell(view: dict[str, Any]) -> None:
            text = render(view)
            if [text] != last:
                print_line(text if not last else f"\n{text}")
                last[:] = [text]

        session.call("status", params, on_progress=tell)
