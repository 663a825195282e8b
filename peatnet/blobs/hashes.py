"""The name of a blob: 32 bytes of BLAKE3, and how people write them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from blake3 import blake3

from peatnet.errors import Ambiguous, LocalProtocolError, NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

HASH_BYTES = 32
"""Length of a BLAKE3 digest as used here, in bytes."""

MIN_PREFIX = 8
"""The fewest hex digits that a shortened hash may have."""

_FULL = re.compile(r"[0-9a-fA-F]{64}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_PREFIX = re.compile(rf"[0-9a-fA-F]{{{MIN_PREFIX},64}}\Z")


class Hash(bytes):
    """Exactly 32 bytes: a BLAKE3 digest. Prints as 64 lower-case hex digits.

    Args:
        value: the 32 bytes.

    Raises:
        LocalProtocolError: it is not 32 bytes long.
    """

    __slots__ = ()

    def __new__(cls, value: Buffer) -> Self:  # noqa: D102 - the class docstring documents it
        view = memoryview(value)
        if view.nbytes != HASH_BYTES:
            raise LocalProtocolError(f"a hash has {HASH_BYTES} bytes, not {view.nbytes}")
        return super().__new__(cls, view)

    @classmethod
    def of(cls, data: Buffer) -> Self:
        """The BLAKE3 of ``data``."""
        return cls(blake3(data).digest())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read 64 hex digits of either case.

        Raises:
            UsageError: the text is anything else.
        """
        if _FULL.match(text) is None:
            raise UsageError(
                f"not a hash: {text[:80]!r}", hint="a hash is written as 64 hexadecimal digits"
            )
        return cls(bytes.fromhex(text))

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"Hash({self.hex()!r})"


def check_prefix(text: str) -> str:
    """A shortened hash in lower case.

    Raises:
        UsageError: it is not 8 to 64 hex digits.
    """
    if _PREFIX.match(text) is None:
        raise UsageError(
            f"not a hash or the beginning of one: {text[:80]!r}",
            hint=f"give {MIN_PREFIX} to 64 hexadecimal digits",
        )
    return text.lower()


def is_sha256(text: str) -> bool:
    """Whether this is a SHA-256 as the store writes it: 64 lower-case hex digits."""
    return _SHA256.match(text) is not None


def one_beginning(prefix: str, names: Iterable[Hash]) -> Hash:
    """The one of these whose digits begin like this.

    Raises:
        UsageError: it is not 8 to 64 hex digits.
        NotFound: there is none.
        Ambiguous: there are several.
    """
    wanted = check_prefix(prefix)
    found = sorted(name for name in names if name.hex().startswith(wanted))
    if not found:
        raise NotFound(f"no blob {prefix} here")
    if len(found) > 1:
        raise Ambiguous(f"{len(found)} blobs begin with {prefix}", hint="give more digits")
    return found[0]
