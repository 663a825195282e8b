"""``peatnet limits``: what the running node may send and fetch, shown and changed."""

from typing import Annotated, Any

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import human_rate, note, print_json, print_line
from peatnet.cli.session import Session

_LABELS = {
    "upload_limit": "up",
    "download_limit": "down",
    "peer_upload_limit": "up, each peer",
}


def limits(
    ctx: typer.Context,
    *,
    up: Annotated[
        str | None,
        typer.Option(
            "--up",
            metavar="RATE",
            help="All uploads together: 10MB/s, 100Mbit/s, 0 for no limit.",
            show_default=False,
        ),
    ] = None,
    down: Annotated[
        str | None,
        typer.Option("--down", metavar="RATE", help="All downloads together.", show_default=False),
    ] = None,
    per_peer: Annotated[
        str | None,
        typer.Option(
            "--per-peer", metavar="RATE", help="Uploads to any one peer.", show_default=False
        ),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show the node's limits, or change those of the running node until it is restarted.

    Limits that are to last are set in config.toml: upload_limit, download_limit, peer_upload_limit.
    """
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    given = {"upload_limit": up, "download_limit": down, "peer_upload_limit": per_peer}
    params: dict[str, Any] = {name: rate for name, rate in given.items() if rate is not None}
    now = session.call("limits", params)
    if session.json:
        print_json(now)
    else:
        for name, label in _LABELS.items():
            rate = now[name]
            print_line(f"{label:<14} {'no limit' if rate is None else human_rate(rate)}")
    if params:
        note("this lasts until the node is restarted; config.toml holds what lasts longer")
