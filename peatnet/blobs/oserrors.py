"""Errors of the operating system, translated once into peatnet's own."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from peatnet.errors import DiskFull, PeatnetError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_HINTS = {
    errno.EACCES: "check who owns the directory, and its mode",
    errno.EPERM: "check who owns the directory, its mode, and its attributes",
    errno.EROFS: "the file system is mounted read-only",
    errno.ENOTDIR: "something that is not a directory is in the way; move it elsewhere",
    errno.EISDIR: "a directory is in the way; move it elsewhere",
    errno.EEXIST: "something else is in the way; move it elsewhere",
    errno.ENOENT: "check that the path exists",
    errno.EIO: "the disk reports errors; check the kernel's log",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.ENAMETOOLONG: "take a shorter path",
    errno.ELOOP: "there is a loop of symbolic links in the path",
}


def translated(exc: OSError, doing: str, path: str | PathLike[str]) -> PeatnetError:
    """The error to raise ``from exc``: DiskFull where there is no room, else StorageError.

    Args:
        exc: what the operating system said.
        doing: what was being done, as in "writing".
        path: to what.
    """
    reason = exc.strerror or str(exc)
    if exc.errno in _FULL:
        return DiskFull(
            f"no room while {doing} {path}: {reason}",
            hint="free some space, for example with `peatnet gc`",
        )
    return StorageError(f"{doing} {path} failed: {reason}", hint=_HINTS.get(exc.errno or 0))


@contextmanager
def os_errors(doing: str, path: str | PathLike[str]) -> Iterator[None]:
    """Translate every OSError raised inside; see `translated`."""
    try:
        yield
    except OSError as exc:
        raise translated(exc, doing, path) from exc
