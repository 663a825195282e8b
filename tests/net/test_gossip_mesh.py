"""A fleet's gossip mesh, between real hosts that all start at the same moment, as after a power cut."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from typing import Any

import trio
from net_tools import LOOPBACK, PATIENCE, until

from peatnet.net.gossip import DEGREE_HIGH, DEGREE_LOW, STATUS_TOPIC, Gossip, open_gossip
from peatnet.net.host import Host, open_host
from peatnet.net.node_status import NodeStatus

FLEET = 12
HEARTBEAT = 0.2
# After so many a mesh that loses its members has lost them.
HEARTBEATS = 25


class Member:
    """A node as far as gossip goes."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.heard: set[str] = set()
        self.heartbeats = 0
        self.gossip: Gossip

    async def open(self, stack: AsyncExitStack) -> None:
        self.gossip = await stack.enter_async_context(
            open_gossip(self.host, self._judge, lambda _author, _presence: None, self._take_status)
        )
        self.router.heartbeat_interval = HEARTBEAT
        maintain = self.router.mesh_heartbeat

        def counted() -> Any:
            self.heartbeats += 1
            return maintain()

        self.router.mesh_heartbeat = counted

    @property
    def router(self) -> Any:
        pubsub: Any = self.gossip._pubsub
        return pubsub.router

    @property
    def neighbors(self) -> int:
        return len(self.router.mesh[STATUS_TOPIC])

    async def _judge(self, _forwarder: str, _envelope: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    def _take_status(self, author: str, _number: int, _status: NodeStatus) -> None:
        self.heard.add(author)


async def test_who_starts_together_hears_all_others() -> None:
    async with AsyncExitStack() as stack:
        fleet = []
        for _ in range(FLEET):
            opened = open_host(secrets.token_bytes(32), [LOOPBACK], mdns=False)
            fleet.append(Member(await stack.enter_async_context(opened)))
        for member in fleet:
            await member.open(stack)

        async def meet(number: int) -> None:
            for other in fleet[:number]:
                await fleet[number].host.connect(other.host.peer_id, other.host.listening)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(FLEET):
                    nursery.start_soon(meet, number)
        begin = {member.host.peer_id: member.heartbeats for member in fleet}
        await until(
            lambda: all(
                member.heartbeats > begin[member.host.peer_id] + HEARTBEATS for member in fleet
            )
        )
        neighbors = [member.neighbors for member in fleet]
        assert min(neighbors) >= DEGREE_LOW - 1, neighbors  # who has too few asks others each time
        assert max(neighbors) <= DEGREE_HIGH + 2, neighbors
        for member in fleet:
            await member.gossip.publish_status(NodeStatus("a node"))
        everybody = {member.host.peer_id for member in fleet}
        await until(
            lambda: all(member.heard == everybody - {member.host.peer_id} for member in fleet)
        )
