"""What a node may send and fetch in a second: shown, and changed while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peatnet.errors import UsageError
from peatnet.views import LimitsView

if TYPE_CHECKING:
    from peatnet.config import Config
    from peatnet.net.network import Network
    from peatnet.transfer.budget import DownloadBudget


class Limits:
    """The limits of one node.

    Args:
        config: what they are at the start.
        network: bounds what is sent; None without one.
        budget: bounds what is fetched.
    """

    def __init__(self, config: Config, network: Network | None, budget: DownloadBudget) -> None:
        self._config = config
        self._network = network
        self._budget = budget

    def show(self) -> LimitsView:
        """What they are now."""
        if self._network is None:
            config = self._config
            return LimitsView(config.upload_limit, config.download_limit, config.peer_upload_limit)
        upload, per_peer = self._network.gate.rates
        return LimitsView(upload, self._budget.rate, per_peer)

    def change(self, limits: LimitsView) -> None:
        """Change them, from now on, until the node ends.

        Raises:
            UsageError: this node has no network.
            LocalProtocolError: a rate is not above 0.
        """
        if self._network is None:
            raise UsageError(
                "no node is running here whose limits could be changed",
                hint="set upload_limit, download_limit and peer_upload_limit in config.toml",
            )
        self._network.gate.set_rates(limits.upload_limit, limits.peer_upload_limit)
        self._budget.set_rate(limits.download_limit)
