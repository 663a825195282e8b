"""Links of a virtual fleet: how long chunks take that pass an uplink and a downlink, among others.

Two ways to say it: one is true to what TCP does and dear, one is rough and cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtual_fleet import Fleet, Node

    from peatnet.swarm.flows import Job


class QueuedLinks:
    """Each link is one queue. Cheap: one event a chunk.

    A chunk passes both links at once, a little at a time: it starts when the sender's uplink is free, and is there when
    both it and the receiver's downlink, a queue as well, have carried it.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def send(self, source: Node, node: Node, index: int, job: Job) -> None:
        """A chunk starts."""
        fleet = self._fleet
        begin = max(fleet.now, source.up_free)
        up = source.up_free = begin + job.size / source.up
        down = node.down_free = max(begin, node.down_free) + job.size / node.down
        at = max(down, up) + 2 * fleet.latency
        fleet.agenda.add(at, fleet.sent, (source, node, index, job, source.uploads))


class _Flow:
    __slots__ = ("index", "job", "left", "node", "rate", "source", "uploads")

    def __init__(self, source: Node, node: Node, index: int, job: Job) -> None:
        self.source = source
        self.node = node
        self.index = index
        self.job = job
        self.uploads = source.uploads
        self.left = float(job.size)
        self.rate = 0.0


class FairLinks:
    """Chunks that share a link get equal shares of it, as far as their other ends let them (max-min fair).

    That is what TCP tends to. Each event costs time in proportion to all that is on its way.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._flows: list[_Flow] = []
        self._at = 0.0
        self._turn = 0

    def send(self, source: Node, node: Node, index: int, job: Job) -> None:
        """A chunk starts."""
        self._advance()
        self._flows.append(_Flow(source, node, index, job))
        self._settle()

    def _advance(self) -> None:
        elapsed, self._at = self._fleet.now - self._at, self._fleet.now
        for flow in self._flows:
            flow.left -= flow.rate * elapsed

    def _settle(self) -> None:
        """Share out the links, and look again when the first chunk is through."""
        self._turn += 1
        if not self._flows:
            return
        self._share()
        soonest = min(flow.left / flow.rate for flow in self._flows)
        self._fleet.at(self._fleet.now + max(soonest, 0.0), self._look, self._turn)

    def _look(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._advance()
        through = [flow for flow in self._flows if flow.left < 1]
        self._flows = [flow for flow in self._flows if flow.left >= 1]
        self._settle()
        for flow in through:
            self._fleet.sent(flow.source, flow.node, flow.index, flow.job, flow.uploads)

    def _share(self) -> None:
        room: dict[tuple[bool, Node], float] = {}
        users: dict[tuple[bool, Node], set[_Flow]] = {}
        for flow in self._flows:
            for link, rate in (
                ((True, flow.source), flow.source.up),
                ((False, flow.node), flow.node.down),
            ):
                room[link] = rate
                users.setdefault(link, set()).add(flow)
        while users:
            link = min(users, key=lambda each: room[each] / len(users[each]))
            rate = room[link] / len(users[link])
            for flow in users.pop(link):
                flow.rate = rate
                other = (False, flow.node) if link[0] else (True, flow.source)
                others = users.get(other)
                if others is not None:
                    room[other] -= rate
                    others.discard(flow)
                    if not others:
                        del users[other]
