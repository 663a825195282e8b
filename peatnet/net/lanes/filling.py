"""Reading until a buffer is full, the same for both ends of a lane."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Protocol

from peatnet.errors import PeerLost

if TYPE_CHECKING:
    from collections.abc import Callable


class Tls(Protocol):
    """Of an SSLSocket or SSLObject, what reads; unlike ``recv`` it never goes on in plain text."""

    def read(self, len: int = ..., buffer: bytearray | None = ...) -> bytes:  # noqa: A002  # as in the ssl module
        """Up to ``len`` bytes; with a buffer, how many there are in it now."""
        ...


def fill(tls: Tls, view: memoryview, wait: Callable[[ssl.SSLError, int], None]) -> None:
    """Read the next bytes until ``view`` is full.

    Args:
        tls: where they come from.
        view: what is filled.
        wait: called with what TLS wants of the socket, and how many bytes are missing; returns when it is worth trying
            again, or raises PeerLost.

    Raises:
        PeerLost: the connection broke or ended; or as raised by ``wait``.
    """
    length, position = view.nbytes, 0
    # The stubs know only the form without a buffer of any other kind.
    read: Callable[[int, memoryview], int] = tls.read  # type: ignore[assignment]
    while position < length:
        try:
            got = read(length - position, view[position:])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as exc:
            wait(exc, length - position)
        except (OSError, ValueError) as exc:
            raise PeerLost(f"the lane broke: {exc}") from exc
        else:
            if not got:
                raise PeerLost("the lane ended")
            position += got
