"""Reading the header of a file that nobody vouches for.

Every length is held against what is left of the file before anything is read, skipped or allocated. A window
only moves forward, and reads ahead at most 64 KiB: so a walk reads no more bytes than the file has, keeps no
more than it asked for, and ends after as many steps as the reader above allows. The texts that a reader keeps are
counted together, since many short ones are as large as a long one, and in memory, where a text may be four times what
it is in the file.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Final

from peatnet.errors import BadModelFile

if TYPE_CHECKING:
    from collections.abc import Callable

    ReadAt = Callable[[int, int], bytes]
    """Bytes of the file from an offset on; fewer than asked for only where the file ends."""

MAX_KEPT_BYTES: Final = 64 * 1024 * 1024
"""Of memory for the texts that are kept of one file: three times what 131,072 names of 100 letters take."""

_READ_AHEAD: Final = 64 * 1024

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


class Window:
    """A place in a file, and what may be read from there on.

    Args:
        read_at: reads the file.
        size: bytes of the file.
        name: the file's, for messages.
        limit: bytes within which the header must end; None for the whole file.
    """

    __slots__ = ("_buffer", "_end", "_kept", "_read_at", "_start", "name", "position", "size")

    def __init__(self, read_at: ReadAt, size: int, name: str, *, limit: int | None = None) -> None:
        self._read_at = read_at
        self._buffer = b""
        self._start = 0
        self._kept = 0
        self._end = size if limit is None else min(size, limit)
        self.name = name
        self.size = size
        self.position = 0

    def bad(self, what: str, at: int | None = None, *, hint: str | None = None) -> BadModelFile:
        """The error to raise.

        Args:
            what: is wrong.
            at: the byte where it is; None for the present position.
            hint: what to do about it.
        """
        where = self.position if at is None else at
        return BadModelFile(f"{self.name}: {what} (byte {where})", hint=hint)

    def keep(self, text: str, at: int | None = None) -> str:
        """Count a text, which is returned, among those that are kept of this file.

        Args:
            text: which.
            at: the byte where it is; None for the present position.

        Raises:
            BadModelFile: together they take more memory than they may.
        """
        self._kept += sys.getsizeof(text)
        if self._kept > MAX_KEPT_BYTES:
            raise self.bad(f"its names and texts take more than {MAX_KEPT_BYTES} bytes", at)
        return text

    def require(self, count: int, what: str) -> None:
        """Make sure that this many bytes follow.

        Raises:
            BadModelFile: they do not.
        """
        if count <= self._end - self.position:
            return
        if count <= self.size - self.position:
            raise self.bad(f"the header is larger than {self._end} bytes")
        raise self.bad(
            f"{what}, {count} bytes, reaches beyond the end of the file, which has {self.size}"
        )

    def take(self, count: int, what: str) -> bytes:
        """The next bytes. The caller bounds the count.

        Raises:
            BadModelFile: the file ends before.
        """
        self.require(count, what)
        at = self.position - self._start
        if at + count > len(self._buffer):
            self._fill(count)
            at = 0
        self.position += count
        return self._buffer[at : at + count]

    def skip(self, count: int, what: str) -> None:
        """Go past the next bytes without reading them.

        Raises:
            BadModelFile: the file ends before.
        """
        self.require(count, what)
        self.position += count

    def u32(self, what: str) -> int:
        """An unsigned integer of 4 bytes, little endian.

        Raises:
            BadModelFile: the file ends before.
        """
        value: int = _U32.unpack(self.take(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        """An unsigned integer of 8 bytes, little endian.

        Raises:
            BadModelFile: the file ends before.
        """
        value: int = _U64.unpack(self.take(8, what))[0]
        return value

    def varint(self, what: str) -> int:
        """An unsigned integer of 64 bits, 7 bits a byte, as protobuf writes it.

        Raises:
            BadModelFile: it takes more than 10 bytes or 64 bits, or the file ends before.
        """
        value = shift = 0
        start = self.position
        while shift < 70:
            at = self.position - self._start
            if at >= len(self._buffer):
                self.require(1, what)
                self._fill(1)
                at = 0
            byte = self._buffer[at]
            self.position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if shift == 70 or value >> 64:
            raise self.bad(f"{what} is no integer of 64 bits", start)
        return value

    def skip_strings(self, count: int, what: str) -> None:
        """Go past strings that each have their length before them, as a u64, little endian.

        A vocabulary has hundreds of thousands of them, hence the loop inside the buffer.

        Raises:
            BadModelFile: the file ends before.
        """
        unpack = _U64.unpack_from
        while count:
            self.require(8, what)
            if self.position - self._start + 8 > len(self._buffer):
                self._fill(8)
            buffer, last = self._buffer, len(self._buffer) - 8
            at = string = self.position - self._start
            while count and at <= last:
                string = at
                at += 8 + unpack(buffer, at)[0]
                count -= 1
            self.position = self._start + string
            self.skip(at - string, what)

    def _fill(self, count: int) -> None:
        wanted = min(max(count, _READ_AHEAD), self._end - self.position)
        self._buffer = self._read_at(self.position, wanted)
        self._start = self.position
        if len(self._buffer) < count:
            raise self.bad("the file became shorter while it was read")
