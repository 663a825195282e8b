"""Which chunks are still to be asked for, who has them, and how rare each one is.

Theory. A set of chunks is an integer with one bit a chunk, so set operations on 100,000 chunks take
microseconds and no loop of ours. How many peers hold each chunk is kept *bit-sliced*: plane k is the set
of chunks whose count has bit k set. Adding a holder's whole set to all counts is then a ripple-carry
addition of one bit to 100,000 counters at once, a few operations however many chunks it has. The rarest of
a set of candidates come out by walking the planes from the highest down, each time keeping those that
lack the bit, unless none does. A join, a loss or a pick costs O(n_chunks / 30 * log2(peers)) word
operations; nothing ever loops over chunks.

For large blobs even that is shared: one pick plans a few chunks ahead (1 in `PLAN_SHARE` of the blob), so
the cost of a request stays flat; the plan is checked when used, and thrown away when it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peatnet.errors import LocalProtocolError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator

PLAN_SHARE = 4096
_WINDOW_BITS = 2048
_FEW = 128


class ChunkSet:
    """A set of chunk indices below `n`, as an integer, and how many they are.

    Changing or testing one bit makes a new integer, which is cheaper than a bytearray of which an integer has
    to be made for the next pick. Nothing but the methods here may change `mask`.

    Attributes:
        n: chunks that there are.
        mask: bit i for chunk i.
        count: how many are in.
    """

    __slots__ = ("count", "mask", "n")

    def __init__(self, n: int, mask: int = 0) -> None:
        self.n = n
        self.mask = mask
        self.count = mask.bit_count()

    @classmethod
    def from_bitmap(cls, n: int, bitmap: bytes, *, what: str) -> ChunkSet:
        """From one bit a chunk, low bit first.

        Raises:
            LocalProtocolError: if the length is not that of `n` bits or padding bits are set; `what` names it.
        """
        if len(bitmap) != (n + 7) // 8:
            raise LocalProtocolError(f"{what}: bitmap of {len(bitmap)} bytes for {n} chunks")
        mask = int.from_bytes(bitmap, "little")
        if mask >> n:
            raise LocalProtocolError(f"{what}: bitmap has bits beyond its {n} chunks")
        return cls(n, mask)

    def __contains__(self, index: int) -> bool:
        return self.mask >> index & 1 != 0

    def add(self, index: int) -> bool:
        """Put one in; False if it was in."""
        bit = 1 << index
        if self.mask & bit:
            return False
        self.mask |= bit
        self.count += 1
        return True

    def update(self, mask: int) -> None:
        """Put many in, at a cost that does not depend on how many."""
        self.mask |= mask
        self.count = self.mask.bit_count()

    def discard(self, index: int) -> bool:
        """Take one out; False if it was not in."""
        bit = 1 << index
        if not self.mask & bit:
            return False
        self.mask ^= bit
        self.count -= 1
        return True

    def to_bytes(self) -> bytes:
        """One bit a chunk, low bit first."""
        return self.mask.to_bytes((self.n + 7) // 8, "little")


def mask_of(indices: Iterable[int], n: int) -> int:
    """The set of these indices, all below `n`, as an integer."""
    bits = bytearray((n + 7) // 8)
    for index in indices:
        bits[index >> 3] |= 1 << (index & 7)
    return int.from_bytes(bits, "little")


class Rarity:
    """How many peers hold each chunk, bit-sliced."""

    __slots__ = ("_planes",)

    def __init__(self) -> None:
        self._planes: list[int] = []

    def add(self, mask: int) -> None:
        """One more holder of each chunk in `mask`."""
        if not mask:
            return
        planes = self._planes
        for k, plane in enumerate(planes):
            planes[k] = plane ^ mask
            mask &= plane
            if not mask:
                return
        planes.append(mask)

    def remove(self, mask: int) -> None:
        """One holder less of each chunk in `mask`, each of which had one."""
        for k, plane in enumerate(self._planes):
            if not mask:
                break
            self._planes[k] = plane ^ mask
            mask &= self._planes[k]
        while self._planes and not self._planes[-1]:
            self._planes.pop()

    def held(self) -> int:
        """The chunks that at least one peer holds."""
        union = 0
        for plane in self._planes:
            union |= plane
        return union

    def single(self) -> int:
        """The chunks that exactly one peer holds."""
        if not self._planes:
            return 0
        more = 0
        for plane in self._planes[1:]:
            more |= plane
        return self._planes[0] & ~more

    def count(self, index: int) -> int:
        """How many hold this chunk."""
        return sum((plane >> index & 1) << k for k, plane in enumerate(self._planes))

    def rarest(self, candidates: int) -> int:
        """Those of `candidates` that the fewest hold."""
        for plane in reversed(self._planes):
            common = candidates & plane
            if common != candidates:
                candidates ^= common
        return candidates


def choose(
    candidates: int, limit: int, rng: random.Random, *, among: int | None = None
) -> list[int]:
    """Up to `limit` members of a set that is not empty: a random one and its successors.

    With `among`, the random one is one of so many lowest. In small sets each of them is as likely; in others a random
    place is taken, among the lowest as far as they lie evenly, and the next member from there: who stands behind a gap
    is chosen more often.
    """
    start = pick_one(candidates, rng, among=among)
    if limit == 1:
        return [start]
    chosen = []
    for bit in bits_of((candidates >> start) & ((1 << _WINDOW_BITS) - 1)):
        chosen.append(start + bit)
        if len(chosen) == limit:
            break
    return chosen


def pick_one(candidates: int, rng: random.Random, *, among: int | None = None) -> int:
    """As `choose`, one member."""
    count = candidates.bit_count()
    few = count if among is None or among > count else among
    if few <= _FEW:
        for _ in range(int(rng.random() * few)):
            candidates &= candidates - 1
        return (candidates & -candidates).bit_length() - 1
    lowest = (candidates & -candidates).bit_length() - 1
    span = (candidates.bit_length() - lowest) * few // count
    place = lowest + int(rng.random() * span)
    rest = candidates >> place  # not empty: the place is not beyond the highest member
    return place + (rest & -rest).bit_length() - 1


def bits_of(mask: int) -> Iterator[int]:
    """The members of a small set, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
