"""Removing blobs: one by one, or all that nobody wants."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from peatnet.blobs.durable import is_orphan_temp, unlink_durable
from peatnet.blobs.index import DOWNLOAD
from peatnet.blobs.info import GcReport
from peatnet.blobs.layout import PARTIAL_KINDS, named_hash
from peatnet.blobs.loading import size_of
from peatnet.errors import InUse, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.blobs.hashes import Hash
    from peatnet.blobs.shelf import Shelf


def remove(shelf: Shelf, blob: Hash, *, force: bool) -> int:
    """See `Store.remove`."""
    with shelf.exclusive(blob):
        if shelf.is_open(blob):
            raise InUse(f"{blob} is being fetched", hint="stop that first")
        info = shelf.blobs.get(blob)
        reasons = shelf.index.pins().get(blob, set())
        if info is None:
            # Its own download is no reason to keep an unfinished blob.
            reasons.discard(DOWNLOAD)
            if blob not in _unfinished(shelf):
                raise NotFound(f"no blob {blob} here")
        if reasons and not force:
            raise InUse(
                f"{blob} is pinned: {', '.join(sorted(reasons))}", hint="unpin it, or use --force"
            )
        if info is None:
            size = _unfinished(shelf)[blob]
            shelf.drop_partial(blob)
        else:
            size = info.size
            with shelf.lock:
                if shelf.in_use(blob):
                    raise InUse(f"{blob} is being read", hint="try again when that has ended")
                # Under the same lock as the question: no reader can open it any more.
                del shelf.blobs[blob]
            shelf.take_out(info)
        shelf.index.unpin(blob, None)
        return size


def collect(shelf: Shelf, keep: set[Hash], *, dry_run: bool) -> GcReport:
    """See `Store.gc`."""
    report = GcReport(dry_run=dry_run)
    for blob in sorted(shelf.blobs):
        with shelf.exclusive(blob):
            wanted = blob in keep or blob in shelf.index.pins()
            with shelf.lock:
                info = shelf.blobs.get(blob)
                if info is None or wanted or shelf.in_use(blob):
                    continue
                if not dry_run:
                    # Under the same lock as the question: no reader can open it any more.
                    del shelf.blobs[blob]
            if not dry_run:
                shelf.take_out(info)
            report.removed.append((blob, info.size))
    _collect_partials(shelf, keep, report)
    for path in _garbage_files(shelf, keep):
        report.files.append((path, size_of(path)))
        if not dry_run:
            unlink_durable(path)
    return report


def _collect_partials(shelf: Shelf, keep: set[Hash], report: GcReport) -> None:
    for blob, size in sorted(_unfinished(shelf).items()):
        with shelf.exclusive(blob):
            if blob in keep or shelf.is_open(blob) or blob in shelf.index.pins():
                continue
            if not report.dry_run:
                shelf.drop_partial(blob)
            report.removed.append((blob, size))


def _unfinished(shelf: Shelf) -> dict[Hash, int]:
    """What there is any file of in ``partial/``, and the lengths of these files together."""
    sizes: dict[Hash, int] = {}
    for path in shelf.layout.scan_partial():
        name = named_hash(path, path.suffix[1:])
        if name is not None and path.suffix[1:] in PARTIAL_KINDS and _is_file(path):
            sizes[name] = sizes.get(name, 0) + size_of(path)
    return sizes


def _garbage_files(shelf: Shelf, keep: set[Hash]) -> list[Path]:
    """Files that a crash left over, and damaged blobs that nobody wants any more."""
    layout = shelf.layout
    pins = shelf.index.pins()
    found = [
        path
        for path in (*layout.scan_blobs(), *layout.scan_partial(), *layout.scan_models())
        if is_orphan_temp(path.name) and _is_file(path)
    ]
    for path in layout.scan_blobs():
        name = named_hash(path, "table")
        if name is None or name in shelf.blobs or path != layout.table(name):
            continue
        # A blob that is there but not in the index keeps its table for the rebuild.
        if not os.path.lexists(layout.blob(name)):
            found.append(path)
    for path in layout.scan_damaged():
        name = named_hash(path, "blob")
        if name is None or not _is_file(path):
            continue
        # One that is wanted again begins with what is good of it.
        if name in shelf.blobs or (name not in keep and name not in pins):
            found.append(path)
    return found


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
