"""``peatnet get``: fetch a model from whoever has it."""

# ruff: noqa: PLC0415  # heavy modules are imported late: --help must answer at once

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from peatnet.cli.options import DataDir, Json, Reference, Verbose, typed_path
from peatnet.cli.output import human_size, human_time, note, print_json, print_line
from peatnet.cli.session import Session


class Source(StrEnum):
    """Where the bytes may come from; the same words as ``peatnet.views.SourceChoice``, without its import."""

    ANY = "any"
    PEERS = "peers"
    HTTP = "http"


def get(
    ctx: typer.Context,
    model: Reference,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=typed_path,
            metavar="PATH",
            help="Leave the verified file here.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        Source, typer.Option("--source", help="Take bytes from peers, the manifest's URL, or any.")
    ] = Source.ANY,
    priority: Annotated[
        int,
        typer.Option(
            "--priority", min=1, max=5, help="How urgent it is among all fetches: 1 is the most."
        ),
    ] = 3,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file that --out names.")
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Fetch a model and print the verified file's path.

    Bytes come from all peers that have some of them, and from the manifest's URL when no peer delivers.
    An interrupted get resumes where it stopped.
    """
    from peatnet.cli.progress import describe_sources, fetch_bar

    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    params: dict[str, Any] = {
        "reference": model,
        "source": source.value,
        "priority": priority,
        "force": force,
    }
    if out is not None:
        # The node that does it may have another working directory.
        params["out"] = str(out.expanduser().absolute())
    with fetch_bar(model) as update:
        result = session.call("get", params, on_progress=update)
    if session.json:
        print_json(result)
        return
    if sys.stderr.isatty():
        note(_summary(result, describe_sources(result["bytes_by_source"])))
    print_line(result["path"])


def _summary(result: dict[str, Any], sources: str) -> str:
    size, seconds = result["size_bytes"], result["seconds"]
    if not sources:
        return f"{human_size(size)}, here already"
    rate = (
        f" ({human_size(sum(result['bytes_by_source'].values()) / seconds)}/s)" if seconds else ""
    )
    return f"{human_size(size)} in {human_time(seconds)}{rate}, from {sources}; verified"
