"""The store: every blob of a node on disk, safe across crashes.

Data is synced before anything claims it, a rename is followed by a sync of the directory, and what a
crash leaves behind is hashed again before it counts. Room is reserved before the first byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peatnet.blobs import adding, batch, filling, giving, removing, restoring, upkeep
from peatnet.blobs.hashes import Hash, one_beginning
from peatnet.blobs.index import REBUILT, USER, Index, check_reason
from peatnet.blobs.info import AddMode, PartialInfo
from peatnet.blobs.layout import Layout
from peatnet.blobs.loading import load, scan_partials
from peatnet.blobs.shelf import Shelf, read_table
from peatnet.blobs.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager
    from os import PathLike

    from peatnet.blobs.batch import Link, SmallBlob
    from peatnet.blobs.database import Database
    from peatnet.blobs.info import BlobInfo, GcReport, VerifyReport
    from peatnet.blobs.loose import LoosePartial
    from peatnet.blobs.partial import PartialBlob
    from peatnet.blobs.reader import Reader
    from peatnet.blobs.restoring import Spare
    from peatnet.blobs.table import ChunkTable

    Progress = Callable[[int], None]


class Store:
    """All blobs below one data directory. Thread-safe; one process at a time (see the lock file).

    Every method may block on the disk: call it in a worker thread from async code. Methods that take
    ``progress`` call it in the calling thread with the bytes done so far; what it raises stops the
    work cleanly and comes out of the method.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    @classmethod
    def open(
        cls,
        root: Path,
        database: Database,
        *,
        quota: int | None = None,
        free_floor: int = 0,
    ) -> Store:
        """Open the store, creating what is missing and sorting out what a crash left behind.

        Args:
            root: the data directory.
            database: where the index is; stays the caller's to close.
            quota: the most bytes that all blobs together may have; None for no limit.
            free_floor: bytes that must stay free on the file system.

        Raises:
            StorageError: a directory or the index cannot be used. Damaged and foreign files are
                logged and never raise.
        """
        space = Space(root, quota=quota, free_floor=free_floor)
        shelf = Shelf(Layout(root), Index(database), space)
        load(shelf)
        return cls(shelf)

    def close(self) -> None:
        """Flush and close the downloads that are open.

        Raises:
            DiskFull: a flush found no room; all are closed all the same.
            StorageError: a flush failed; all are closed all the same.
        """
        filling.close_all(self._shelf)

    # What is there

    @property
    def used_bytes(self) -> int:
        """Bytes that count against the quota: all blobs in their full size."""
        return self._shelf.space.used

    def info(self, blob: Hash) -> BlobInfo | None:
        """A complete blob; None when it is not here or not complete."""
        return self._shelf.blobs.get(blob)

    def find_sha256(self, sha256: str) -> BlobInfo | None:
        """The complete blob with this SHA-256 (64 hex digits), for a manifest that gives no other.

        Only blobs whose SHA-256 is known are found: all that were published here or named by a manifest.
        """
        wanted = sha256.lower()
        return next((info for info in self.blobs() if info.sha256 == wanted), None)

    def learn_sha256(self, blob: Hash, progress: Callable[[int], None] | None = None) -> BlobInfo:
        """A complete blob with its SHA-256, which is computed and kept where it is not known yet.

        Raises:
            NotFound: it is not here.
            StorageError: it cannot be read, or what was read is not the blob; it is set aside then.
        """
        return upkeep.learn_sha256(self._shelf, blob, progress)

    def blobs(self) -> list[BlobInfo]:
        """All complete blobs, by hash."""
        with self._shelf.lock:
            return [self._shelf.blobs[blob] for blob in sorted(self._shelf.blobs)]

    def partials(self) -> list[PartialInfo]:
        """All unfinished blobs that have a table, by hash."""
        with self._shelf.lock:
            opened = dict(self._shelf.partials)
        found = {info.hash: info for info in scan_partials(self._shelf.layout)}
        for blob, partial in opened.items():
            found[blob] = PartialInfo(blob, partial.table.size, partial.verified_bytes)
        return [found[blob] for blob in sorted(found) if blob not in self._shelf.blobs]

    def resolve(self, prefix: str) -> Hash:
        """The one blob here, complete or not, whose hash begins like this.

        Raises:
            UsageError: it is not 8 to 64 hex digits.
            NotFound: there is none.
            Ambiguous: there are several.
        """
        names = {info.hash for info in self.blobs()} | {info.hash for info in self.partials()}
        return one_beginning(prefix, names)

    def open_reader(self, blob: Hash) -> Reader | None:
        """Read a complete blob, or one that is open for filling; None when it is neither.

        Raises:
            StorageError: the file cannot be opened.
        """
        return self._shelf.open_reader(blob)

    def tell_of_damage(self, told: Callable[[], None]) -> None:
        """Call ``told``, in whichever thread finds out, when a blob that was to be served was found damaged and set aside."""
        self._shelf.on_damage = told

    def wake_on_news(self, blob: Hash, wake: Callable[[], None]) -> None:
        """Call ``wake`` once, when a chunk of this blob comes, or it can be opened, or not any more.

        It is called in whichever thread does that, so it must be quick, not raise, and not use the store. To
        miss nothing, call this first and look for news afterwards.
        """
        self._shelf.wakers.add(blob, wake)

    def let_sleep(self, blob: Hash, wake: Callable[[], None]) -> None:
        """Take `wake_on_news` back; fine where it has been called. A call under way is not waited for."""
        self._shelf.wakers.discard(blob, wake)

    # Getting blobs in

    def add_file(
        self,
        path: str | PathLike[str],
        *,
        mode: AddMode = AddMode.AUTO,
        chunk_size: int | None = None,
        progress: Progress | None = None,
        pin: str | None = None,
    ) -> BlobInfo:
        """Take a file of the user's into the store, hashing it on the way.

        Args:
            path: of a regular file that is not empty.
            mode: how; the source stays as it is except for HARDLINK and MOVE.
            chunk_size: in bytes; None picks one by the file's size. When the blob is here already it
                keeps the chunk size that it has.
            progress: called with the bytes read so far.
            pin: pin it for this reason as well, so that no `gc` can come in between.

        Raises:
            UsageError: the file or the chunk size cannot be used.
            IntegrityError: the file changed meanwhile.
            DiskFull: the quota, the floor or the disk has no room; nothing is left behind.
            StorageError: it cannot be read, or the mode is not possible here.
        """
        return adding.add_file(
            self._shelf,
            Path(path),
            mode=mode,
            chunk_size=chunk_size,
            progress=progress,
            pin=None if pin is None else check_reason(pin),
        )

    def start_partial(
        self,
        table: ChunkTable,
        hash: Hash,  # noqa: A002 - the word that everybody uses
        *,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> PartialBlob:
        """Begin or resume a download: its room is reserved and it is pinned before the first byte.

        On resuming, every chunk that the file may hold is hashed again. A damaged copy that was set
        aside is used as a beginning.

        Args:
            table: what the chunks must be.
            hash: what the whole must be.
            replace: go on with this table where the download was begun with another one.
            progress: called with the bytes hashed again so far.

        Raises:
            AlreadyExists: the blob is complete.
            InUse: it is open in this process.
            IntegrityError: it was begun with another table, and ``replace`` is not given.
            DiskFull: the quota, the floor or the disk has no room; what was there stays.
            StorageError: the operating system refused something.
        """
        return filling.start_partial(self._shelf, table, hash, replace=replace, progress=progress)

    def partial(self, blob: Hash) -> PartialBlob | None:
        """The download of this blob that is open in this process."""
        return self._shelf.partials.get(blob)

    def partial_table(self, blob: Hash) -> ChunkTable | None:
        """The chunk table that an unfinished download of this blob was begun with; None without one."""
        return read_table(self._shelf.layout.partial_file(blob, "table"))

    def commit(
        self, partial: PartialBlob, *, sha256: str | None, pin: str | None = None
    ) -> BlobInfo:
        """Make a download whose whole the caller has verified a complete blob; closes it.

        Args:
            partial: complete, and verified as a whole.
            sha256: of the whole, 64 lower-case hex digits; None where it was not computed.
            pin: pin it for this reason, in place of the one for the download.

        Raises:
            LocalProtocolError: a chunk is missing, or it is not open.
            StorageError: the disk failed; it stays a partial then.
        """
        reason = None if pin is None else check_reason(pin)
        return filling.commit(self._shelf, partial, sha256=sha256, pin=reason)

    def add_small(self, blobs: Sequence[SmallBlob]) -> dict[Hash, BlobInfo]:
        """Take in small blobs together, at far less cost than one by one. The caller has verified them.

        A crash leaves each of them complete or absent.

        Returns:
            Those that are complete now. Left out are those that are open, or were begun another way before.

        Raises:
            DiskFull: there is no room for all of them; none of them counts.
            StorageError: the operating system refused something, likewise.
        """
        return batch.add_small(self._shelf, blobs)

    def discard(self, blob: Hash) -> None:
        """Throw away an unfinished download, open or not; its readers deliver nothing more."""
        filling.discard(self._shelf, blob)

    def start_loose(self, name: Hash, size: int) -> LoosePartial:
        """Begin or resume a download that has no chunk table.

        Args:
            name: 32 bytes to keep it under: the blob's hash, or else its SHA-256.
            size: of the whole, in bytes.

        Raises:
            AlreadyExists: a blob of this name is complete.
            InUse: it is open in this process.
            DiskFull: there is no room for the whole.
            StorageError: the operating system refused something.
        """
        return filling.start_loose(self._shelf, name, size)

    def adopt_loose(
        self,
        loose: LoosePartial,
        *,
        expect_sha256: str | None,
        expect_blob_hash: Hash | None,
        pin: str | None = None,
        progress: Progress | None = None,
    ) -> BlobInfo:
        """Verify a loose download and make it a complete blob; closes it.

        Args:
            loose: with all its bytes.
            expect_sha256: 64 hex digits, or None when unknown.
            expect_blob_hash: None when unknown; one of the two must be given.
            pin: pin the blob for this reason.
            progress: called with the bytes hashed so far.

        Raises:
            IntegrityError: the bytes are not the blob; they are discarded.
            LocalProtocolError: bytes are missing, or nothing is expected.
            StorageError: the disk failed.
        """
        return filling.adopt_loose(
            self._shelf,
            loose,
            expect_sha256=expect_sha256,
            expect_blob_hash=expect_blob_hash,
            pin=None if pin is None else check_reason(pin),
            progress=progress,
        )

    # Keeping and removing

    def pin(self, blob: Hash, reason: str = USER) -> None:
        """Keep a blob from being collected, for a reason; it need not be here yet. A removal under way is waited for."""
        with self._shelf.exclusive(blob):
            self._shelf.index.pin(blob, check_reason(reason))

    def unpin(self, blob: Hash, reason: str = USER) -> None:
        """Take back a reason; fine when it was not there. The user's takes that of `rebuild` along."""
        self._shelf.index.unpin(blob, check_reason(reason))
        if reason == USER:
            self._shelf.index.unpin(blob, REBUILT)

    def held(self, blobs: Iterable[Hash], reason: str) -> AbstractContextManager[None]:
        """Keep blobs as pins do until the context ends, or the process: costs no disk. They need not be here yet."""
        return self._shelf.index.held(blobs, check_reason(reason))

    def pins(self) -> dict[Hash, set[str]]:
        """The reasons for which blobs are pinned, or held."""
        return self._shelf.index.pins()

    def remove(self, blob: Hash, *, force: bool = False) -> int:
        """Remove a complete blob, or an unfinished one that is not open.

        Args:
            blob: which.
            force: in spite of pins, which go as well.

        Returns:
            Its size in bytes.

        Raises:
            NotFound: it is not here.
            InUse: it is pinned, being read or being filled.
            StorageError: the operating system refused; it stays then.
        """
        return removing.remove(self._shelf, blob, force=force)

    def gc(self, keep: set[Hash], *, dry_run: bool = False) -> GcReport:
        """Remove what nobody wants: neither pinned, nor in ``keep``, nor open.

        That is complete and unfinished blobs, damaged ones that were set aside, and files that a
        crash left over. Blobs that are not in the index stay, for `rebuild`.

        Args:
            keep: blobs that are wanted.
            dry_run: only say what would go.

        Raises:
            StorageError: the operating system refused a removal; what went before it is gone.
        """
        return removing.collect(self._shelf, keep, dry_run=dry_run)

    def verify(
        self,
        blob: Hash | None = None,
        progress: Progress | None = None,
    ) -> VerifyReport:
        """Read one blob or all of them and compare each chunk and the whole.

        A damaged one is moved to ``damaged/``, and served no longer.

        Raises:
            NotFound: this blob is not here.
            StorageError: a damaged one could not be moved.
        """
        return upkeep.verify(self._shelf, blob, progress)

    def unindexed_bytes(self) -> int:
        """What `rebuild` would read."""
        return upkeep.unindexed_bytes(self._shelf)

    def rebuild(self, progress: Progress | None = None) -> int:
        """Enter the blob files that are not in the index, each hashed first, and pin them as ``rebuilt``.

        Args:
            progress: called with the bytes read so far.

        Returns:
            How many were entered. One that is not what its name says is moved to ``damaged/``.

        Raises:
            StorageError: the index cannot be written.
        """
        return upkeep.rebuild(self._shelf, progress)

    # Blobs whose file is gone

    def has_file(self, blob: Hash) -> bool:
        """Whether there is anything in the place of a blob, good or not; True also where that cannot be told."""
        return restoring.has_file(self._shelf, blob)

    def examine(
        self,
        blob: Hash,
        path: Path,
        *,
        chunk_size: int | None = None,
        progress: Progress | None = None,
    ) -> Spare | None:
        """Read a file that should be a blob, such as one that `link_model` made; None where it is not, or not there.

        Args:
            blob: which.
            path: the file.
            chunk_size: that of the blob's table, where the index does not know it any more.
            progress: called with the bytes read so far.

        Raises:
            UsageError, IntegrityError: it changes while it is being read.
            StorageError: it cannot be read, so nobody knows.
        """
        return restoring.examine(self._shelf, blob, path, chunk_size=chunk_size, progress=progress)

    def restore(self, spare: Spare) -> BlobInfo | None:
        """Make what was examined the complete blob that it is: a hard link where possible, else a reflink, else a copy.

        None where it is another file now, or something has come to the blob's place.

        Raises:
            IntegrityError: it had to be copied, and is not the blob any more.
            DiskFull: there is no room for a copy.
            StorageError: the operating system refused something else.
        """
        return restoring.restore(self._shelf, spare)

    def unindexed(self) -> list[Path]:
        """The files in ``blobs/`` that are named as blobs are, and not in the index."""
        return upkeep.unindexed(self._shelf)

    # Giving blobs out

    def export(
        self,
        blob: Hash,
        out: str | PathLike[str],
        *,
        force: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Put a copy of a complete blob at ``out``, whole and durable, and the user's own.

        A reflink where the file system can, else a copy whose chunks are checked on the way; never a
        hard link.

        Args:
            blob: which.
            out: where.
            force: also in the place of a file.
            progress: called with the bytes copied so far, not with a reflink. What it raises ends the copy and comes out
                of here; nothing is left.

        Raises:
            IntegrityError: the blob has become damaged; nothing is put there.
            NotFound: the blob is not here.
            AlreadyExists: ``out`` is there, and ``force`` is not given.
            UsageError: ``out`` is a directory.
            DiskFull: there is no room.
            StorageError: the operating system refused something else.
        """
        giving.export(self._shelf, blob, Path(out), force=force, progress=progress)

    def link_model(self, blob: Hash, model_id: str, filename: str) -> Path:
        """Put a complete blob at ``models/<model_id>/<filename>``, replacing what was there.

        A hard link where possible, else a reflink, else a copy.

        Raises:
            NotFound: the blob is not here.
            UsageError: one of the names could leave its folder.
            DiskFull: there is no room for a copy.
            StorageError: the operating system refused something else.
        """
        return giving.link_model(self._shelf, blob, model_id, filename)

    def link_models(self, links: Sequence[Link]) -> list[Path]:
        """What `link_model` does, for many blobs together.

        Raises:
            As `link_model`; some of the links may be there then.
        """
        return batch.link_models(self._shelf, links)
