"""The links ``models/<id>/current``, through which runtimes find the model in service. Blocks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peatnet.blobs import Hash
from peatnet.blobs.clone import is_copy
from peatnet.blobs.durable import is_orphan_temp, make_dir, symlink_durable, unlink_durable
from peatnet.blobs.layout import Layout
from peatnet.blobs.oserrors import os_errors
from peatnet.errors import NotFound

if TYPE_CHECKING:
    from peatnet.deploy.activation import Candidate

CURRENT: Final = "current"


class Slots:
    """The links below one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._layout = Layout(data_dir)

    def link(self, slot: str) -> Path:
        """Where the link of a slot is."""
        return self.data_dir / "models" / slot / CURRENT

    def relative(self, path: Path) -> str:
        """A path as it is remembered: relative where it is below the data directory, which may be moved."""
        absolute = Path(os.path.abspath(path))  # noqa: PTH100  # not resolve(): links on the way may change
        below = absolute.is_relative_to(self.data_dir)
        return str(absolute.relative_to(self.data_dir) if below else absolute)

    def absolute(self, path: str) -> Path:
        """A path that was remembered."""
        return self.data_dir / path

    def file_of(self, candidate: Candidate) -> Path:
        """The file of a candidate: where it was put, or its blob, where that name is another file's meanwhile.

        Raises:
            NotFound: it is gone.
        """
        path = self.absolute(candidate.path)
        blob = None if candidate.blob is None else self._layout.blob(Hash.parse(candidate.blob))
        if blob is not None and blob.is_file() and not _is_of(path, blob):
            return blob
        if not path.is_file():
            raise NotFound(f"the file of {candidate} is gone: {path}", hint="fetch it again")
        return path

    def other(self, slot: str, candidate: Candidate) -> Path | None:
        """The file that the link of a slot leads to, where that is there and is not this candidate's.

        Raises:
            NotFound: the candidate's file is gone.
        """
        link, target = self.link(slot), self.file_of(candidate)
        if not link.is_symlink() or _is_of(link, target):
            return None
        led_to = link.parent / link.readlink()
        return led_to if os.path.lexists(led_to) else None

    def set(self, slot: str, candidate: Candidate | None) -> None:
        """Have the link of a slot lead to a candidate's file, or have none.

        Raises:
            NotFound: the file is gone.
            StorageError, DiskFull: it was refused. In all three cases the link is as it was.
        """
        link = self.link(slot)
        self._tidy(link.parent)
        if candidate is not None:
            target = self.file_of(candidate)
            make_dir(link.parent)
            # Relative, so that it holds where the directory is mounted elsewhere.
            symlink_durable(os.path.relpath(target, link.parent), link)
        elif link.is_symlink():
            unlink_durable(link)

    def _tidy(self, directory: Path) -> None:
        """Remove what a crash between making a link and putting it in its place has left."""
        if not directory.is_dir():
            return
        with os_errors("reading the directory", directory):
            left = [path for path in directory.iterdir() if is_orphan_temp(path.name)]
        unlink_durable(*(path for path in left if path.is_symlink()))


def _is_of(path: Path, blob: Path) -> bool:
    try:
        return is_copy(path.stat(), blob.stat())
    except OSError:
        return False
