"""What a node fetches by itself: the policy of its configuration, held against trust, state and hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peatnet.config import FetchPolicy
from peatnet.deploy.probe import HardwareProbe
from peatnet.errors import PeatnetError
from peatnet.log import get_logger
from peatnet.targets import Target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peatnet.library import Library
    from peatnet.targets import Model

log = get_logger(__name__)


class Policy:
    """Which models a node wants, and what an intent means.

    Attributes:
        hardware: what this machine has, as models are held against it.
    """

    def __init__(self, library: Library) -> None:
        config = library.config
        self._library = library
        self.hardware = HardwareProbe(config.data_dir, config.hardware.overrides())

    def wanted(self, models: Iterable[Model]) -> list[Target]:
        """Those of these models that are to be fetched without anybody asking."""
        return [
            Target(model, self._library.blob_of(model)) for model in models if self.wants(model)
        ]

    def wants(self, model: Model) -> bool:
        """Whether this model is to be fetched without anybody asking: it is not here, and the policy is for it."""
        config = self._library.config
        # Asked anew, since a fetch goes by the model as it was when it began.
        trusted = self._library.ledger.is_trusted(model.publisher)
        if config.fetch is FetchPolicy.NONE or not trusted:
            return False
        state = self._library.state(model)
        if state.removed or self._library.ready_info(model) is not None:
            return False
        if config.fetch is FetchPolicy.ALL:
            return True
        return self.hardware.lasting().can_run(model.manifest)

    def counts(self, model: Model) -> bool:
        """Whether its record still is the one that the catalogue goes by."""
        return self._library.ledger.counts(model.record)

    def intended(self, name: str) -> Target | None:
        """What an intent, by the name of its fetch, means now; None where there is nothing to do for it any more."""
        publisher, _, key = name.rpartition("/")
        try:
            if publisher:
                model = self._library.find_model((publisher, key))
                target = Target(model, self._library.blob_of(model))
            else:
                target = self._library.find(name)
        except PeatnetError as exc:
            log.info("intent dropped", target=name, reason=exc.message)
        else:
            if not self._is_done(target):
                return target
        return None

    def _is_done(self, target: Target) -> bool:
        if target.model is not None:
            return self._library.ready_info(target.model) is not None
        return target.blob is not None and self._library.store.info(target.blob) is not None
