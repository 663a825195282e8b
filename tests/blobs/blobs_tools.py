"""What the tests of this room share."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from peatnet.blobs import ChunkTable, Database, Hash, Store, hash_file

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.blobs import FileHashes, PartialBlob

K64 = 64 * 1024


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def write_file(path: Path, size: int, seed: int = 0) -> FileHashes:
    path.write_bytes(content(size, seed))
    return hash_file(path, chunk_size=K64)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def overwrite(path: Path, at: int, data: bytes = b"damage") -> None:
    """Change a stored file, as a bad disk does."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def chunk_of(data: bytes, table: ChunkTable, index: int) -> bytes:
    start = table.offset_of(index)
    return data[start : start + table.length_of(index)]


def fill(partial: PartialBlob, data: bytes) -> None:
    for index in partial.missing():
        assert partial.write(index, chunk_of(data, partial.table, index))


class Bench:
    """A store that can be closed and opened again, as by a new process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self.database = Database.open(root / "peatnet.db")
        self.store = Store.open(root, self.database)

    def again(self, *, quota: int | None = None, free_floor: int = 0) -> Store:
        self.close()
        self.database = Database.open(self.root / "peatnet.db")
        self.store = Store.open(self.root, self.database, quota=quota, free_floor=free_floor)
        return self.store

    def close(self) -> None:
        self.store.close()
        self.database.close()

    def add(self, size: int = 5 * K64 + 7, seed: int = 0) -> tuple[Hash, bytes]:
        source = self.root / f"source-{seed}"
        source.write_bytes(content(size, seed))
        return self.store.add_file(source, chunk_size=K64).hash, content(size, seed)
