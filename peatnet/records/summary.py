"""What two catalogues tell each other to find their differences: a digest of a set, and slot summaries.

The digest is that of a set, so it does not depend on the order of arrival, and it is kept up to date by one
addition a change: every record id is stretched to 4096 bits, and the numbers are summed modulo 2**4096. (This
is AdHash of Bellare and Micciancio 1997. Plain XOR of the ids would be cheaper, but there anybody who can
publish a few hundred records can find some that cancel out; with a sum of this width, Wagner's
generalized birthday attack needs about 2**128 steps.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

from peatnet.errors import RemoteProtocolError
from peatnet.records.record import MAX_SEQUENCE, SLOT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

TIE_BYTES = 8
SUMMARY_BYTES = SLOT_BYTES + 8 + TIE_BYTES

_SUM_BYTES = 512
_MODULUS = 1 << 8 * _SUM_BYTES
_DIGEST_CONTEXT = "peatnet catalogue digest v1"


def _stretch(record_id: bytes) -> int:
    hasher = blake3(record_id, derive_key_context=_DIGEST_CONTEXT)
    return int.from_bytes(hasher.digest(length=_SUM_BYTES), "little")


class SetDigest:
    """The digest of a set of record ids. `add` and `remove` cost some microseconds, whatever the size.

    The caller sees to it that an id is added once and only removed when it is in.
    """

    __slots__ = ("_sum",)

    def __init__(self) -> None:
        self._sum = 0

    def add(self, record_id: bytes) -> None:
        """Put an id in."""
        self._sum = (self._sum + _stretch(record_id)) % _MODULUS

    def remove(self, record_id: bytes) -> None:
        """Take an id out."""
        self._sum = (self._sum - _stretch(record_id)) % _MODULUS

    def digest(self) -> bytes:
        """BLAKE3 of the sum as 512 bytes, little-endian; 32 bytes."""
        return blake3(self._sum.to_bytes(_SUM_BYTES, "little")).digest()


@dataclass(frozen=True, slots=True, order=True)
class SlotSummary:
    """How new the record in a slot is.

    Args:
        slot: the 16 bytes that name the slot.
        sequence: the sequence number of the record in it.
        tie: the first 8 bytes of the record's id, which order records of the same sequence number.

    Raises:
        RemoteProtocolError: a field has the wrong length or is out of range.
    """

    slot: bytes
    sequence: int
    tie: bytes

    def __post_init__(self) -> None:
        if len(self.slot) != SLOT_BYTES or len(self.tie) != TIE_BYTES:
            raise RemoteProtocolError("a slot summary's slot or tie has the wrong length")
        if not 0 <= self.sequence <= MAX_SEQUENCE:
            raise RemoteProtocolError(f"a slot summary's sequence {self.sequence} is out of range")


def pack_summaries(summaries: Iterable[SlotSummary]) -> bytes:
    """32 bytes a summary, ascending by slot: slot, sequence (8 bytes, big-endian), tie."""
    return b"".join(
        item.slot + item.sequence.to_bytes(8, "big") + item.tie for item in sorted(summaries)
    )


def unpack_summaries(data: bytes, *, limit: int) -> list[SlotSummary]:
    """Read what `pack_summaries` writes.

    Raises:
        RemoteProtocolError: a wrong length, more than `limit` summaries, slots not strictly ascending, or a
            sequence out of range.
    """
    count, rest = divmod(len(data), SUMMARY_BYTES)
    if rest:
        raise RemoteProtocolError(f"a list of slot summaries has {len(data)} bytes")
    if count > limit:
        raise RemoteProtocolError(f"{count} slot summaries, at most {limit} are allowed")
    found: list[SlotSummary] = []
    for start in range(0, len(data), SUMMARY_BYTES):
        sequence_at, tie_at = start + SLOT_BYTES, start + SLOT_BYTES + 8
        slot = data[start:sequence_at]
        if found and slot <= found[-1].slot:
            raise RemoteProtocolError("slot summaries are not strictly ascending by slot")
        sequence = int.from_bytes(data[sequence_at:tie_at], "big")
        found.append(SlotSummary(slot, sequence, data[tie_at : start + SUMMARY_BYTES]))
    return found
