"""What a node shows of itself: plain values, with the JSON shapes that scripts rely on.

They are snapshots: nothing here changes after it was made, and nothing here reaches back into the node.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class SourceChoice(StrEnum):
    """Where ``get`` may take bytes from."""

    ANY = "any"
    PEERS = "peers"
    HTTP = "http"


class _View:
    """Gives a dataclass its JSON object, field by field."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this view, with the fields in their order."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # subclasses are dataclasses


@dataclass(frozen=True, slots=True)
class ModelView(_View):
    """One model version of one publisher, as this node sees it.

    ``status`` is Peat's model status in lower case (``available``, ``downloading``, ``ready``, ``loaded``,
    ``failed``); ``download_progress`` is 0..1 of verified bytes; ``local_path`` is set once the file is
    complete and verified.
    """

    model_id: str
    version: str
    publisher: str
    trusted: bool
    status: str
    download_progress: float
    size_bytes: int
    blob_hash: str | None
    local_path: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class PeerView(_View):
    """One other node that this node knows: connected now, known from before, or banned.

    ``banned_until`` is an RFC 3339 time in UTC, or None.
    """

    peer_id: str
    addrs: list[str]
    connected: bool
    banned_until: str | None


@dataclass(frozen=True, slots=True)
class LimitsView(_View):
    """What a node may send and fetch, in bytes a second; None: no limit."""

    upload_limit: float | None
    download_limit: float | None
    peer_upload_limit: float | None


@dataclass(frozen=True, slots=True)
class GetResult(_View):
    """What ``get`` delivered: the verified file, and which source gave how many bytes of it."""

    path: str
    blob_hash: str
    size_bytes: int
    seconds: float
    bytes_by_source: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress(_View):
    """How far a download is; ``rate`` is in bytes a second.

    ``received_bytes`` are those verified and those that are here but can be verified only as a whole, when all have
    come; it exceeds ``verified_bytes`` only where a file is fetched without a chunk table. Neither ever falls.
    """

    size_bytes: int
    verified_bytes: int
    received_bytes: int = field(default=0, kw_only=True)
    rate: float
    eta_s: float | None
    bytes_by_source: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelChanged(_View):
    """A model appeared, was withdrawn, or changed its local state."""

    model_id: str
    version: str
    status: str


@dataclass(frozen=True, slots=True)
class PeerChanged(_View):
    """A peer connected, left or was banned."""

    peer_id: str
    connected: bool
    banned: bool


Change = ModelChanged | PeerChanged
