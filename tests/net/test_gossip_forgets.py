"""What gossip keeps of messages that have passed: nothing that grows with time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from net_tools import place, two_networks, until

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.net.network import Network


def pubsub_of(net: Network) -> Any:
    assert net._gossip is not None
    return net._gossip._pubsub


async def test_when_each_message_passed_is_not_noted(tmp_path: Path) -> None:
    first, second = place(tmp_path / "first"), place(tmp_path / "second")
    async with two_networks(first, second) as (one, two):
        for number in range(5):
            await one.announce(await first.publish(f"{number}@1"))
        await until(lambda: len(second.ledger.catalogue) == 5)
        for net in (one, two):
            noted = pubsub_of(net).router.recent_message_deliveries
            assert noted  # py-libp2p still asks for it
            assert not any(noted.values())
