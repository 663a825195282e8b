"""Who is to be woken when there is news of a blob."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.blobs.hashes import Hash


class Wakers:
    """Callables that wait for news of a blob. Thread-safe; each is called once, then it has to be added again.

    So somebody who is busy telling the last news costs nothing meanwhile, however much there is. To miss nothing,
    be added first and look for news afterwards.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Hash, set[Callable[[], None]]] = {}

    def add(self, blob: Hash, wake: Callable[[], None]) -> None:
        """Have ``wake`` called at the next news, in whichever thread that is; it must be quick and not raise."""
        with self._lock:
            self._waiting.setdefault(blob, set()).add(wake)

    def discard(self, blob: Hash, wake: Callable[[], None]) -> None:
        """Have it called no more; a call that is under way in another thread is not waited for."""
        with self._lock:
            waiting = self._waiting.get(blob)
            if waiting is not None:
                waiting.discard(wake)
                if not waiting:
                    del self._waiting[blob]

    def wake(self, blob: Hash) -> None:
        """There is news. Not to be called under a lock that a waker could want."""
        # Without the lock: whoever is added after this look will find the news by looking.
        if blob not in self._waiting:
            return
        with self._lock:
            waiting = self._waiting.pop(blob, set())
        for wake in waiting:
            wake()
