"""``peatnet publish`` of several files: in batches, each file by itself published or not."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from peatnet.api.calls import MAX_FILES
from peatnet.api.client import rebuild_error
from peatnet.cli.draft import draft_manifest, look_at
from peatnet.cli.options import is_folder, mode_of
from peatnet.cli.output import counted, is_unicode, note, print_json, print_line, safe
from peatnet.cli.progress import files_bar
from peatnet.errors import PeatnetError, StorageError, UsageError
from peatnet.models import guess_from_filename

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from peatnet.cli.session import Session

# A request may have 256 KiB; one file of its own always goes in.
_MAX_BATCH_JSON = 192 * 1024
# Nobody hears of a file before its batch is done.
_MAX_BATCH_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class _File:
    """A file, the words about it in a request, and what became of it."""

    path: Path
    size: int
    params: dict[str, Any] | None = None
    error: PeatnetError | None = None
    manifest: dict[str, Any] | None = None


def expand(paths: Sequence[Path]) -> list[Path]:
    """These files, and in the place of a folder the model files in it, by name; other files there are left out.

    Raises:
        UsageError: a folder holds no model file.
        StorageError: a folder cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        if not is_folder(path):
            found.append(path)
            continue
        try:
            files = [each for each in sorted(path.iterdir()) if S_ISREG(mode_of(each))]
        except OSError as exc:
            raise StorageError(
                f"{path}: {exc.strerror}",
                hint="check who owns the folder, and its mode, or name the files one by one",
            ) from exc
        models = [each for each in files if _is_model(each)]
        if not models:
            raise UsageError(
                f"{path}: no model file in this folder",
                hint="files that end in .gguf, .safetensors, .onnx and so on are taken; name others one by one",
            )
        if len(models) < len(files):
            note(
                f"{path}: {counted(len(models), 'model file')}; "
                f"{counted(len(files) - len(models), 'other', 'others')} left out"
            )
        found += models
    return found


def publish_many(
    session: Session, paths: Sequence[Path], options: dict[str, Any], mode: str
) -> None:
    """Publish files, each under its own name, and tell of each once it is safe.

    Args:
        session: the way to the node.
        paths: of the files.
        options: manifest fields that are alike for all of them; None means "not given".
        mode: how the files get into the store.

    Raises:
        UsageError: two files would be the same model; nothing has been published.
        PeatnetError: some were not published; of the class of the first one's error.
    """
    _check_names(paths)
    files = [_File(path, _size_of(path)) for path in paths]
    failed: list[_File] = []
    with files_bar(len(files), sum(file.size for file in files)) as bar:
        for batch in _batches(files, lambda file: _draft(file, options, mode, session)):
            sent = [file for file in batch if file.params is not None]
            if sent:
                answers = session.call(
                    "publish_all",
                    {"files": [file.params for file in sent]},
                    on_progress=bar.on_progress,
                )
                for file, answer in zip(sent, answers, strict=True):
                    file.params = None
                    file.manifest = answer.get("manifest")
                    if file.manifest is None:
                        file.error = rebuild_error(answer["error"])
            for file in batch:
                _tell(file, as_json=session.json)
            failed += [file for file in batch if file.error is not None]
            bar.done(len(batch), sum(file.size for file in batch))
    if failed and (first := failed[0].error) is not None:
        raise type(first)(
            f"{len(failed)} of {len(files)} files were not published", hint="see above for each"
        )


def _is_model(path: Path) -> bool:
    return not path.name.startswith(".") and guess_from_filename(path.name).format is not None


def _check_names(paths: Sequence[Path]) -> None:
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(path.stem, path)
        if other is not path:
            raise UsageError(
                f"{other} and {path} would be the same model, {path.stem}",
                hint="a model's id is its file's name without the ending; publish one of them by itself, with --id",
            )


def _size_of(path: Path) -> int:
    with suppress(OSError):  # which is told when its turn comes
        return path.stat().st_size
    return 0


def _batches(files: Sequence[_File], draft: Callable[[_File], None]) -> Iterator[list[_File]]:
    """The files, drafted as they are needed, in as large batches as one request and patience allow."""
    batch: list[_File] = []
    size = length = 0
    for file in files:
        draft(file)
        more = 0 if file.params is None else len(json.dumps(file.params))
        full = len(batch) == MAX_FILES or length + more > _MAX_BATCH_JSON
        if batch and (full or size + file.size > _MAX_BATCH_BYTES):
            yield batch
            batch, size, length = [], 0, 0
        batch.append(file)
        size += file.size
        length += more
    if batch:
        yield batch


def _draft(file: _File, options: dict[str, Any], mode: str, session: Session) -> None:
    try:
        if not is_unicode(str(file.path)):
            raise UsageError("its path is not UTF-8", hint="give it another name")
        inspection, warnings = look_at(file.path, options.get("format"))
        given = {**options, "model_id": file.path.stem}
        manifest, remarks = draft_manifest(file.path.name, None, given, inspection)
    except PeatnetError as exc:
        file.error = exc
        return
    # Of one file they are read; of a thousand, whoever asks for it.
    for remark in (*warnings, *(remarks if session.verbose else ())):
        note(remark if str(file.path) in remark else f"{file.path}: {remark}")
    file.params = {"path": str(file.path), "manifest": manifest, "mode": mode}


def _tell(file: _File, *, as_json: bool) -> None:
    error, manifest = file.error, file.manifest
    if error is not None:
        if as_json:
            print_json({"path": str(file.path), "error": error.fields()}, indent=False)
        else:
            hint = f" ({error.hint})" if error.hint else ""
            note(f"{file.path}: not published: {error.message}{hint}")
    elif manifest is not None:
        if as_json:
            print_json({"path": str(file.path), "manifest": manifest}, indent=False)
        else:
            key = f"{manifest['model_id']}@{manifest['version']}"
            print_line(f"{manifest['blob_hash'][:12]}  {safe(key)}")
