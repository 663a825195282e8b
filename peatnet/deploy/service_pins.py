"""What keeps the blobs of models in service, and of those on their way there, from being removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from peatnet.blobs import Hash

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peatnet.deploy.activation import Candidate

PIN: Final = "service"
"""Why the blob of a model in service, or on its way there, is pinned."""


class Pins(Protocol):
    """What keeps blobs from being removed; a store."""

    def pin(self, blob: Hash, reason: str) -> None:
        """Keep a blob."""

    def unpin(self, blob: Hash, reason: str) -> None:
        """Keep it no longer for this reason."""

    def pins(self) -> dict[Hash, set[str]]:
        """The reasons for which blobs are kept."""


def pin_only(pins: Pins, candidates: Iterable[Candidate]) -> None:
    """Pin the blobs of these, and no others for this reason. Blocks.

    Raises:
        StorageError, DiskFull: the pins could not be written.
    """
    wanted = {Hash.parse(each.blob) for each in candidates if each.blob is not None}
    present = {blob for blob, reasons in pins.pins().items() if PIN in reasons}
    for blob in wanted - present:
        pins.pin(blob, PIN)
    for blob in present - wanted:
        pins.unpin(blob, PIN)
