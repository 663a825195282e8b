"""``peatnet up``: run the node of this machine."""

# ruff: noqa: PLC0415  # heavy modules are imported late: --help must answer at once

from enum import StrEnum
from typing import Annotated

import typer

from peatnet.cli.options import DataDir, Verbose
from peatnet.cli.session import Session


class Fetch(StrEnum):
    """Which trusted models to fetch unasked; the words of ``peatnet.config.FetchPolicy``."""

    ALL = "all"
    FITTING = "fitting"
    NONE = "none"


def up(
    ctx: typer.Context,
    *,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            "--listen",
            metavar="MULTIADDR",
            help="Listen here; may be repeated. Otherwise config.toml's, otherwise /ip4/0.0.0.0/tcp/7411.",
            show_default=False,
        ),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            "--peer",
            metavar="MULTIADDR",
            help="Connect to this node and stay connected; may be repeated.",
            show_default=False,
        ),
    ] = None,
    mdns: Annotated[
        bool | None,
        typer.Option(
            "--mdns/--no-mdns", help="Find nodes on the local network.", show_default=False
        ),
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            "--trust",
            metavar="PEER_ID",
            help="Trust this publisher while the node runs; may be repeated.",
            show_default=False,
        ),
    ] = None,
    fetch: Annotated[
        Fetch | None,
        typer.Option(
            "--fetch",
            help="Models of trusted publishers to fetch unasked: all, those that run here (default), none.",
            show_default=False,
        ),
    ] = None,
    bulk: Annotated[
        bool | None,
        typer.Option(
            "--bulk/--no-bulk",
            help="Have bulk lanes, which are several times as fast as libp2p streams.",
            show_default=False,
        ),
    ] = None,
    bulk_port: Annotated[
        int | None,
        typer.Option(
            "--bulk-port",
            metavar="PORT",
            min=0,
            max=65_535,
            help="Listen for bulk lanes on this TCP port. Otherwise config.toml's, otherwise the port after the first "
            "--listen address's.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="What the node is called in the fleet. Otherwise config.toml's, otherwise the machine's name.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    verbose: Verbose = False,
) -> None:
    """Run a node until SIGTERM or Ctrl-C.

    The first line on stdout, printed when the node is ready, is one JSON object with its peer_id and its addrs,
    which other machines give to `--peer`. Logs go to stderr.
    """
    from peatnet.cli.logs import configure_logging
    from peatnet.cli.run_node import run_node
    from peatnet.config import load_config
    from peatnet.ledger import parse_peer_id
    from peatnet.net.addresses import parse_dial_address, parse_listen_address

    session = Session(ctx, data_dir=data_dir, verbose=verbose)
    configure_logging(verbose=session.verbose, daemon=True)
    # What config.toml says of these is the node's to complain of.
    for texts, parse in (
        (listen, parse_listen_address),
        (peer, parse_dial_address),
        (trust, parse_peer_id),
    ):
        for text in texts or ():
            parse(text)
    base = load_config(session.invocation.data_dir)
    config = load_config(
        session.invocation.data_dir,
        listen=listen or None,
        peers=[*base.peers, *peer] if peer else None,
        mdns=mdns,
        trusted_publishers=[*base.trusted_publishers, *trust] if trust else None,
        fetch=fetch.value if fetch else None,
        name=name,
        bulk=bulk,
        bulk_port=bulk_port,
    )
    run_node(config)
