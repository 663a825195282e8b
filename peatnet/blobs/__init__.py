"""The disk: hashing, chunk tables, and the crash-safe store of blobs.

Everything here is synchronous, and thread-safe where its docstring says so.
"""

from peatnet.blobs.batch import Link, SmallBlob
from peatnet.blobs.bitmap import Bitmap
from peatnet.blobs.database import Database
from peatnet.blobs.durable import fsync_dir, make_dir, rename_durable, write_atomic
from peatnet.blobs.hashes import HASH_BYTES, MIN_PREFIX, Hash
from peatnet.blobs.hashing import FileHashes, hash_file
from peatnet.blobs.info import (
    AddMode,
    BlobInfo,
    Damage,
    GcReport,
    PartialInfo,
    Unchecked,
    VerifyReport,
)
from peatnet.blobs.loose import MAX_NOTE, LoosePartial
from peatnet.blobs.partial import PartialBlob
from peatnet.blobs.reader import Reader
from peatnet.blobs.store import Store
from peatnet.blobs.table import (
    DEFAULT_CHUNK_SIZE,
    MAX_CHUNK_SIZE,
    MAX_CHUNKS,
    MIN_CHUNK_SIZE,
    ChunkTable,
    pick_chunk_size,
)
from peatnet.blobs.whole import WholeHasher

__all__ = [
    "DEFAULT_CHUNK_SIZE",
    "HASH_BYTES",
    "MAX_CHUNKS",
    "MAX_CHUNK_SIZE",
    "MAX_NOTE",
    "MIN_CHUNK_SIZE",
    "MIN_PREFIX",
    "AddMode",
    "Bitmap",
    "BlobInfo",
    "ChunkTable",
    "Damage",
    "Database",
    "FileHashes",
    "GcReport",
    "Hash",
    "Link",
    "LoosePartial",
    "PartialBlob",
    "PartialInfo",
    "Reader",
    "SmallBlob",
    "Store",
    "Unchecked",
    "VerifyReport",
    "WholeHasher",
    "fsync_dir",
    "hash_file",
    "make_dir",
    "pick_chunk_size",
    "rename_durable",
    "write_atomic",
]
