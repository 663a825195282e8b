"""``peatnet up``: run the node of this machine."""

# ruff: noqa: PLC0415  # heavy modules are imported late: --help must answer at once

import gc
from enum import StrEnum
from typing import Annotated, Any

import typer

from peatnet.cli.options import DataDir, Verbose
from peatnet.cli.session import Session
from peatnet.cli.surroundings import end_at_once_when_told
from peatnet.errors import UsageError

# Where an option is not called as the setting is.
_OPTIONS = {"peers": "peer", "trusted_publishers": "trust"}


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
    end_at_once_when_told()
    session = Session(ctx, data_dir=data_dir, verbose=verbose)
    _up(
        session,
        listen=listen,
        peers=peer,
        mdns=mdns,
        trusted_publishers=trust,
        fetch=fetch.value if fetch else None,
        name=name,
        bulk=bulk,
        bulk_port=bulk_port,
    )


def _up(session: Session, **given: Any) -> None:
    """Run a node with what was given in place of config.toml's settings, or, of some lists, in addition to them.

    Raises:
        UsageError: an option's value cannot be used.
        PeatnetError: the node could not start, or could not go on.
    """
    from peatnet.cli.logs import configure_logging
    from peatnet.config import BadSetting, load_config
    from peatnet.ledger import parse_peer_id
    from peatnet.net.addresses import parse_dial_address, parse_listen_address

    configure_logging(verbose=session.verbose, daemon=True)
    # What config.toml says of these is the node's to complain of.
    for key, parse in (
        ("listen", parse_listen_address),
        ("peers", parse_dial_address),
        ("trusted_publishers", parse_peer_id),
    ):
        given[key] = given[key] or None  # typer gives an empty list where there was none
        for text in given[key] or ():
            parse(text)
    base = load_config(session.invocation.data_dir)
    for key in ("peers", "trusted_publishers"):
        if given[key] is not None:
            given[key] = [*getattr(base, key), *given[key]]
    try:
        config = load_config(session.invocation.data_dir, **given)
    except BadSetting as exc:
        option = _OPTIONS.get(exc.key, exc.key.replace("_", "-"))
        raise UsageError(f"--{option}: {exc.reason}", hint="see `peatnet up --help`") from exc
    # All that a node needs takes a second or so, so not before what was given has turned out to be right. What imports
    # make stays: the collector would look through it again and again meanwhile, and find nothing.
    gc.disable()
    from peatnet.cli.run_node import run_node

    gc.freeze()
    gc.enable()
    run_node(config)
