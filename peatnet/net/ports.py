"""What the network wants from the node around it: somebody who keeps the records.

The network hears records and passes them on; whether they are good, news, and worth keeping is decided behind
this port. No libp2p here, so that a node without a network can share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peatnet.errors import PeatnetError
    from peatnet.records import Catalogue, Outcome, Record


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one envelope; ``record`` is None where it was no valid record, and ``fault`` says why."""

    record: Record | None
    outcome: Outcome | None
    fault: PeatnetError | None = None


class RecordKeeper(Protocol):
    """Keeps the catalogue of this node."""

    catalogue: Catalogue

    async def take(self, envelopes: Sequence[bytes], by: str) -> list[Taken]:
        """Verify and keep what is news of what a peer has brought; one entry for each envelope, in order."""
        ...
