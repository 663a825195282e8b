"""Names under ``models/`` whose blob is gone: they go as well, but for one that is the last copy of its bytes.

A blob is gone because somebody removed it, because it was damaged, or because its file was lost: by a hand that cleaned up, or
with a disk that is not mounted. In the last case the model's own name may still lead to the bytes. Whether it does is found out
by reading all of them, so without the lock that the rest of the node waits for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from peatnet.errors import DiskFull, IntegrityError, StorageError, UsageError
from peatnet.log import get_logger
from peatnet.places import is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from threading import RLock

    from peatnet.blobs import Hash
    from peatnet.library import Library

log = get_logger(__name__)


@dataclass(slots=True)
class _Looked:
    """What reading the names of lost blobs has shown.

    Attributes:
        restored: the blobs that were put back.
        worthless: names that are not what they should be, with the blob that each should be.
    """

    restored: list[Hash] = field(default_factory=list)
    worthless: set[tuple[str, Hash]] = field(default_factory=set)


class Sweeper:
    """What takes names away. All methods block.

    Args:
        library: whose names; it has places, states and a store.
        turn: held while states, names under ``models/`` or blobs change.
    """

    def __init__(self, library: Library, turn: RLock) -> None:
        self._library = library
        self._store = library.store
        self._states = library.states
        self._turn = turn

    def run(self, progress: Callable[[int], None] | None = None) -> list[Hash]:
        """Put lost blobs back from their names, and take those away that are of no use.

        Args:
            progress: called with the bytes of a file read so far; may raise to stop.

        Returns:
            The blobs that were put back.
        """
        looked = self._look(progress)
        self.take(worthless=looked.worthless)
        return looked.restored

    def take(
        self,
        *,
        removed: Collection[Hash] = (),
        worthless: Collection[tuple[str, Hash]] = (),
    ) -> None:
        """Take away names whose blob is gone, which would keep its bytes, and what models left that are no more.

        Where the blob of such a model is still here, for a pin's sake, its name is; where it is for another model's, it is not.

        Args:
            removed: blobs that somebody has removed on purpose.
            worthless: names that were read, and are not the blob. Of any other name whose blob is gone nobody knows
                whether it is the last copy: it stays.
        """
        with self._turn:
            live = {each.key: self._library.kept_as(each) for each in self._library.models()}
            others = set(live.values())
            for key, state in self._states.items():
                blob, path = state.blob, state.path
                here = blob is not None and self._store.info(blob) is not None
                if here and (key in live or blob not in others):
                    continue
                if not here and path is not None and is_name(path) and blob is not None:
                    nothing_lost = blob in removed or (path, blob) in worthless
                    if not nothing_lost:
                        continue
                if key not in live:
                    self._states.forget(key)
                elif path is not None:
                    self._states.put(key, replace(state, path=None, verified_at=None))
                if path is not None:
                    self._library.places.take(path)

    def _look(self, progress: Callable[[int], None] | None) -> _Looked:
        looked = _Looked()
        for blob, path, chunk_size in self._lost():
            file = self._library.config.data_dir / path
            try:
                spare = self._store.examine(blob, file, chunk_size=chunk_size, progress=progress)
                if spare is None:
                    looked.worthless.add((path, blob))
                    continue
                with self._turn:
                    # Not where somebody has removed the model meanwhile, on purpose.
                    if self._has(path, blob) and self._store.restore(spare) is not None:
                        looked.restored.append(blob)
            except (StorageError, DiskFull, IntegrityError, UsageError) as exc:
                log.warning("lost blob not put back", path=str(file), error=exc.message)
        return looked

    def _lost(self) -> Iterator[tuple[Hash, str, int | None]]:
        """The names whose blob has no file, with the blob, and the size of its chunks where its model tells."""
        chunks = {
            model.key: model.manifest.chunks
            for model in self._library.models()
            if model.manifest.chunks is not None
        }
        for key, state in self._states.items():
            blob, path = state.blob, state.path
            if blob is None or path is None or not is_name(path) or self._store.has_file(blob):
                continue
            yield blob, path, chunks[key].chunk_size if key in chunks else None

    def _has(self, path: str, blob: Hash) -> bool:
        return any(state.path == path and state.blob == blob for _, state in self._states.items())
