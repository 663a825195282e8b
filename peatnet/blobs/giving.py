"""Blobs for the user: exported copies, and links under a model's name."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from peatnet.blobs.clone import export_file, place_link
from peatnet.blobs.durable import make_dir
from peatnet.blobs.hashing import ChunkHasher
from peatnet.blobs.oserrors import os_errors
from peatnet.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peatnet.blobs.hashes import Hash
    from peatnet.blobs.hashing import Progress
    from peatnet.blobs.info import BlobInfo
    from peatnet.blobs.shelf import Shelf
    from peatnet.blobs.table import ChunkTable


def export(
    shelf: Shelf, blob: Hash, out: Path, *, force: bool, progress: Progress | None = None
) -> None:
    """See `Store.export`."""
    if out.is_dir():
        raise UsageError(f"{out} is a directory", hint="give the name of a file")
    with _opened(shelf, blob) as (info, source):
        checker = Checker(blob, info.table)
        export_file(source, info.size, out, force=force, checker=checker, progress=progress)


def link_model(shelf: Shelf, blob: Hash, model_id: str, filename: str) -> Path:
    """See `Store.link_model`."""
    target = shelf.layout.model_link(model_id, filename)
    with _opened(shelf, blob) as (info, source):
        make_dir(target.parent)
        place_link(info.path, source, target, checker=Checker(blob, info.table))
    return target


class Checker:
    """Compares the chunks of a blob that is being copied with its table."""

    def __init__(self, blob: Hash, table: ChunkTable) -> None:
        self._blob = blob
        self._table = table
        self._hasher = ChunkHasher(table.chunk_size)
        self.update = self._hasher.update

    def finish(self) -> None:
        """See `peatnet.blobs.clone.Checker`."""
        if self._hasher.digests() != self._table.digests:
            raise IntegrityError(
                f"the stored blob {self._blob} is damaged",
                hint="run `peatnet verify`, then fetch it again",
            )


@contextmanager
def _opened(shelf: Shelf, blob: Hash) -> Iterator[tuple[BlobInfo, int]]:
    with shelf.exclusive(blob):
        info = shelf.get(blob)
        with os_errors("opening", info.path):
            source = os.open(info.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield info, source
        finally:
            os.close(source)
