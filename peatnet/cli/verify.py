"""``peatnet verify``: hash what the store holds and compare."""

from typing import Annotated, Any

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import counted, human_size, note, print_json, print_line
from peatnet.cli.session import Session
from peatnet.errors import IntegrityError, StorageError


def verify(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL[@VERSION]|HASH]",
            help="Verify this one only. Otherwise everything.",
            show_default=False,
        ),
    ] = None,
    *,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="First rebuild the index from the blob files.")
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Hash the stored bytes again and compare.

    What is damaged is moved aside, never deleted, and no longer served; the command then ends with the
    exit code for damage (15). What cannot be read for another reason, such as its mode, is told and left as it is (22).
    """
    # Late: --help must answer at once.
    from peatnet.cli.progress import hash_bar  # noqa: PLC0415  # see the line above

    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    params = {"reference": model, "rebuild": rebuild}
    with hash_bar(model or "all blobs", "verifying") as update:
        report = session.call("verify", params, on_progress=update)
    if session.json:
        print_json(report)
    elif report["ok"]:
        print_line(
            f"verified: {counted(report['checked'], 'blob')}, {human_size(report['bytes_read'])}, none damaged"
        )
    _tell(report)
    if report["damaged"] or report["missing"]:
        raise IntegrityError(
            f"{counted(len(report['damaged']), 'blob is', 'blobs are')} damaged, "
            f"{counted(len(report['missing']), 'is', 'are')} missing",
            hint="`peatnet get` fetches a model again",
        )
    if not report["ok"]:
        raise StorageError(
            f"{counted(len(report['unchecked']), 'blob')} could not be checked, and nothing was done to them",
            hint="see to the reason (who owns the files, their modes, ulimit -n), then run it again",
        )


def _tell(report: dict[str, Any]) -> None:
    """What there is to say beside how many are good."""
    for blob_hash in report["restored"]:
        note(
            f"put back: {blob_hash}: its file was gone, and its name under models/ still led to it"
        )
    if report["rebuilt"]:
        note(
            f"entered in the index: {counted(report['rebuilt'], 'blob')}; gc keeps each until `peatnet unpin HASH`, or until a trusted "
            "publisher's manifest names it"
        )
    for path in report["unindexed"]:
        note(f"not in the index, `peatnet verify --rebuild` enters it: {path}")
    for path in report["foreign"]:
        note(f"not peatnet's, left alone: {path}")
    for damage in report["damaged"]:
        note(f"damaged: {damage['blob_hash']}: {damage['reason']}; moved to {damage['moved_to']}")
    for blob_hash in report["missing"]:
        note(f"missing: {blob_hash}: its file is gone")
    for unchecked in report["unchecked"]:
        note(f"not checked: {unchecked['blob_hash']}: {unchecked['reason']}")
