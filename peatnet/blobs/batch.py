"""Many small blobs at once: what one blob costs in syncs and transactions is paid for all of them together.

The guarantees are those of `Shelf.install`, and the order is the same: data is synced before a row claims it, the
rows are committed before the first rename, and nothing counts as complete before the directories are synced. So a
crash leaves each blob by itself either complete (row and file) or absent: a temporary file or a row without a file,
which count for nothing. That the rows are committed all at once, and renames may reach the disk in any order, makes
no difference to a single blob.

How many files are synced together, and why that is enough, is told in `peatnet.blobs.syncing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from peatnet.blobs.clone import hard_link
from peatnet.blobs.durable import temp_path, write_new
from peatnet.blobs.giving import link_model
from peatnet.blobs.index import Row
from peatnet.blobs.info import BlobInfo
from peatnet.blobs.oserrors import os_errors
from peatnet.blobs.shelf import blob_key
from peatnet.blobs.syncing import syncing
from peatnet.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from peatnet.blobs.hashes import Hash
    from peatnet.blobs.shelf import Shelf
    from peatnet.blobs.table import ChunkTable

_READ_ONLY = 0o444
_USUAL = 0o644


@dataclass(frozen=True, slots=True)
class SmallBlob:
    """A whole blob in memory, which is what its hash and its table say.

    Args:
        hash: its name.
        table: its chunk table.
        sha256: of the whole, 64 lower-case hex digits; None where it was not computed.
        data: its bytes.
    """

    hash: Hash
    table: ChunkTable
    sha256: str | None
    data: bytes


class Link(NamedTuple):
    """A name that a complete blob is to have: ``models/<model_id>/<filename>``."""

    blob: Hash
    model_id: str
    filename: str


class _File(NamedTuple):
    """A file to be written: where at first, where in the end, what, and with which permissions."""

    temp: Path
    path: Path
    data: bytes
    mode: int


def add_small(shelf: Shelf, blobs: Sequence[SmallBlob]) -> dict[Hash, BlobInfo]:
    """See `Store.add_small`."""
    for blob in blobs:
        if blob.table.size != len(blob.data):
            raise LocalProtocolError(f"{blob.hash}: {len(blob.data)} bytes")
    wanted = {blob.hash: blob for blob in blobs}
    with shelf.exclusive(*wanted):
        infos = {name: shelf.blobs[name] for name in wanted if name in shelf.blobs}
        begun = _begun(shelf)
        new = [
            blob
            for name, blob in wanted.items()
            if name not in infos and name.hex() not in begun and not shelf.is_open(name)
        ]
        try:
            for blob in new:
                size = len(blob.data)
                shelf.space.claim(blob_key(blob.hash), size, on_disk=size)
            _install(shelf, new)
        except BaseException:
            for blob in new:
                shelf.space.release(blob_key(blob.hash))
            raise
        for blob in new:
            path = shelf.layout.blob(blob.hash)
            infos[blob.hash] = BlobInfo(blob.hash, blob.table.size, blob.sha256, blob.table, path)
            shelf.space.settle(blob_key(blob.hash))
        with shelf.lock:
            shelf.blobs.update(infos)
    for blob in new:
        shelf.wakers.wake(blob.hash)
    return infos


def link_models(shelf: Shelf, links: Sequence[Link]) -> list[Path]:
    """See `Store.link_models`."""
    targets = [shelf.layout.model_link(link.model_id, link.filename) for link in links]
    odd: list[Link] = []
    models = shelf.layout.models
    with shelf.exclusive(*{link.blob for link in links}), syncing(models) as sync:
        changed = _make_dirs(models, {target.parent for target in targets})
        for link, target in zip(links, targets, strict=True):
            if _link_new(shelf.get(link.blob).path, target):
                changed.add(target.parent)
            else:
                odd.append(link)
        sync(changed)
    for link in odd:
        # Something has the name, or the file system knows no hard links.
        link_model(shelf, *link)
    return targets


def _begun(shelf: Shelf) -> set[str]:
    """The names of blobs that there is something of: an unfinished download, or a damaged copy to begin with.

    To go on from that, and to clear it away, is not done here.
    """
    layout = shelf.layout
    return {
        path.name.partition(".")[0] for path in (*layout.scan_partial(), *layout.scan_damaged())
    }


def _install(shelf: Shelf, blobs: Sequence[SmallBlob]) -> None:
    layout, files = shelf.layout, list[_File]()
    for blob in blobs:
        path = layout.blob(blob.hash)
        if not blob.table.is_plain:
            table = layout.table(blob.hash)
            files.append(_File(temp_path(path.parent), table, blob.table.encode(), _USUAL))
        files.append(_File(temp_path(path.parent), path, blob.data, _READ_ONLY))
    directories = {file.path.parent for file in files}
    with syncing(layout.blobs) as sync:
        made = _make_dirs(layout.blobs, directories)
        try:
            for file in files:
                write_new(file.temp, file.data, file.mode)
            sync([*made, *(file.temp for file in files)])
            shelf.index.put_all(
                Row(b.hash, b.table.size, b.table.chunk_size, b.table.table_hash, b.sha256)
                for b in blobs
            )
            for file in files:
                with os_errors("renaming to", file.path):
                    file.temp.replace(file.path)
        except BaseException:
            for file in files:
                file.temp.unlink(missing_ok=True)
            raise
        sync(directories)


def _make_dirs(parent: Path, directories: Iterable[Path]) -> set[Path]:
    """Make those of these directories in ``parent`` that are missing; returns what is to be synced then."""
    made = False
    for path in directories:
        with os_errors("creating the directory", path):
            try:
                path.mkdir()
            except FileExistsError:
                if not path.is_dir():
                    raise
            else:
                made = True
    return {parent} if made else set()


def _link_new(blob: Path, target: Path) -> bool:
    """Make a name that is not there yet; False where it is, or cannot be made."""
    with os_errors("linking", target):
        try:
            return hard_link(blob, target)
        except FileExistsError:
            return False
