"""Which source to ask for which chunk next: the download as a pure state machine.

Fed events, it returns actions; time and randomness are passed in, and nothing here does any I/O.
Rarest first, retry elsewhere, endgame, drop and ban, and HTTP behind the peers.
"""

from __future__ import annotations

from peatnet.swarm.availability import mask_of
from peatnet.swarm.events import (
    Action,
    Ban,
    Budget,
    Cancel,
    ChunkArrived,
    ChunkCorrupt,
    ChunkDeferred,
    ChunkFailed,
    ChunkFound,
    Done,
    Drop,
    Event,
    Request,
    SourceGained,
    SourceHas,
    SourceJoined,
    SourceLine,
    SourceLost,
    Stopped,
    Tick,
    Tier,
)
from peatnet.swarm.machine import Swarm
from peatnet.swarm.settings import SwarmSettings
from peatnet.swarm.sources import Life, SourceView

__all__ = [
    "Action",
    "Ban",
    "Budget",
    "Cancel",
    "ChunkArrived",
    "ChunkCorrupt",
    "ChunkDeferred",
    "ChunkFailed",
    "ChunkFound",
    "Done",
    "Drop",
    "Event",
    "Life",
    "Request",
    "SourceGained",
    "SourceHas",
    "SourceJoined",
    "SourceLine",
    "SourceLost",
    "SourceView",
    "Stopped",
    "Swarm",
    "SwarmSettings",
    "Tick",
    "Tier",
    "mask_of",
]
