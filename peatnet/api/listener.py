"""The control socket, from its making to its removal."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from peatnet.api.socket_path import answers, socket_address
from peatnet.errors import DataDirLocked, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MODE = 0o600
# Connections that wait to be accepted; the kernel has a limit of its own, 4,096 mostly.
_BACKLOG = 1024


@contextmanager
def control_listener(path: Path) -> Iterator[int]:
    """A listening Unix socket at this path, with mode 0600 from its first moment; removed at the end.

    Gives:
        Its descriptor, which the caller owns and closes.

    Raises:
        DataDirLocked: another process listens there.
        StorageError: something else is in the way, or the system refuses.
    """
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made = _bind(listener, path)
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        raise StorageError(f"{path}: {exc.strerror or exc}") from exc
    try:
        yield listener.detach()
    finally:
        _remove(path, made)


def _bind(listener: socket.socket, path: Path) -> os.stat_result:
    # Linux gives the file the mode of the unbound socket, less the umask: it is never wider than this.
    os.fchmod(listener.fileno(), _MODE)
    with socket_address(path) as address:
        listener.bind(address)
    made = path.lstat()
    if stat.S_IMODE(made.st_mode) & ~_MODE:
        path.unlink()
        raise PermissionError(errno.EPERM, "this system does not keep a socket's mode at 0600")
    return made


def _clear(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StorageError(f"{path}: {exc.strerror or exc}") from exc
    if not stat.S_ISSOCK(mode):
        raise StorageError(
            f"{path}: in the way, and not a socket", hint="move it out of the data directory"
        )
    if answers(path):
        raise DataDirLocked(f"{path}: another node answers here")
    path.unlink(missing_ok=True)  # a node that was killed left it


def _remove(path: Path, made: os.stat_result) -> None:
    try:
        there = path.lstat()
        if (there.st_dev, there.st_ino) == (made.st_dev, made.st_ino):
            path.unlink()
    except OSError:
        pass  # gone already, with its directory perhaps; a stale socket does no harm
