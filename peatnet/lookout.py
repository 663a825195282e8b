"""The lookout: tells the others how this node is, hears how they are, and remembers who they are.

A node speaks when something has changed with it, soon after it has met somebody new or heard of a model, and now and
then in any case. How often at most depends on what there is to say and on how many nodes there are, so that a fleet's
talk stays the same small part of its links, however large it is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

import trio

from peatnet.concurrency import Stirring
from peatnet.deploy.fleet import EVERY, Fleet, find_node
from peatnet.deploy.known_nodes import KnownNodes
from peatnet.deploy.rollout import NodeWord, rollout
from peatnet.errors import NotFound, PeatnetError, UsageError
from peatnet.log import get_logger
from peatnet.views import FleetNodeView, NodeChanged, RolloutView

if TYPE_CHECKING:
    # libp2p brings trio-typing, whose stubs hide trio's own types from the type checker.
    import random
    from collections.abc import Callable, Iterable, Mapping

    from trio_typing import TaskStatus

    from peatnet.library import Library
    from peatnet.net.host import PeerCallback
    from peatnet.net.network import OnStatus
    from peatnet.net.node_status import CommandReport, NodeStatus
    from peatnet.reporting import Reporter

# Changes within this time go out in one message.
COALESCE: Final = 0.1
# Seconds between two messages at the least; progress changes all the time.
PAUSE: Final = 1.0
PAUSE_FETCHING: Final = 2.0
# Bytes a second that one node says at the most, and messages a second of all nodes together: of those that only
# tell of progress, each of which costs every node a millisecond or two, and of all.
TALK_RATE: Final = 4096.0
PROGRESS_RATE: Final = 2.0
FLEET_RATE: Final = 40.0
# What is not urgent is told after so many seconds at the soonest. A new connection is part of the gossip by then.
SOON: Final = 1.0
# Who comes and who goes is on disk soon; that the others were seen again need not wear out a flash card.
SAVE_EVERY: Final = 600.0
SAVE_SOON: Final = 2.0
LEAVE_WITHIN: Final = 0.5
# What gossip sends waits in queues, of which nobody can tell when they are empty.
LINGER: Final = 0.15
# How often at most somebody who watches is told.
WATCH_PAUSE: Final = 0.25
WATCH_EVERY: Final = 1.0

log = get_logger(__name__)


class Talk(Protocol):
    """What it needs of the network."""

    on_status: list[OnStatus]
    on_peer: list[PeerCallback]

    @property
    def announced(self) -> list[str]:
        """Where this node can be dialled."""
        ...

    async def tell_status(self, status: NodeStatus) -> None:
        """Tell all."""
        ...

    def banned(self) -> Mapping[str, float]:
        """The peers that are banned here."""
        ...

    def remember(self, peer_id: str, addresses: Iterable[str]) -> None:
        """Look for a node where it was in an earlier run."""
        ...

    def forget(self, peer_id: str) -> None:
        """Do not look for a node any more."""
        ...


class Lookout:
    """The other nodes, as this one knows them.

    Args:
        library: the node's models; what is remembered is in its database.
        network: None without one: then there is only what is remembered.
        reporter: says how this node is.
        rng: spreads messages over time.
        tell: called with what has changed.
        silent: hear the others and say nothing, for a node that lives for one task.
    """

    def __init__(
        self,
        library: Library,
        network: Talk | None,
        reporter: Reporter,
        rng: random.Random,
        tell: Callable[[NodeChanged], None],
        *,
        silent: bool,
    ) -> None:
        self._library = library
        self._network = network
        self._reporter = reporter
        self._rng = rng
        self._tell = tell
        self._silent = silent
        self._table = KnownNodes(library.database)
        self._fleet = Fleet(self._table.load(trio.current_time(), time.time()))
        self._changed = Stirring()
        self._due = trio.Event()
        self._unhurried = trio.Event()
        self._to_save = trio.Event()
        self._unsaved: set[str] = set()
        self._gone: set[str] = set()
        reporter.on_change.append(self._own_change)
        if network is not None:
            network.on_status.append(self._hear)
            network.on_peer.append(self._peer_changed)

    # Looking

    async def nodes(self) -> list[FleetNodeView]:
        """All nodes that this one has ever heard of, itself first, then by name."""
        now, own = trio.current_time(), await self._own_status()
        own_id = self._library.identity.peer_id
        views = [FleetNodeView.of(own_id, own.name, own, 0.0, seen=True)]
        banned = self._banned()
        views += [
            FleetNodeView.of(
                node.peer_id,
                node.name,
                node.status,
                node.age(now),
                seen=node.is_seen(now),
                banned=node.peer_id in banned,
            )
            for node in self._fleet.nodes()
        ]
        return views

    def _banned(self) -> Mapping[str, float]:
        return {} if self._network is None else self._network.banned()

    async def status(self, reference: str) -> RolloutView:
        """Where a model stands on every node.

        Raises:
            NotFound, Ambiguous, UsageError: as the reference is.
        """
        model = self._library.find(reference).model
        if model is None:
            raise NotFound(f"{reference} is a blob without a manifest", hint="name a model")
        manifest, now, own = model.manifest, trio.current_time(), await self._own_status()
        words = [NodeWord(self._library.identity.peer_id, own.name, 0.0, own)]
        banned = self._banned()
        words += [
            NodeWord.of(node, now, banned=node.peer_id in banned) for node in self._fleet.nodes()
        ]
        found = rollout(
            model.publisher, manifest.model_id, manifest.version, manifest.size_bytes, words
        )
        return RolloutView.of(manifest.model_id, manifest.version, found)

    async def watch(
        self,
        reference: str,
        report: Callable[[RolloutView], None],
        done: Callable[[RolloutView], bool] = lambda _: False,
    ) -> RolloutView:
        """Tell where a model stands, again and again, until ``done`` is true of it.

        Args:
            reference: which model; looked up anew each time, so without a version it may change.
            report: called at once, when something has changed, and about once a second.
            done: called with the same.

        Raises:
            NotFound, Ambiguous, UsageError: as the reference is.
        """
        while True:
            changed = self._changed.event
            view = await self.status(reference)
            report(view)
            if done(view):
                return view
            await trio.sleep(WATCH_PAUSE)
            with trio.move_on_after(WATCH_EVERY - WATCH_PAUSE):
                await changed.wait()

    def outcomes(self, command_id: str) -> dict[str, CommandReport]:
        """What became of an update command on this node and on those that are seen, by peer id."""
        found = self._fleet.outcomes(command_id, trio.current_time())
        for report in self._reporter.outcomes():
            if report.command_id == command_id:
                found[self._library.identity.peer_id] = report
        return found

    def find(self, text: str) -> str:
        """The peer id of the node that a person means by a peer id or a name; this node's own, too.

        Raises:
            NotFound: no node is called that.
            Ambiguous: several are.
        """
        own = self._library.identity.peer_id, self._library.config.node_name
        return find_node(text, [own, *((node.peer_id, node.name) for node in self._fleet.nodes())])

    async def forget(self, text: str) -> str:
        """Forget a node that is no more; returns its peer id. One that speaks again is known again.

        Raises:
            NotFound, Ambiguous: as for `find`.
            UsageError: it is this node.
            StorageError: the database refused it.
        """
        peer_id = self.find(text)
        if peer_id == self._library.identity.peer_id:
            raise UsageError("a node does not forget itself")
        self._fleet.forget(peer_id)
        if self._network is not None:
            self._network.forget(peer_id)
        self._gone.add(peer_id)
        await self._save()
        self._changed.stir()
        return peer_id

    async def _own_status(self, *, leaving: bool = False) -> NodeStatus:
        addresses = self._network.announced if self._network is not None else []
        return await self._reporter.status(addresses, leaving=leaving)

    # Hearing

    def _hear(self, peer_id: str, sequence: int, status: NodeStatus) -> None:
        now = trio.current_time()
        before = self._fleet.get(peer_id)
        heard = self._fleet.hear(peer_id, sequence, status, now)
        if heard is None:
            return
        self._unsaved.add(peer_id)
        if heard.dropped is not None:
            self._gone.add(heard.dropped)
        if heard.new:
            log.info("node seen", name=heard.node.name, peer=peer_id)
            self._tell(NodeChanged(peer_id, heard.node.name, seen=True))
            self._unhurried.set()
            self._to_save.set()
        elif before is not None and before.addresses != heard.node.addresses:
            self._to_save.set()  # it has moved
        if heard.new or before is None or before.status != status:
            self._changed.stir()

    def _peer_changed(self, peer_id: str, *, connected: bool) -> None:
        if connected:
            self._unhurried.set()
        else:
            self._fleet.lost(peer_id)
            self._changed.stir()  # it may expire sooner now

    def _own_change(self, *, urgent: bool) -> None:
        (self._due if urgent else self._unhurried).set()
        self._changed.stir()

    # What it does by itself

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Speak, notice who has gone, and keep what is to be remembered, until cancelled."""
        if self._network is None:
            task_status.started()
            return
        for node in self._fleet.likely():
            # Whoever was named may be away, and mDNS does not reach everywhere.
            self._network.remember(node.peer_id, node.addresses)
        async with trio.open_nursery() as nursery:
            if not self._silent:
                nursery.start_soon(self._speak, self._network)
                nursery.start_soon(self._speak_unhurriedly)
            nursery.start_soon(self._notice_absence)
            nursery.start_soon(self._save_now_and_then)
            task_status.started()

    async def leave(self) -> None:
        """Say that this node is about to stop; it says nothing more then.

        Takes half a second at the most, and is no error if nobody hears it.
        """
        if self._network is None or self._silent:
            return
        self._silent = True
        with trio.move_on_after(LEAVE_WITHIN):
            try:
                await self._network.tell_status(await self._own_status(leaving=True))
                await trio.sleep(LINGER)
            except PeatnetError as exc:
                log.warning("left without a word", reason=exc.message)

    async def _speak(self, network: Talk) -> None:
        while True:
            self._due = trio.Event()
            status = await self._own_status()
            if self._silent:
                return
            await network.tell_status(status)
            crowd = self._fleet.count_seen(trio.current_time())
            pause = max(PAUSE, len(status.encode()) / TALK_RATE, crowd / FLEET_RATE)
            await trio.sleep(pause)
            if not self._reporter.busy:
                # In a fleet of many hundreds the pause alone is longer than that.
                rest = max(0.0, EVERY * self._rng.uniform(0.9, 1.1) - pause)
                with trio.move_on_after(rest):
                    await self._due.wait()
                    await trio.sleep(COALESCE)
            if self._reporter.busy:
                # A fetch has just begun, or goes on; in a fleet, everywhere at the same time. That is not urgent, and
                # each speaks at a moment of its own. Its end is: it is told as soon as it has come.
                unhurried = max(PAUSE_FETCHING, min(EVERY, crowd / PROGRESS_RATE))
                with trio.move_on_after(unhurried * self._rng.uniform(0.75, 1.25)):
                    await self._idle()

    async def _idle(self) -> None:
        """Wait until nothing is being fetched."""
        while self._reporter.busy:
            self._due = trio.Event()
            await self._due.wait()
            await trio.sleep(COALESCE)

    async def _speak_unhurriedly(self) -> None:
        """Speak soon, not all nodes at once.

        So after meeting somebody, who may know nothing of us; and when a record has come, which all nodes have at
        the same time.
        """
        while True:
            await self._unhurried.wait()
            crowd = self._fleet.count_seen(trio.current_time()) / FLEET_RATE
            await trio.sleep(SOON + self._rng.uniform(0.0, SOON + crowd))
            self._unhurried = trio.Event()
            self._due.set()

    async def _notice_absence(self) -> None:
        while True:
            now, changed = trio.current_time(), self._changed.event
            for node in self._fleet.expire(now):
                log.info("node not seen any more", name=node.name, peer=node.peer_id)
                self._tell(NodeChanged(node.peer_id, node.name, seen=False))
                self._to_save.set()
            soonest = self._fleet.next_expiry(now)
            with trio.move_on_at(soonest if soonest is not None else now + EVERY) as waiting:
                await changed.wait()
            if waiting.cancelled_caught:
                self._changed.stir()

    async def _save_now_and_then(self) -> None:
        try:
            while True:
                with trio.move_on_after(SAVE_EVERY):
                    await self._to_save.wait()
                    await trio.sleep(SAVE_SOON)
                self._to_save = trio.Event()
                await self._save_or_log()
        finally:
            with trio.CancelScope(shield=True):
                await self._save_or_log()

    async def _save_or_log(self) -> None:
        try:
            await self._save()
        except PeatnetError as exc:
            log.warning("known nodes not kept", reason=exc.message)

    async def _save(self) -> None:
        gone, unsaved = self._gone, self._unsaved
        self._gone, self._unsaved = set(), set()
        nodes = [node for each in unsaved if (node := self._fleet.get(each)) is not None]
        gone = {each for each in gone if self._fleet.get(each) is None}
        if not gone and not nodes:
            return
        try:
            await trio.to_thread.run_sync(
                self._table.save, nodes, gone, trio.current_time(), time.time()
            )
        except PeatnetError:
            self._gone |= gone
            self._unsaved |= unsaved
            raise
