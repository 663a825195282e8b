"""The control socket's place: ``<data-dir>/control.sock``, however long the data directory's path is.

``AF_UNIX`` addresses hold 107 bytes. Linux lets a process name an open directory as ``/proc/self/fd/N``,
which is always short enough; so a long path is reached through a descriptor of its directory.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from peatnet.errors import NodeUnreachable, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "control.sock"

# sizeof(sockaddr_un.sun_path) on Linux, less the final NUL.
_MAX_ADDRESS_BYTES = 107

# A listening socket accepts a connection at once, even when its process is busy: the kernel does it. Only when very many
# wait to be accepted it refuses more, for as long as it takes the process to come round to them.
_CONNECT_TIMEOUT_S = 2.0
_CONNECT_RETRY_S = 0.02


def control_socket(data_dir: Path) -> Path:
    """Where a node on this data directory has its control socket."""
    return data_dir / NAME


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """The text to give ``bind`` or ``connect`` for a socket at this path; good within the block.

    Raises:
        StorageError: the path is too long and this system has no other name for it.
        FileNotFoundError: the path is too long, and its directory does not exist.
    """
    if len(os.fsencode(path)) <= _MAX_ADDRESS_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = Path(f"/proc/self/fd/{directory}")
        if not short.exists():
            raise StorageError(
                f"{path}: longer than a Unix socket's address may be ({_MAX_ADDRESS_BYTES} bytes)",
                hint="choose a data directory with a shorter path",
            )
        yield str(short / path.name)
    finally:
        os.close(directory)


def connected(path: Path, timeout: float = _CONNECT_TIMEOUT_S) -> socket.socket | None:
    """A connection to the socket at this path, for the caller to close; None where no process listens on it.

    Args:
        path: of the socket.
        timeout: of whatever is done with the connection, in seconds.

    Raises:
        NodeUnreachable: there is a socket that this user may not connect to, or whose node is stuck.
    """
    with ExitStack() as unless_connected:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unless_connected.callback(connection.close)
        connection.settimeout(_CONNECT_TIMEOUT_S)
        try:
            with socket_address(path) as address:
                _connect(connection, address)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
        except PermissionError as exc:
            raise NodeUnreachable(
                f"{path}: not permitted", hint="run this command as the user that the node runs as"
            ) from exc
        except BlockingIOError as exc:
            raise NodeUnreachable(
                f"{path}: the node does not answer: too many others wait for it",
                hint="it may be frozen or overloaded; see its log, or restart it",
            ) from exc
        except OSError as exc:
            raise NodeUnreachable(f"{path}: {exc.strerror or exc}") from exc
        connection.settimeout(timeout)
        unless_connected.pop_all()
        return connection


def _connect(connection: socket.socket, address: str) -> None:
    give_up_at = monotonic() + _CONNECT_TIMEOUT_S
    while True:
        try:
            connection.connect(address)
        except BlockingIOError:
            if monotonic() >= give_up_at:
                raise
        else:
            return
        sleep(_CONNECT_RETRY_S)


def answers(path: Path) -> bool:
    """Whether a process listens on the socket at this path.

    Raises:
        NodeUnreachable: there is a socket that this user may not connect to, or whose node is stuck.
    """
    connection = connected(path)
    if connection is None:
        return False
    connection.close()
    return True
