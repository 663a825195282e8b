"""The node's identity: one Ed25519 key in ``identity.key``, mode 0600, kept for the life of the data directory.

The file holds libp2p's PrivateKey protobuf (peer-ids specification): field 1 is the key type (1, Ed25519),
field 2 the 32-byte seed followed by the 32-byte public key. Other libp2p implementations read it.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peatnet.blobs.durable import read_bounded, write_atomic
from peatnet.blobs.oserrors import os_errors
from peatnet.errors import StorageError
from peatnet.records import KeyPair

if TYPE_CHECKING:
    from pathlib import Path

_HEADER = b"\x08\x01\x12\x40"
_LENGTH = len(_HEADER) + 64


@dataclass(frozen=True, slots=True)
class Identity:
    """The key pair, and the seed that libp2p makes its own form of it from."""

    keys: KeyPair
    seed: bytes = field(repr=False)

    @property
    def peer_id(self) -> str:
        """The node's peer id, which is its publisher id as well."""
        return str(self.keys.peer_id)


def load_or_create(path: Path, *, database: Path) -> Identity:
    """The identity in this file; a new one where there is neither a file nor a database.

    A key that has gone is never made up for: the others do not trust the new one, and what this node has published would be an
    untrusted publisher's. Nor is a link that leads nowhere, such as one to a secret that is not mounted yet, replaced.

    Args:
        path: the file.
        database: the node's, which is made after its key: where it is there, so was a key.

    Raises:
        StorageError: the file cannot be read or written, does not hold an Ed25519 key, or has gone.
    """
    data = read_bounded(path, _LENGTH)
    if data is None and path.exists():
        data = b""  # longer than any key
    if data is None:
        if os.path.lexists(path):
            raise _leads_nowhere(path)
        if os.path.lexists(database):
            raise _gone(path, database)
        return _create(path)
    seed = data[len(_HEADER) : len(_HEADER) + 32]
    if len(data) != _LENGTH or not data.startswith(_HEADER):
        raise _damaged(path)
    keys = KeyPair.from_seed(seed)
    if keys.public.raw != data[-32:]:
        raise _damaged(path)
    with os_errors("making private", path):
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    return Identity(keys, seed)


def _create(path: Path) -> Identity:
    seed = secrets.token_bytes(32)
    keys = KeyPair.from_seed(seed)
    write_atomic(path, _HEADER + seed + keys.public.raw, 0o600)
    return Identity(keys, seed)


def _damaged(path: Path) -> StorageError:
    return StorageError(
        f"{path} does not hold an Ed25519 key",
        hint="put the right file back; without it, this can only become another node",
    )


def _leads_nowhere(path: Path) -> StorageError:
    with os_errors("reading", path):
        target = path.readlink()
    return StorageError(
        f"{path} leads to {target}, where nothing is",
        hint="is what holds the key mounted? A new key would make this another node, which nobody trusts",
    )


def _gone(path: Path, database: Path) -> StorageError:
    return StorageError(
        f"the node's key is gone: there is {database}, but no {path}",
        hint=f"put the file back; to have a new node here, which the others must trust anew, move {database.name} elsewhere as well, "
        "then run `peatnet verify --rebuild`",
    )
