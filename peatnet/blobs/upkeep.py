"""Looking after the blobs that are there: verify them, rebuild the index."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from blake3 import blake3

from peatnet.blobs.durable import is_orphan_temp, is_temp
from peatnet.blobs.hashing import ChunkHasher, hash_file, pump
from peatnet.blobs.index import REBUILT, Row
from peatnet.blobs.info import BlobInfo, Damage, Unchecked, VerifyReport
from peatnet.blobs.layout import named_hash
from peatnet.blobs.loading import size_of
from peatnet.blobs.restoring import has_file
from peatnet.blobs.shelf import blob_key, make_read_only, read_table
from peatnet.errors import IntegrityError, StorageError, UsageError
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from peatnet.blobs.hashes import Hash
    from peatnet.blobs.shelf import Shelf

    Progress = Callable[[int], None]

_log = get_logger(__name__)

# What the disk says of bytes that it has lost, and the ways in which something that is no file answers. Anything else, such as
# too many open files or a permission, tells nothing of the bytes.
_DAMAGE = frozenset(
    {errno.EIO, errno.EBADMSG, errno.EUCLEAN}
    | {errno.EISDIR, errno.ENXIO, errno.ELOOP, errno.ENOENT}
)


def verify(shelf: Shelf, only: Hash | None, progress: Progress | None) -> VerifyReport:
    """See `Store.verify`."""
    report = VerifyReport()
    with shelf.lock:
        infos = [shelf.blobs[name] for name in sorted(shelf.blobs)]
    if only is not None:
        infos = [shelf.get(only)]
    total = 0
    for info in infos:
        base = total

        def step(done: int, base: int = base) -> None:
            if progress is not None:
                progress(base + done)

        _verify_one(shelf, info, step, report)
        total += info.size
    if only is None:
        _look_at_the_others(shelf, report)
        report.unindexed.extend(unindexed(shelf))
        report.foreign.extend(_foreign(shelf))
    return replace(report, bytes_read=total)


def _verify_one(shelf: Shelf, info: BlobInfo, progress: Progress, report: VerifyReport) -> None:
    blob = info.hash
    with shelf.exclusive(blob):
        if shelf.blobs.get(blob) is not info:
            return
        bad: tuple[int, ...] = ()
        try:
            bad, whole = _compare(info, progress)
        except OSError as exc:
            reason = f"cannot be read: {exc.strerror}"
            if exc.errno not in _DAMAGE:
                report.unchecked.append(Unchecked(blob, reason))
                return
        else:
            if not bad and whole == blob:
                if shelf.table_of(blob, info.size, info.table.chunk_size) != info.table:
                    shelf.mend_table(blob, info.table)
                report.good.append(blob)
                return
            reason = f"{len(bad)} of {info.table.n_chunks} chunks are wrong"
        if not has_file(shelf, blob):
            _forget(shelf, blob)
            report.missing.append(blob)
            return
        report.damaged.append(Damage(blob, reason, bad, shelf.set_aside(blob, reason)))


def _compare(info: BlobInfo, progress: Progress) -> tuple[tuple[int, ...], bytes]:
    chunks, whole = ChunkHasher(info.table.chunk_size), blake3()
    fd = os.open(info.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        # One byte more than there should be, to see that there is none.
        pump(fd, 0, info.size + 1, (chunks.update, whole.update), progress=progress)
    finally:
        os.close(fd)
    found = chunks.digests()
    bad = tuple(
        index
        for index in range(info.table.n_chunks)
        if found[index * 32 : index * 32 + 32] != info.table.digest_of(index)
    )
    return bad, whole.digest()


def _forget(shelf: Shelf, blob: Hash) -> None:
    with shelf.lock:
        shelf.blobs.pop(blob, None)
    shelf.end_leases(blob)
    shelf.index.drop(blob)
    shelf.space.release(blob_key(blob))


def _look_at_the_others(shelf: Shelf, report: VerifyReport) -> None:
    """What is in the index and not in use: its file is gone, or could not be read when the store was opened, as was logged then."""
    for row in shelf.index.rows():
        with shelf.exclusive(row.hash):
            if row.hash in shelf.blobs:
                continue
            if has_file(shelf, row.hash):
                reason = "could not be read when the node started"
                report.unchecked.append(Unchecked(row.hash, reason))
            # Whoever removes a blob at this moment forgets it as well: then it is not missing.
            elif shelf.index.drop(row.hash):
                report.missing.append(row.hash)


def _blob_at(shelf: Shelf, path: Path) -> Hash | None:
    """The blob whose file this is, by its name and its place."""
    blob = named_hash(path, "blob")
    return blob if blob and path == shelf.layout.blob(blob) and path.is_file() else None


def _not_in_use(shelf: Shelf) -> Iterator[tuple[Hash, Path]]:
    for path in shelf.layout.scan_blobs():
        blob = _blob_at(shelf, path)
        if blob is not None and blob not in shelf.blobs:
            yield blob, path


def unindexed(shelf: Shelf) -> list[Path]:
    """See `Store.unindexed`."""
    known = {row.hash for row in shelf.index.rows()}
    return [path for blob, path in _not_in_use(shelf) if blob not in known]


def _foreign(shelf: Shelf) -> Iterator[Path]:
    for path in shelf.layout.scan_blobs():
        if is_temp(path.name) and not is_orphan_temp(path.name):
            # Being written at this moment.
            continue
        # A table whose blob is gone is gc's.
        table = named_hash(path, "table")
        if _blob_at(shelf, path) is None and (table is None or path != shelf.layout.table(table)):
            yield path


def learn_sha256(shelf: Shelf, blob: Hash, progress: Progress | None) -> BlobInfo:
    """See `Store.learn_sha256`."""
    info = shelf.get(blob)
    if info.sha256 is not None:
        return info
    hashes = hash_file(info.path, chunk_size=info.table.chunk_size, progress=progress)
    with shelf.exclusive(blob):
        now = shelf.get(blob)
        if now.sha256 is not None:
            return now
        if now is not info:
            raise StorageError(f"{blob} was replaced while it was being read", hint="try again")
        if hashes.blake3 != blob:
            shelf.set_aside(blob, f"its BLAKE3 is {hashes.blake3}")
            raise StorageError(
                f"{info.path} was damaged and is set aside", hint="it has to be fetched again"
            )
        return shelf.know_sha256(blob, hashes.sha256) or info


def rebuild(shelf: Shelf, progress: Progress | None) -> int:
    """See `Store.rebuild`."""
    found = total = 0
    for blob, path in _not_in_use(shelf):
        base = total

        def step(done: int, base: int = base) -> None:
            if progress is not None:
                progress(base + done)

        with shelf.exclusive(blob):
            if blob not in shelf.blobs:
                found += _index_again(shelf, blob, path, step)
        total += size_of(path)
    _look_at_the_others(shelf, VerifyReport())
    return found


def unindexed_bytes(shelf: Shelf) -> int:
    """See `Store.unindexed_bytes`."""
    return sum(size_of(path) for _, path in _not_in_use(shelf))


def _index_again(shelf: Shelf, blob: Hash, path: Path, progress: Progress) -> bool:
    table = read_table(shelf.layout.table(blob))
    chunk_size = None if table is None else table.chunk_size
    try:
        hashes = hash_file(path, chunk_size=chunk_size, progress=progress)
    except (UsageError, IntegrityError, StorageError) as exc:
        _log.warning("left out of the index", path=str(path), reason=exc.message)
        return False
    if hashes.blake3 != blob:
        shelf.set_aside(blob, f"its BLAKE3 is {hashes.blake3}")
        return False
    found = hashes.table
    if table != found:
        shelf.mend_table(blob, found)
    make_read_only(path)
    row = Row(blob, found.size, found.chunk_size, found.table_hash, hashes.sha256)
    # Who lost the index has lost the pins and the catalogue as well: nobody else would say that it is wanted.
    shelf.index.put(row, REBUILT)
    shelf.space.hold(blob_key(blob), found.size)
    with shelf.lock:
        shelf.blobs[blob] = BlobInfo(blob, found.size, hashes.sha256, found, path)
    return True
