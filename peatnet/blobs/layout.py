"""Where things are in the data directory; names come from parsed hashes only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from peatnet.blobs.durable import make_dir
from peatnet.blobs.hashes import Hash
from peatnet.blobs.oserrors import os_errors
from peatnet.errors import StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


PARTIAL_KINDS = ("blob", "loose", "note", "have", "table")
"""The suffixes of the files that an unfinished download may have, the data first."""


class Layout:
    """The directories of a store below ``root``, and the names of the files in them.

    ``damaged`` is not created before something is put there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.partial = root / "partial"
        self.models = root / "models"
        self.damaged = root / "damaged"

    def create(self) -> None:
        """Make the directories that are missing.

        Raises:
            StorageError: one cannot be made or used, or something that is no directory is in the way.
        """
        for directory in (self.blobs, self.partial, self.models):
            make_dir(directory)
            if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
                raise StorageError(
                    f"the directory {directory} cannot be used: permission denied",
                    hint="check its owner and mode",
                )

    def blob(self, blob: Hash) -> Path:
        """The complete blob."""
        text = blob.hex()
        return self.blobs / text[:2] / f"{text}.blob"

    def table(self, blob: Hash) -> Path:
        """The chunk table of the complete blob."""
        return self.blob(blob).with_suffix(".table")

    def partial_file(self, blob: Hash, kind: str) -> Path:
        """A file of an unfinished download: blob, table, have, loose or note."""
        return self.partial / f"{blob.hex()}.{kind}"

    def damaged_blob(self, blob: Hash) -> Path:
        """Where a blob goes that is not what its name says."""
        return self.damaged / f"{blob.hex()}.blob"

    def model_link(self, model_id: str, filename: str) -> Path:
        """``models/<model_id>/<filename>``.

        Raises:
            UsageError: one of the two could leave its folder.
        """
        for part in (model_id, filename):
            if (
                not part
                or part.startswith(".")
                or len(os.fsencode(part)) > 255
                or any(character in part for character in "/\\\0")
            ):
                raise UsageError(f"{part[:80]!r} cannot be the name of a file")
        return self.models / model_id / filename

    def scan_blobs(self) -> Iterator[Path]:
        """Every file in ``blobs/*/``, foreign ones too."""
        for directory in _entries(self.blobs):
            if directory.is_dir() and not directory.is_symlink():
                yield from _entries(directory)

    def scan_models(self) -> Iterator[Path]:
        """Every file in ``models/*/``."""
        for directory in _entries(self.models):
            if directory.is_dir() and not directory.is_symlink():
                yield from _entries(directory)

    def scan_partial(self) -> Iterator[Path]:
        """Everything in ``partial/``, foreign things too."""
        return _entries(self.partial)

    def scan_damaged(self) -> Iterator[Path]:
        """Everything in ``damaged/``."""
        return _entries(self.damaged) if self.damaged.is_dir() else iter(())


def named_hash(path: Path, kind: str) -> Hash | None:
    """The hash that a file is named by; None when it is a foreign file or of another kind.

    Args:
        path: of the file.
        kind: its suffix without the dot.
    """
    stem, dot, suffix = path.name.partition(".")
    if suffix != kind or not dot or stem != stem.lower():
        return None
    try:
        return Hash.parse(stem)
    except UsageError:
        return None


def _entries(directory: Path) -> Iterator[Path]:
    with os_errors("reading the directory", directory):
        names = sorted(os.listdir(directory))  # noqa: PTH208 - iterdir() makes no promise when it raises
    return (Path(directory, name) for name in names)
