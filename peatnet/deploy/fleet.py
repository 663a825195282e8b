"""The fleet: the nodes that this one has ever heard of, and what each said last. Pure: time is passed in.

A node is *seen* while its last word is younger than ``EXPIRE``; sooner it counts as gone when it said that it stops,
or when our connection to it broke and a whole round has passed without a word by any other way. What an unseen node
said of its models counts no more, but it is remembered that there is such a node, and when it was last heard of: or
nobody could say who is missing.

Which word is the newest is told by the sender's own sequence numbers, which it keeps growing; never by clocks. A
replayed message is older than what is known, also of nodes that are not seen, and so revives nobody.

The memory is bounded. When it is full, a newcomer takes the place of the unseen node that was known for the shortest
time; where all are seen, it is not taken in. So whoever invents nodes by the thousand displaces what was invented
before, not the machines that have been there for weeks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from peatnet.errors import Ambiguous, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peatnet.net.node_status import CommandReport, NodeStatus

EVERY: Final = 20.0
"""Seconds between two words of a node in which nothing changes."""

EXPIRE: Final = 60.0
"""Seconds after which a node that said nothing is not seen any more."""

LOST_EXPIRE: Final = 25.0
"""The same for one whose connection broke: a round, and the time that its word may take."""

MAX_NODES: Final = 1024

LIKELY: Final = 32
"""How many of the nodes heard of last, and how many of those known for longest, are looked for when a node starts."""

_SHORTEST_END: Final = 6
"""Digits of the end of a peer id that name a node; fewer are a slip of the pen."""


@dataclass(frozen=True, slots=True)
class KnownNode:
    """One other node.

    Attributes:
        peer_id: who it is.
        name: what it called itself last.
        sequence: of its last word.
        first_seen: when it was first heard of, on the caller's clock.
        last_seen: when its last word came.
        status: that word, without models and outcomes once it is not seen any more; None: it came before this process began.
        lost: our connection to it broke since then.
        left: it said that it stops.
        addresses: where it could be dialled by its last word, also by one that came before this process began.
    """

    peer_id: str
    name: str
    sequence: int
    first_seen: float
    last_seen: float
    status: NodeStatus | None = None
    lost: bool = False
    left: bool = False
    addresses: tuple[str, ...] = ()

    def is_seen(self, now: float) -> bool:
        """Whether it is there, for all we know."""
        if self.status is None or self.left:
            return False
        return now < self.gone_at

    @property
    def gone_at(self) -> float:
        """When it will not be seen any more, if it says nothing."""
        return self.last_seen + (LOST_EXPIRE if self.lost else EXPIRE)

    def age(self, now: float) -> float:
        """Seconds since its last word."""
        return max(0.0, now - self.last_seen)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a word changed.

    Attributes:
        node: as it is known now.
        new: it was not known, or not seen.
        dropped: whose place it took; None: nobody's.
    """

    node: KnownNode
    new: bool
    dropped: str | None = None


