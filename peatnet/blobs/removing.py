"""Removing blobs: one by one, or all that nobody wants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peatnet.blobs.durable import is_orphan_temp, unlink_durable
from peatnet.blobs.index import DOWNLOAD
from peatnet.blobs.info import GcReport
from peatnet.blobs.layout import PARTIAL_KINDS, named_hash
from peatnet.blobs.loading import size_of
from peatnet.blobs.restoring import has_file
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
    layout = shelf.layout
    for path in (*layout.scan_blobs(), *layout.scan_partial(), *layout.scan_models()):
        if is_orphan_temp(path.name) and _is_file(path):
            _collect_file(path, report)
    for path in layout.scan_blobs():
        _collect_table(shelf, path, report)
    for path in layout.scan_damaged():
        _collect_damaged(shelf, path, keep, report)
    return report


def _collect_partials(shelf: Shelf, keep: set[Hash], report: GcReport) -> None:
    for blob, size in sorted(_unfinished(shelf).items()):
        with shelf.exclusive(blob):
            if shelf.is_open(blob):
                continue
            if blob in shelf.blobs:
                # What is left of its download is of no use to anybody.
                for path in _files_of(shelf, blob):
                    _collect_file(path, report)
                continue
            if blob in keep or blob in shelf.index.pins():
                continue
            if not report.dry_run:
                shelf.drop_partial(blob)
            report.removed.append((blob, size))


def _files_of(shelf: Shelf, blob: Hash) -> list[Path]:
    named = (shelf.layout.partial_file(blob, kind) for kind in PARTIAL_KINDS)
    return [path for path in named if _is_file(path)]


def _unfinished(shelf: Shelf) -> dict[Hash, int]:
    """What there is any file of in ``partial/``, and the lengths of these files together."""
    sizes: dict[Hash, int] = {}
    for path in shelf.layout.scan_partial():
        name = named_hash(path, path.suffix[1:])
        if name is not None and path.suffix[1:] in PARTIAL_KINDS and _is_file(path):
            sizes[name] = sizes.get(name, 0) + size_of(path)
    return sizes


def _collect_table(shelf: Shelf, path: Path, report: GcReport) -> None:
    """The table of a blob that is gone."""
    name = named_hash(path, "table")
    if name is None or path != shelf.layout.table(name):
        return
    # Whoever puts a blob in has its table on disk first.
    with shelf.idle(name) as idle:
        # A blob that is there but not in the index keeps its table for the rebuild.
        if idle and name not in shelf.blobs and not has_file(shelf, name):
            _collect_file(path, report)


def _collect_damaged(shelf: Shelf, path: Path, keep: set[Hash], report: GcReport) -> None:
    """A damaged blob that nobody wants any more; one that is wanted again begins with what is good of it."""
    name = named_hash(path, "blob")
    if name is None or not _is_file(path):
        return
    with shelf.idle(name) as idle:
        unwanted = name not in keep and name not in shelf.index.pins()
        if idle and (name in shelf.blobs or unwanted):
            _collect_file(path, report)


def _collect_file(path: Path, report: GcReport) -> None:
    report.files.append((path, size_of(path)))
    if not report.dry_run:
        unlink_durable(path)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
