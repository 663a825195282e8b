"""The engine: runs downloads over sources of any kind, drives the swarm, fills the store.

No sockets and no protocols here: what delivers chunks implements `Source`. Runs on trio.
"""

from __future__ import annotations

from peatnet.transfer.download import Download
from peatnet.transfer.progress import Progress, RateMeter, Stage
from peatnet.transfer.settings import DownloadSettings
from peatnet.transfer.source import Source, SourceLink

__all__ = [
    "Download",
    "DownloadSettings",
    "Progress",
    "RateMeter",
    "Source",
    "SourceLink",
    "Stage",
]
