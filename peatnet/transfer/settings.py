"""The knobs of one download."""

from __future__ import annotations

from dataclasses import dataclass, field

from peatnet.errors import UsageError
from peatnet.swarm import SwarmSettings

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class DownloadSettings:
    """How the engine behaves. Times are in seconds, sizes in bytes.

    Attributes:
        swarm: which sources are asked for what, and when.
        max_sources: how many peers are used at once; further ones wait until one is lost or of no use. Simulated fleets of
            any size are as fast with 10 or 12 as with all; each one costs a lane, some 10 to 20 ms of CPU at both ends.
        give_up_after: how long there may be no living source with a chunk that is missing; ``inf`` for ever.
        flush_bytes: new bytes after which the partial is made durable.
        flush_interval: time after which new bytes are made durable, however few.
        hash_step: most bytes that the whole-file hashers take in one call, so that cancellation is prompt; and new
            bytes after which they look whether they can go on.
    """

    swarm: SwarmSettings = field(default_factory=SwarmSettings)
    max_sources: int = 10
    give_up_after: float = 30.0
    flush_bytes: int = 64 * MIB
    flush_interval: float = 1.0
    hash_step: int = 32 * MIB

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            UsageError: naming the setting.
        """
        for name in ("max_sources", "give_up_after", "flush_bytes", "flush_interval", "hash_step"):
            if not getattr(self, name) > 0:
                raise UsageError(f"download settings: {name} must be above 0")
