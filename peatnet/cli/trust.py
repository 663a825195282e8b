"""``peatnet trust``: whose models this node fetches by itself."""

from typing import Annotated

import typer

from peatnet.cli.groups import GroupedVerbs
from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import note, print_json, print_line
from peatnet.cli.session import Session

app = typer.Typer(
    help="Choose whose models this node fetches by itself.",
    cls=GroupedVerbs,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PeerId = Annotated[
    str,
    typer.Argument(
        metavar="PEER_ID", help="What `peatnet id` prints on their machine.", show_default=False
    ),
]


@app.command("add")
def add(
    ctx: typer.Context,
    peer_id: PeerId,
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Trust a publisher: its models are fetched by themselves, its commands are obeyed."""
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    session.call("trust_add", {"peer_id": peer_id})
    _answer(session, f"trusted: {peer_id}")


@app.command("remove")
def remove(
    ctx: typer.Context,
    peer_id: PeerId,
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Trust a publisher no longer. What was fetched from it stays."""
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    session.call("trust_remove", {"peer_id": peer_id})
    _answer(session, f"no longer trusted: {peer_id}")


@app.command("list")
def list_(
    ctx: typer.Context,
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the trusted publishers, one a line."""
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    trusted = session.call("trust_list")
    if session.json:
        print_json(trusted)
    elif trusted:
        print_line("\n".join(trusted))
    else:
        note("nobody is trusted yet: `peatnet trust add PEER_ID`")


def _answer(session: Session, text: str) -> None:
    if session.json:
        print_json(session.call("trust_list"))
    else:
        print_line(text)
