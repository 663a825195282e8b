"""Options that many verbs share, each spelled and explained once."""

from pathlib import Path
from stat import S_ISDIR
from typing import Annotated

import typer


def typed_path(text: str) -> Path:
    """A path, for the ``parser`` of whatever takes one: as it was typed, and not looked at.

    Click would refuse what this person may not read, as a wrong use of the command. Whoever opens it says what is wrong
    with it, and what to do; and the node may be allowed what this person is not.

    Raises:
        BadParameter: it is empty, as what a shell makes of a variable that is not set; it would mean the working directory.
    """
    if not text:
        raise typer.BadParameter("it is empty; is a variable not set?")
    return Path(text)


def is_folder(path: Path) -> bool:
    """Whether it is a folder, for all that this person may see."""
    return S_ISDIR(mode_of(path))


def mode_of(path: Path) -> int:
    """The kind and the mode of a file; 0 where there is none, or this person may not look for it."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        parser=typed_path,
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
