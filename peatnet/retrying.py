"""When a fetch that failed is tried again: the sooner, the likelier it is to mend itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

FIRST_RETRY = 2.0
LONGEST_RETRY = 300.0

RetryKey = tuple[str, bytes]
"""What failed: a fetch's name, and the id of the record that it went by; a newer record starts with a clean slate."""


@dataclass(slots=True)
class Retry:
    """How often something has failed, and when it is due again, on trio's clock.

    ``lasting``: it is not worth trying sooner because a peer has come.
    """

    failures: int = 0
    due: float = 0.0
    lasting: bool = False


class Retries:
    """All that failed and is wanted still."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._retries: dict[RetryKey, Retry] = {}

    def of(self, key: RetryKey) -> Retry:
        """What is known; of most nothing is, and they are due."""
        return self._retries.get(key, Retry())

    def failed(self, key: RetryKey, *, lasting: bool, hopeless: bool = False) -> None:
        """Note a failure; what is hopeless is not tried again."""
        retry = self._retries.setdefault(key, Retry())
        retry.failures += 1
        retry.lasting = lasting
        delay = FIRST_RETRY * 2.0 ** min(retry.failures + (3 if lasting else -1), 8)
        delay = min(LONGEST_RETRY, delay) * self._rng.uniform(0.75, 1.25)
        retry.due = trio.current_time() + (math.inf if hopeless else delay)

    def done(self, key: RetryKey) -> None:
        """It went well."""
        self._retries.pop(key, None)

    def keep(self, keys: Iterable[RetryKey]) -> None:
        """Forget all but these."""
        wanted = set(keys)
        self._retries = {key: retry for key, retry in self._retries.items() if key in wanted}

    def hurry(self, concerns: Callable[[str], bool] = lambda _: True) -> bool:
        """A peer has come that may mend the failures of the names that ``concerns`` is true for.

        Returns:
            Whether something is due sooner than before.
        """
        soon = trio.current_time() + FIRST_RETRY
        hurried = [
            retry
            for (name, _), retry in self._retries.items()
            if not retry.lasting and retry.due > soon and concerns(name)
        ]
        for retry in hurried:
            retry.due = soon
        return bool(hurried)
