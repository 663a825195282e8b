"""``peatnet limits``: what the running node may send and fetch, shown and changed."""

# ruff: noqa: PLC0415  # heavy modules are imported late: --help must answer at once

from typing import Annotated, Any

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import human_rate, note, print_json, print_line
from peatnet.cli.session import Session
from peatnet.errors import UsageError

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
    for option, text in (("--up", up), ("--down", down), ("--per-peer", per_peer)):
        if text is not None:
            _check(option, text)
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


def _check(option: str, text: str) -> None:
    """Say what is wrong with a rate by the name of the option that gave it; the node would name its own parameter."""
    from peatnet.rates import parse_rate

    try:
        parse_rate(text)
    except ValueError as exc:
        raise UsageError(f"{option}: {exc}") from exc
