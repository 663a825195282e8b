"""One fetch that runs, as the keeper sees it, and how fetches are told apart."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from peatnet.errors import LocalProtocolError, PeatnetError
from peatnet.fetching import USUAL_PRIORITY, BlobFetch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peatnet.blobs import BlobInfo, Hash
    from peatnet.concurrency import Stirring
    from peatnet.retrying import RetryKey
    from peatnet.small_fetch import Member
    from peatnet.targets import Model, Target
    from peatnet.views import SourceChoice

# A small blob waits for its peer and its disk far longer than it moves bytes, and takes less of a place.
SMALL_BLOB = 128 * 1024
SMALL_SHARE = 1 / 8


@dataclass(slots=True)
class Job:
    """One fetch that runs, or is about to.

    Attributes:
        priority: where nobody waits for it: 1, the most urgent, to 5.
        askers: how many wait for it, by the priority that they want.
        member: its place in a group of small blobs; None where it is fetched by itself.
        look_after: whether the keeper is to look at all models again, even if this ends well.
    """

    name: str
    target: Target
    choice: SourceChoice
    fetch: BlobFetch
    stirring: Stirring
    priority: int = USUAL_PRIORITY
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    info: BlobInfo | None = None
    error: PeatnetError | None = None
    askers: Counter[int] = field(default_factory=Counter)
    member: Member | None = None
    look_after: bool = False

    def __post_init__(self) -> None:
        self._set_priority()

    @property
    def left_over(self) -> bool:
        """Whether it has ended because its group could not get it, which says nothing about the ordinary fetch."""
        ended = self.info is None and self.error is None and not self.scope.cancel_called
        return self.member is not None and ended

    @contextmanager
    def asked_for(self, priority: int) -> Iterator[None]:
        """Somebody waits for it, for as long as the context lasts: the most urgent of them counts."""
        self.askers[priority] += 1
        self._set_priority()
        try:
            yield
        finally:
            self.askers[priority] -= 1
            self._set_priority()

    def _set_priority(self) -> None:
        self.askers += Counter()  # drops those at zero
        self.fetch.set_priority(min(self.askers, default=self.priority))


def fetch_name(model: Model | None, blob: Hash | None) -> str:
    """A fetch's name: the blob's, or (a manifest that names none) the model's."""
    if blob is not None:
        return blob.hex()
    if model is None:
        raise LocalProtocolError("a target without a model and without a blob")
    return f"{model.publisher}/{model.record.key}"


def retry_key(target: Target) -> RetryKey:
    """What is tried again when it fails: a fetch, as one record describes it."""
    record = target.model.record.id if target.model is not None else b""
    return fetch_name(target.model, target.blob), record


def share_of(target: Target) -> float:
    """How much of a place a fetch takes."""
    size = target.model.manifest.size_bytes if target.model is not None else 0
    return SMALL_SHARE if 0 < size <= SMALL_BLOB else 1.0
