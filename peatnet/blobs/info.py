"""What the store tells about itself: small immutable answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.blobs.hashes import Hash
    from peatnet.blobs.table import ChunkTable


class AddMode(StrEnum):
    """How a file gets into the store.

    AUTO never shares storage in a way that a later edit of the source could reach. A hard link does:
    the source and the blob are one file then, which becomes read-only.
    """

    AUTO = "auto"
    """A reflink where the file system can, else a copy."""
    COPY = "copy"
    REFLINK = "reflink"
    """Copy-on-write sharing, or an error."""
    HARDLINK = "hardlink"
    """The same file under a second name, or an error; it becomes read-only."""
    MOVE = "move"
    """The source is gone afterwards, and never before the blob is safe."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A complete, verified blob."""

    hash: Hash
    size: int
    sha256: str | None
    """64 lower-case hex digits; None where nobody has needed it yet, see `Store.learn_sha256`."""
    table: ChunkTable
    path: Path
    """Of the read-only file in the store."""


@dataclass(frozen=True, slots=True)
class PartialInfo:
    """An unfinished blob on disk."""

    hash: Hash
    size: int
    verified_bytes: int
    """Exact while it is open in this process, else what its bitmap claims."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A blob that was not what its name says."""

    hash: Hash
    reason: str
    bad_chunks: tuple[int, ...]
    """Which chunks differ; empty where the file could not be read or has another length."""
    moved_to: Path


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A blob of which nobody knows whether it is good: the operating system would not let us read it."""

    hash: Hash
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `Store.verify` found."""

    good: list[Hash] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    missing: list[Hash] = field(default_factory=list)
    """In the index, but the file is gone; forgotten now."""
    unchecked: list[Unchecked] = field(default_factory=list)
    """Nothing is changed about these."""
    foreign: list[Path] = field(default_factory=list)
    """Files in ``blobs/`` that are not ours; left alone."""
    unindexed: list[Path] = field(default_factory=list)
    """Files that are named as blobs are, and not in the index; left alone, until `Store.rebuild`."""
    bytes_read: int = 0
    restored: list[Hash] = field(default_factory=list)
    """Whose file was gone, put back from another name of it."""
    rebuilt: int = 0
    """How many blobs were entered in the index before."""

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged, nothing is missing, and all could be checked."""
        return not self.damaged and not self.missing and not self.unchecked


@dataclass(frozen=True, slots=True)
class GcReport:
    """What `Store.gc` removed, or would remove."""

    removed: list[tuple[Hash, int]] = field(default_factory=list)
    """Blobs, complete or not, and their sizes in bytes."""
    files: list[tuple[Path, int]] = field(default_factory=list)
    """Other files: left over by a crash, or set aside as damaged."""
    dry_run: bool = False
    restored: list[Hash] = field(default_factory=list)
    """As in :class:`VerifyReport`; where nobody wanted one, it is among the removed as well."""

    @property
    def freed_bytes(self) -> int:
        """The sum of all sizes."""
        return sum(size for _, size in self.removed) + sum(size for _, size in self.files)
