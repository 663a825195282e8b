"""``peatnet schema``: the manifest's JSON Schema."""

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import print_json
from peatnet.cli.session import Session


def schema(
    ctx: typer.Context,
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Print the JSON Schema of a manifest."""
    # Late: pydantic takes longer to import than all of --help takes.
    from peatnet.models import manifest_schema  # noqa: PLC0415  # see the line above

    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    print_json(manifest_schema(), indent=not session.json)
