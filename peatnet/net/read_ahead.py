"""Byte streams of py-libp2p, read in large pieces.

py-libp2p reads a message in several steps, its length (of gossip: byte by byte) and its body, and each step has
locks and trio's scheduling around it; on a socket it is a system call, too. Here what has arrived is taken at once, and most
steps are served from memory. What is read ahead is bounded; nothing else changes.
"""

from __future__ import annotations

from libp2p.io.abc import ReadWriteCloser

from peatnet.net.quick_lock import GiveWay


class ReadAhead(ReadWriteCloser):
    """A byte stream that is read in large pieces.

    Args:
        stream: the stream below; only this object reads from it.
        size: the most that is read ahead, in bytes.
    """

    def __init__(self, stream: ReadWriteCloser, size: int) -> None:
        self._stream = stream
        self._size = size
        self._ahead = memoryview(b"")
        self._give_way = GiveWay()

    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` bytes, from memory where there are any; empty at the end of the stream."""
        if not self._ahead:
            data = await self._stream.read(self._size)
            if n is None or len(data) <= n:
                return data
            self._ahead = memoryview(data)
        else:
            await self._give_way.step()
        end = len(self._ahead) if n is None else n
        piece, self._ahead = self._ahead[:end], self._ahead[end:]
        return bytes(piece)

    async def write(self, data: bytes) -> None:
        """As the stream below."""
        await self._stream.write(data)

    async def close(self) -> None:
        """As the stream below; what was read ahead is dropped."""
        self._ahead = memoryview(b"")
        await self._stream.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """As the stream below."""
        return self._stream.get_remote_address()
