"""The one place where durable writes are made: temp file, fsync, rename, fsync of the directory.

A file written here is, after a crash at any point, either wholly the old one or wholly the new one.
"""

from __future__ import annotations

import itertools
import os
import secrets
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from peatnet.blobs.oserrors import os_errors, translated
from peatnet.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Buffer

# Written by one call. Linux keeps what one call writes in blocks of memory as large as that, and where it runs in a virtual
# machine, free blocks of 2 MiB are what the host may have taken back: to write to one of those costs ten times as much.
_WRITE_PIECE = 256 * 1024

_PREFIX = ".tmp-"
_TOKEN = secrets.token_hex(6)
_serial = itertools.count()


def temp_path(directory: Path) -> Path:
    """A name for a temporary file in ``directory`` that nothing else uses. Creates nothing."""
    return directory / f"{_own_prefix()}{next(_serial)}"


def is_temp(name: str) -> bool:
    """Whether a file name is that of a temporary file of any process."""
    return name.startswith(_PREFIX)


def is_orphan_temp(name: str) -> bool:
    """Whether a file name is that of a temporary file which this process did not make.

    In a directory that one process at a time uses, nobody will ever finish such a file.
    """
    return is_temp(name) and not name.startswith(_own_prefix())


def _own_prefix() -> str:
    return f"{_PREFIX}{os.getpid()}-{_TOKEN}-"


@contextmanager
def temp_file(directory: Path, *, mode: int = 0o644) -> Iterator[tuple[Path, int]]:
    """A new temporary file in ``directory``: its path and a descriptor for reading and writing.

    At the end the descriptor is closed and the path, if it is still there, is removed.

    Raises:
        StorageError: it cannot be created.
    """
    path = temp_path(directory)
    with os_errors("creating a file in", directory):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        yield path, fd
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


def write_all(fd: int, data: Buffer, offset: int) -> None:
    """``pwrite`` all of ``data`` at ``offset``, however many calls it takes; raises OSError."""
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done : done + _WRITE_PIECE], offset + done)


def fsync_dir(path: Path) -> None:
    """Make the entries of a directory durable.

    Raises:
        StorageError: the directory cannot be opened or synced.
    """
    with os_errors("syncing", path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextmanager
def synced_dirs(*paths: Path) -> Iterator[None]:
    """Change the entries of directories; they are synced at the end.

    They are opened before the block is entered, so that nothing has changed when that is refused.

    Raises:
        StorageError: one cannot be opened or synced.
    """
    with ExitStack() as opened:
        fds = {}
        for path in dict.fromkeys(paths):
            with os_errors("syncing", path):
                fds[path] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, fds[path])
        yield
        for path, fd in fds.items():
            with os_errors("syncing", path):
                os.fsync(fd)


def make_dir(path: Path) -> None:
    """Create a directory and those above it, durably; fine when it is there.

    Raises:
        StorageError: it cannot be created, or something that is no directory is in the way.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_dir(path.parent)
    with os_errors("creating the directory", path):
        path.mkdir(exist_ok=True)
    fsync_dir(path.parent)


def rename_durable(source: Path, target: Path) -> None:
    """Rename a file, replacing ``target``, and sync the directories. Its data must be synced.

    Raises:
        StorageError: the rename was refused.
    """
    with os_errors("renaming to", target):
        source.replace(target)
    fsync_dir(target.parent)
    if source.parent != target.parent:
        fsync_dir(source.parent)


def symlink_durable(target: str, link: Path) -> None:
    """Make ``link`` a symbolic link to ``target``, durably, replacing a link that was there in one step.

    Args:
        target: as it is to stand in the link; it need not be there.
        link: where; the directory must be there.

    Raises:
        StorageError: it was refused, or something that is no symbolic link is in the way.
    """
    with os_errors("linking", link):
        if not link.is_symlink():
            if os.path.lexists(link):
                raise StorageError(
                    f"{link} is in the way: it should be a symbolic link",
                    hint="move it elsewhere",
                )
        elif str(link.readlink()) == target:
            # Whoever made it may not have lived to sync it.
            fsync_dir(link.parent)
            return
        temp = temp_path(link.parent)
        try:
            temp.symlink_to(target)
            rename_durable(temp, link)
        finally:
            temp.unlink(missing_ok=True)


def unlink_durable(*paths: Path) -> None:
    """Remove files, in this order, and sync their directories; fine when they are not there.

    Raises:
        StorageError: a removal was refused.
    """
    parents = []
    for path in paths:
        with os_errors("removing", path):
            path.unlink(missing_ok=True)
        if path.parent not in parents and path.parent.is_dir():
            parents.append(path.parent)
    for parent in parents:
        fsync_dir(parent)


def write_atomic(path: Path, data: Buffer, mode: int = 0o644) -> None:
    """Put a file with this content at ``path``, whole and durable, replacing what was there.

    Args:
        path: where; the directory must be there.
        data: the whole content.
        mode: of the new file, less the umask.

    Raises:
        DiskFull: there is no room; what was at ``path`` is untouched.
        StorageError: anything else the operating system refused, likewise.
    """
    with temp_file(path.parent, mode=mode) as (temp, fd):
        with os_errors("writing", path):
            write_all(fd, data, 0)
            os.fsync(fd)
        rename_durable(temp, path)


def write_new(path: Path, data: Buffer, mode: int) -> None:
    """Write a new file. Nothing of it is durable yet: see `peatnet.blobs.syncing`.

    Raises:
        DiskFull: there is no room; the file may be there, cut short.
        StorageError: anything else the operating system refused, likewise.
    """
    with os_errors("writing", path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            write_all(fd, data, 0)
        finally:
            os.close(fd)


def read_bounded(path: Path, limit: int) -> bytes | None:
    """The content of a small file; None when it is missing or longer than ``limit`` bytes.

    Raises:
        StorageError: it is there and cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise translated(exc, "reading", path) from exc
    return data if len(data) <= limit else None