class Fleet:
    """All other nodes.

    Args:
        known: those of earlier runs.
        max_nodes: how many are remembered.
    """

    def __init__(self, known: Iterable[KnownNode] = (), *, max_nodes: int = MAX_NODES) -> None:
        self._max_nodes = max_nodes
        newest = sorted(known, key=lambda node: -node.last_seen)[:max_nodes]
        self._nodes = {node.peer_id: node for node in newest}
        self._seen: set[str] = set()

    def __len__(self) -> int:
        """How many nodes are known."""
        return len(self._nodes)

    def nodes(self) -> list[KnownNode]:
        """All of them, by name."""
        return sorted(self._nodes.values(), key=lambda node: (node.name, node.peer_id))

    def get(self, peer_id: str) -> KnownNode | None:
        """One of them."""
        return self._nodes.get(peer_id)

    def count_seen(self, now: float) -> int:
        """How many are there."""
        return sum(node.is_seen(now) for node in self._nodes.values())

    def hear(self, peer_id: str, sequence: int, status: NodeStatus, now: float) -> Heard | None:
        """A node said something; None where that is old, or there is no room for one more."""
        known, dropped = self._nodes.get(peer_id), None
        if known is None:
            if status.leaving:
                return None  # it is gone before anybody knew it
            if len(self._nodes) >= self._max_nodes:
                dropped = self._least(now)
                if dropped is None:
                    return None
                self.forget(dropped)
        elif sequence <= known.sequence:
            return None
        node = KnownNode(
            peer_id,
            status.name,
            sequence,
            known.first_seen if known else now,
            now,
            status,
            left=status.leaving,
            addresses=status.addresses or (known.addresses if known else ()),
        )
        was_seen = known is not None and known.is_seen(now)
        if node.is_seen(now):
            self._seen.add(peer_id)
        else:
            node = _in_short(node)
        self._nodes[peer_id] = node
        return Heard(node, new=not was_seen and not node.left, dropped=dropped)

    def lost(self, peer_id: str) -> None:
        """Our connection to a node broke; its next word, which may come by another way, makes up for it."""
        if (node := self._nodes.get(peer_id)) is not None:
            self._nodes[peer_id] = replace(node, lost=True)

    def expire(self, now: float) -> list[KnownNode]:
        """The nodes that were seen at the last call (or heard since) and are not any more."""
        gone = [
            peer_id
            for peer_id in self._seen
            if peer_id not in self._nodes or not self._nodes[peer_id].is_seen(now)
        ]
        self._seen.difference_update(gone)
        known = [peer_id for peer_id in sorted(gone) if peer_id in self._nodes]
        for peer_id in known:
            self._nodes[peer_id] = _in_short(self._nodes[peer_id])
        return [self._nodes[peer_id] for peer_id in known]

    def next_expiry(self, now: float) -> float | None:
        """When the next node that is seen will not be, if nothing is heard; None: none is seen."""
        times = [node.gone_at for node in self._nodes.values() if node.is_seen(now)]
        return min(times, default=None)

    def forget(self, peer_id: str) -> bool:
        """Forget a node until it says something again; False where it is not known."""
        return self._nodes.pop(peer_id, None) is not None

    def likely(self) -> list[KnownNode]:
        """Those to look for when a run begins: some that were heard of last, and as many that were there for longest.

        The former are where they were, most likely; among the latter are none that somebody has just invented.
        """
        where = [node for node in self._nodes.values() if node.addresses]
        last = sorted(where, key=lambda node: -node.last_seen)[:LIKELY]
        longest = sorted(where, key=lambda node: node.first_seen - node.last_seen)[:LIKELY]
        return list({node.peer_id: node for node in (*last, *longest)}.values())

    def outcomes(self, command_id: str, now: float) -> dict[str, CommandReport]:
        """What became of a command on the nodes that are seen, by their peer ids."""
        found = {}
        for node in self._nodes.values():
            if node.status is not None and node.is_seen(now):
                for report in node.status.outcomes:
                    if report.command_id == command_id:
                        found[node.peer_id] = report
        return found

    def _least(self, now: float) -> str | None:
        unseen = [node for node in self._nodes.values() if not node.is_seen(now)]
        least = min(
            unseen,
            key=lambda node: (node.last_seen - node.first_seen, node.last_seen),
            default=None,
        )
        return least.peer_id if least is not None else None


def _in_short(node: KnownNode) -> KnownNode:
    """One that is not seen: nobody asks any more what it told of models, which is most of what it told."""
    status = node.status
    if status is None:
        return node
    return replace(node, status=replace(status, models=(), outcomes=()))


def find_node(text: str, nodes: Iterable[tuple[str, str]]) -> str:
    """The peer id of the node that a person means by a peer id, a name, or the end of a peer id.

    A name is what a node calls itself, and any node may call itself anything. So a name that several have names none of
    them, also when only one of them is there now.

    Args:
        text: what the person wrote; a ``…`` before the end of a peer id is left out.
        nodes: peer ids with names.

    Raises:
        NotFound: no node is called that.
        Ambiguous: several are.
    """
    known = dict(nodes)
    if text in known:
        return text
    named = sorted(peer_id for peer_id, name in known.items() if name == text)
    end = text.lstrip("….")
    if not named and len(end) >= _SHORTEST_END:
        named = sorted(peer_id for peer_id in known if peer_id.endswith(end))
    if len(named) > 1:
        raise Ambiguous(
            f"{len(named)} nodes are called {text!r}: {', '.join(named)}",
            hint="give the peer id; `peatnet fleet --forget PEER_ID` forgets a node that is no more",
        )
    if not named:
        raise NotFound(f"no node {text!r} is known here", hint="`peatnet fleet` lists the nodes")
    return named[0]
