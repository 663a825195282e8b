"""Which chunks are there: one bit each, the lowest bit of a byte first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peatnet.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Bitmap:
    """``length`` bits, all clear at first, with a running count of those that are set.

    Not locked: a single `get` or `set` is safe beside others only under the caller's lock.
    """

    __slots__ = ("_bits", "_count", "_length")

    def __init__(self, length: int) -> None:
        if length < 0:
            raise LocalProtocolError(f"a bitmap of {length} bits")
        self._length = length
        self._bits = bytearray((length + 7) // 8)
        self._count = 0

    @classmethod
    def from_bytes(cls, data: bytes, length: int) -> Bitmap:
        """Read what `to_bytes` wrote.

        Raises:
            RemoteProtocolError: the length is wrong, or a bit beyond the last chunk is set.
        """
        bitmap = cls(length)
        if len(data) != len(bitmap._bits):
            raise RemoteProtocolError(f"a bitmap of {len(data)} bytes for {length} chunks")
        if length % 8 and data[-1] >> (length % 8):
            raise RemoteProtocolError(f"a bitmap that claims more than {length} chunks")
        bitmap._bits[:] = data
        bitmap._count = int.from_bytes(data, "little").bit_count()
        return bitmap

    @classmethod
    def full(cls, length: int) -> Bitmap:
        """A bitmap with every bit set."""
        bitmap = cls(length)
        bitmap._bits[:] = ((1 << length) - 1).to_bytes(len(bitmap._bits), "little")
        bitmap._count = length
        return bitmap

    def __len__(self) -> int:
        return self._length

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bitmap):
            return NotImplemented
        return self._length == other._length and self._bits == other._bits

    __hash__ = None  # type: ignore[assignment]  # mutable: must not be a dict key

    def __repr__(self) -> str:
        return f"<Bitmap {self._count} of {self._length}>"

    @property
    def count(self) -> int:
        """How many bits are set."""
        return self._count

    def all(self) -> bool:
        """Whether every bit is set."""
        return self._count == self._length

    def get(self, index: int) -> bool:
        """Whether bit ``index`` is set."""
        self._check(index)
        return bool(self._bits[index >> 3] >> (index & 7) & 1)

    def set(self, index: int) -> bool:
        """Set bit ``index``; whether that changed it."""
        if self.get(index):
            return False
        self._bits[index >> 3] |= 1 << (index & 7)
        self._count += 1
        return True

    def clear(self, index: int) -> bool:
        """Clear bit ``index``; whether that changed it."""
        if not self.get(index):
            return False
        self._bits[index >> 3] &= ~(1 << (index & 7))
        self._count -= 1
        return True

    def iter_set(self) -> Iterator[int]:
        """The indices of the set bits, rising. The bitmap must not change meanwhile."""
        return self._iterate(0x00)

    def iter_missing(self) -> Iterator[int]:
        """The indices of the clear bits, rising. The bitmap must not change meanwhile."""
        return self._iterate(0xFF)

    def to_bytes(self) -> bytes:
        """The bits as bytes, the lowest bit of a byte first; bits beyond the end are 0."""
        return bytes(self._bits)

    def _check(self, index: int) -> None:
        if not 0 <= index < self._length:
            raise LocalProtocolError(f"chunk {index} of {self._length}")

    def _iterate(self, skip: int) -> Iterator[int]:
        # A byte that holds nothing wanted is passed over whole.
        for position, byte in enumerate(self._bits):
            if byte == skip:
                continue
            wanted = byte ^ skip
            base = position << 3
            for bit in range(min(8, self._length - base)):
                if wanted >> bit & 1:
                    yield base + bit
