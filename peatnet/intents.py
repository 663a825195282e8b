"""What people asked for and have not got: on disk, so that a crash or a stop does not lose it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from peatnet.errors import PeatnetError
from peatnet.fetching import USUAL_PRIORITY
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Container

    from peatnet.states import Intent, States

log = get_logger(__name__)


class Intents:
    """The names of fetches, each with how it is wanted.

    Attributes:
        left: those that an earlier run of the node left, and that are neither done nor given up.
    """

    def __init__(self, states: States) -> None:
        self._states = states
        self.left: dict[str, Intent] = {}
        self._given_up: set[str] = set()
        # An intent that is struck and noted again at once must end up noted.
        self._writing = trio.Lock()

    async def load(self) -> None:
        """Find what an earlier run has left."""
        for intent in await trio.to_thread.run_sync(self._states.intents):
            self.left[intent.target] = intent

    def priority_of(self, name: str) -> int:
        """How urgent what an earlier run has left is; usual where it left nothing of this name."""
        intent = self.left.get(name)
        return USUAL_PRIORITY if intent is None else intent.priority

    async def note(self, intent: Intent) -> None:
        """Somebody asks for this.

        Raises:
            DiskFull, StorageError: it cannot be noted.
        """
        async with self._writing:
            await trio.to_thread.run_sync(self._states.add_intent, intent)

    def give_up(self, name: str) -> None:
        """It is done, or not asked for any more; :meth:`strike` takes it off the disk.

        Not at once: when the node stops, all who ask are cancelled, and what they asked for must stay.
        """
        self.left.pop(name, None)
        self._given_up.add(name)

    async def strike(self, but: Container[str]) -> None:
        """Take off the disk what was given up, but for these names, which are asked for again.

        A disk that refuses is asked again the next time.
        """
        async with self._writing:
            names = [name for name in self._given_up if name not in but]
            if not names:
                return
            try:
                await trio.to_thread.run_sync(self._states.drop_intents, names)
            except PeatnetError as exc:
                log.warning("intents not struck", count=len(names), error=exc.message)
                return
            self._given_up.difference_update(names)
