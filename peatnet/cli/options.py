"""Options that many verbs share, each spelled and explained once."""

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="The node's data directory. Otherwise PEATNET_DATA_DIR, otherwise ~/.local/share/peatnet.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say more on stderr: debug logs, tracebacks.")
]
Reference = Annotated[
    str,
    typer.Argument(
        metavar="MODEL[@VERSION]|HASH",
        help="A model, one version of it, or a blob's hash (8 or more digits of it will do).",
        show_default=False,
    ),
]
