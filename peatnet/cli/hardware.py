"""``peatnet hardware``: what this machine has, as models' requirements are held against it."""

from typing import Any

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import plain, print_json, print_table
from peatnet.cli.session import Session


def hardware(
    ctx: typer.Context,
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what this machine has: processor, memory, disk, GPUs, and how each was found out.

    Models whose requirements it does not meet are not fetched by themselves. Where something is wrong or
    missing, `[hardware]` in config.toml sets it right.
    """
    # Late: --help must answer at once.
    from peatnet.cli.logs import configure_logging  # noqa: PLC0415  # see the line above
    from peatnet.deploy.probe import probe  # noqa: PLC0415  # likewise

    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    configure_logging(verbose=session.verbose)
    found = probe(session.config.data_dir, session.config.hardware.overrides()).as_json()
    if session.json:
        print_json(found)
        return
    print_table(
        ("WHAT", "HERE", "FROM"),
        [(name, plain(_shown(name, found)), plain(how)) for name, how in found["found"].items()],
        shrinking=[{"HERE": 8, "FROM": 8}],
    )


def _shown(name: str, hardware: dict[str, Any]) -> str:
    value = hardware[name]
    if name == "gpus":
        return ", ".join(gpu["name"] for gpu in value) or "none"
    if name == "execution_providers":
        return ", ".join(value)
    return f"{value} MB" if name.endswith("_mb") else str(value)
