"""What a reference can mean: a model, which is a manifest that counts, or a blob."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from peatnet.blobs import Hash
from peatnet.errors import Ambiguous

if TYPE_CHECKING:
    from peatnet.blobs import BlobInfo
    from peatnet.models import ModelManifest
    from peatnet.records import PeerId, Record
    from peatnet.states import Key


@dataclass(frozen=True, slots=True)
class Model:
    """A manifest that counts: in the catalogue, and not withdrawn."""

    record: Record
    manifest: ModelManifest
    trusted: bool
    blob: Hash | None = field(init=False, repr=False, compare=False)
    """The blob that the manifest names; foreign manifests may name none."""
    publisher: str = field(init=False, repr=False, compare=False)
    """Who signed it."""
    key: Key = field(init=False, repr=False, compare=False)
    """Its name among all models."""

    def __post_init__(self) -> None:
        # Once, since a look at thousands of models asks for them again and again.
        named = self.manifest.blob_hash
        publisher = _plain(self.record.publisher)
        object.__setattr__(self, "blob", Hash.parse(named) if named else None)
        object.__setattr__(self, "publisher", publisher)
        object.__setattr__(self, "key", (publisher, self.record.key))

    def __str__(self) -> str:
        return self.record.key


@lru_cache(1024)
def _plain(publisher: PeerId) -> str:
    """One text for all models of a publisher, whose hash is computed once."""
    return str(publisher)


@dataclass(frozen=True, slots=True)
class Target:
    """What a reference means: a model, a bare blob, or a model found by its blob.

    Attributes:
        hearsay: a blob was meant, and what the model says of it is an untrusted publisher's word.
    """

    model: Model | None
    blob: Hash | None
    hearsay: bool = False

    @property
    def url(self) -> str | None:
        """Where on the web the manifest says that the bytes are."""
        return None if self.model is None else self.model.manifest.download_url


def is_same_file(one: ModelManifest, other: ModelManifest) -> bool:
    """Whether two manifests are about the same bytes, as far as they say."""
    for ours, theirs in ((one.blob_hash, other.blob_hash), (one.sha256, other.sha256)):
        if ours and theirs:
            return bool(ours == theirs)
    return one == other


def best_of(reference: str, named: list[Model]) -> Model:
    """Of the models that a reference names, the one that is meant: a trusted publisher's, the one published last.

    Raises:
        Ambiguous: several publishers have one, and none of them or several are trusted.
    """
    trusted = [model for model in named if model.trusted]
    candidates = trusted or named
    publishers = sorted({model.publisher for model in candidates})
    if len(publishers) > 1:
        raise Ambiguous(
            f"{reference!r} is published by {len(publishers)} publishers: {', '.join(publishers)}",
            hint="name the blob by its hash; `peatnet models` shows it",
        )
    return max(candidates, key=lambda model: model.record.order)


def check_against(manifest: ModelManifest, info: BlobInfo) -> str | None:
    """What of a manifest a blob contradicts, in words; None where they agree."""
    if manifest.size_bytes and manifest.size_bytes != info.size:
        return f"the file has {info.size} bytes, the manifest says {manifest.size_bytes}"
    if manifest.sha256 and info.sha256 is not None and manifest.sha256 != info.sha256:
        return f"the file's SHA-256 is {info.sha256}, the manifest says {manifest.sha256}"
    return None
