"""``peatnet publish``: offer a model file to all nodes."""

# ruff: noqa: PLC0415  # heavy modules are imported late: --help must answer at once

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from peatnet.cli.options import DataDir, Json, Verbose, is_folder, typed_path
from peatnet.cli.output import note, print_json
from peatnet.cli.session import Session
from peatnet.errors import UsageError


class Mode(StrEnum):
    """How the file gets into the store; the words of ``peatnet.blobs.AddMode``."""

    AUTO = "auto"
    COPY = "copy"
    REFLINK = "reflink"
    HARDLINK = "hardlink"
    MOVE = "move"


def publish(
    ctx: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            parser=typed_path,
            metavar="FILE...",
            help="The model file; or several, or folders of them.",
            show_default=False,
        ),
    ],
    *,
    model_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="ID",
            help="What others call the model, such as ministral-3b.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Its name for people. Otherwise the id.",
            show_default=False,
        ),
    ] = None,
    model_type: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="detector, llm, tracker, embedder, vlm, whisper or custom.",
            show_default=False,
        ),
    ] = None,
    model_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="onnx, gguf, tensorrt, pytorch or safetensors.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            metavar="VERSION",
            help="Its version. Otherwise 1.0.0.",
            show_default=False,
        ),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization",
            metavar="Q",
            help="F32, F16, BF16, INT8, Q4_0, Q4_K_M, …",
            show_default=False,
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="A web address with the same bytes, for when no peer has them.",
            show_default=False,
        ),
    ] = None,
    model_license: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="SPDX",
            help="Its license. Otherwise Apache-2.0.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="WHO",
            help="Who made it, such as Mistral AI.",
            show_default=False,
        ),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(
            "--feature",
            metavar="WORD",
            help="Something that it can do, such as chat; may be repeated.",
            show_default=False,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            parser=typed_path,
            metavar="F.json",
            help="A manifest with everything else; the options above win over it.",
            show_default=False,
        ),
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(
            "--mode",
            help="auto shares the blocks of a file over 256 KiB where the file system can, else copies.",
        ),
    ] = Mode.AUTO,
    move: Annotated[bool, typer.Option("--move", help="The same as --mode move.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Offer a model file to all nodes, and print its manifest.

    What is not given is taken from the header of a GGUF, safetensors or ONNX file, or guessed from the file's
    name: `peatnet inspect FILE` shows it beforehand. The store takes its own copy of the file.

    Several files, or the model files of a folder, are published each as a model of its own, whose id is the file's
    name without its ending, and a line is printed for each when it is safely there. Many small files take far less
    time so than one by one. An error with one of them holds up none of the others.
    """
    from peatnet.cli.draft import draft_manifest, look_at
    from peatnet.cli.progress import hash_bar

    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    if move and mode not in (Mode.AUTO, Mode.MOVE):
        raise UsageError(f"--move and --mode {mode} contradict each other")
    way = (Mode.MOVE if move else mode).value
    options = {
        "model_id": model_id,
        "name": name,
        "model_type": model_type,
        "format": model_format,
        "version": version,
        "quantization": quantization,
        "download_url": url,
        "license": model_license,
        "source": source,
        "features": feature,
    }
    paths = [file.expanduser().absolute() for file in files]
    if len(paths) > 1 or is_folder(paths[0]):
        from peatnet.cli.publish_many import expand, publish_many

        found = expand(paths)
        for option, value in (
            ("--id", model_id),
            ("--name", name),
            ("--url", url),
            ("--manifest", manifest),
        ):
            if value is not None:
                raise UsageError(
                    f"{option} is for one file, and several are to be published",
                    hint="publish that one by itself",
                )
        publish_many(session, found, options, way)
        return
    (path,) = paths
    inspection, warnings = look_at(path, model_format)
    drafted, remarks = draft_manifest(path.name, manifest, options, inspection)
    for remark in (*warnings, *remarks):
        note(remark)
    params = {"path": str(path), "manifest": drafted, "mode": way}
    with hash_bar(path.name) as update:
        published = session.call("publish", params, on_progress=update)
    print_json(published, indent=not session.json)
