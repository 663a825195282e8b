"""Nodes that tell each other how they are, over a network in memory and mostly on a virtual clock."""

from __future__ import annotations

import itertools
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from support.waiting import until

from node.node_kit import MemoryPeer, World, file_of, signed, world
from peatnet.config import FetchPolicy
from peatnet.deploy.fleet import EVERY, EXPIRE
from peatnet.errors import Ambiguous, NotFound, UsageError
from peatnet.lookout import COALESCE, PAUSE, PAUSE_FETCHING, SOON, Lookout
from peatnet.net.node_status import MAX_STATUS, CommandOutcome, CommandReport, NodeStatus
from peatnet.reporting import Reporter
from peatnet.views import NodeChanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from peatnet.net.host import PeerCallback
    from peatnet.net.network import OnStatus
    from peatnet.views import FleetNodeView, RolloutView


class Air:
    """What all nodes of a test are connected by.

    Attributes:
        silenced: nodes whose words reach nobody.
        words: all that was said: when, by whom.
    """

    def __init__(self) -> None:
        self.members: dict[str, Voice] = {}
        self.silenced: set[str] = set()
        self.words: list[tuple[float, str]] = []

    def spread(self, sender: str, sequence: int, data: bytes) -> None:
        self.words.append((trio.current_time(), sender))
        assert len(data) <= MAX_STATUS
        for peer_id, member in self.members.items():
            if peer_id != sender and sender not in self.silenced:
                for callback in member.on_status:
                    callback(sender, sequence, NodeStatus.decode(data))

    def join(self, member: Voice) -> None:
        for other in self.members.values():
            for callback in other.on_peer:
                callback(member.peer_id, connected=True)
            for callback in member.on_peer:
                callback(other.peer_id, connected=True)
        self.members[member.peer_id] = member

    def part(self, member: Voice) -> None:
        del self.members[member.peer_id]
        for other in self.members.values():
            for callback in other.on_peer:
                callback(member.peer_id, connected=False)

    def count(self, peer_id: str, since: float) -> int:
        return sum(at >= since and sender == peer_id for at, sender in self.words)


@dataclass
class Voice:
    """One node's network."""

    air: Air
    peer_id: str
    sequence: int
    on_status: list[OnStatus] = field(default_factory=list)
    on_peer: list[PeerCallback] = field(default_factory=list)
    announced: list[str] = field(default_factory=lambda: ["/ip4/192.0.2.7/tcp/7411"])
    bans: dict[str, float] = field(default_factory=dict)
    looks_for: dict[str, list[str]] = field(default_factory=dict)

    def banned(self) -> dict[str, float]:
        return self.bans

    def remember(self, peer_id: str, addresses: Iterable[str]) -> None:
        self.looks_for[peer_id] = list(addresses)

    def forget(self, peer_id: str) -> None:
        self.looks_for.pop(peer_id, None)

    async def tell_status(self, status: NodeStatus) -> None:
        await trio.lowlevel.checkpoint()
        self.sequence += 1
        self.air.spread(self.peer_id, self.sequence, status.encode())


@dataclass
class Member:
    world: World
    lookout: Lookout
    reporter: Reporter
    voice: Voice
    events: list[NodeChanged]

    @property
    def peer_id(self) -> str:
        return self.voice.peer_id

    async def seen(self) -> dict[str, bool]:
        """All nodes by name, and whether they are seen."""
        return {each.name: each.seen for each in await self.lookout.nodes()}

    async def node(self, name: str) -> FleetNodeView:
        (found,) = [each for each in await self.lookout.nodes() if each.name == name]
        return found


@asynccontextmanager
async def member(
    root: Path, air: Air, name: str, *peers: MemoryPeer, silent: bool = False, **changes: Any
) -> AsyncIterator[Member]:
    given = {"name": name, "fetch": FetchPolicy.NONE} | changes
    async with world(root / name, *peers, **given) as here, trio.open_nursery() as nursery:
        reporter, events = Reporter(here.library, here.keeper), list[NodeChanged]()
        here.on_change.append(reporter.changed)
        before = len(air.words)
        voice = Voice(air, here.library.identity.peer_id, before)
        lookout = Lookout(
            here.library, voice, reporter, random.Random(name), events.append, silent=silent
        )
        air.join(voice)
        await nursery.start(lookout.run)
        try:
            yield Member(here, lookout, reporter, voice, events)
        finally:
            air.part(voice)
            nursery.cancel_scope.cancel()


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Worker threads are waited for: only when nothing has happened for a while, time jumps."""
    return trio.testing.MockClock(autojump_threshold=0.02)


async def test_nodes_see_each_other_soon(tmp_path: Path, autojump_clock: object) -> None:
    air = Air()
    async with member(tmp_path, air, "one") as one:
        await trio.sleep(5)
        async with member(tmp_path, air, "two") as two:
            # Both speak soon after they have met, and not with their next round only.
            await trio.sleep(4)
            assert await one.seen() == await two.seen() == {"one": True, "two": True}
            assert one.events == [NodeChanged(two.peer_id, "two", seen=True)]
            assert [each.name for each in await two.lookout.nodes()] == ["two", "one"]
            node = (await one.node("two")).to_json()
            assert node["peer_id"] == two.peer_id
            assert node["addrs"] == [f"/ip4/192.0.2.7/tcp/7411/p2p/{two.peer_id}"]
            assert node["hardware"]["ram_mb"] > 0
            assert node["last_seen_s"] < 5
            assert one.lookout.find("two") == two.peer_id
            assert one.lookout.find("one") == one.peer_id
            with pytest.raises(NotFound):
                one.lookout.find("three")


async def test_who_says_nothing_is_not_seen_until_it_speaks(
    tmp_path: Path, autojump_clock: object
) -> None:
    air = Air()
    async with member(tmp_path, air, "one") as one, member(tmp_path, air, "two") as two:
        await trio.sleep(5)
        air.silenced.add(two.peer_id)
        await trio.sleep(EXPIRE + 2)
        assert await one.seen() == {"one": True, "two": False}
        assert one.events[-1] == NodeChanged(two.peer_id, "two", seen=False)
        gone = await one.node("two")
        assert gone.models == []
        assert gone.last_seen_s > EXPIRE
        air.silenced.clear()
        await trio.sleep(1.2 * EVERY)
        assert await one.seen() == {"one": True, "two": True}
        assert [each.seen for each in one.events] == [True, False, True]


async def test_who_is_banned_here_is_called_that(tmp_path: Path, autojump_clock: object) -> None:
    air = Air()
    async with member(tmp_path, air, "one") as one, member(tmp_path, air, "two") as two:
        await one.world.hear(signed(file_of(tmp_path), "m"))
        await trio.sleep(5)
        air.silenced.add(two.peer_id)
        one.voice.bans[two.peer_id] = 3600.0
        await trio.sleep(EXPIRE + 2)
        assert {each.name: each.banned for each in await one.lookout.nodes()} == {
            "one": False,
            "two": True,
        }
        (told,) = [
            each.reason for each in (await one.lookout.status("m")).nodes if each.name == "two"
        ]
        assert told is not None
        assert told.endswith(" s (it is banned here)")


async def test_a_node_that_leaves_says_so_and_nothing_more(
    tmp_path: Path, autojump_clock: object
) -> None:
    air = Air()
    async with member(tmp_path, air, "one") as one, member(tmp_path, air, "two") as two:
        await trio.sleep(5)
        await two.world.hear(signed(file_of(tmp_path), "m"))
        await two.lookout.leave()
        now = trio.current_time()
        assert await one.seen() == {"one": True, "two": False}
        two.reporter.changed()
        await two.lookout.leave()
        await trio.sleep(2 * EVERY)
        assert air.count(two.peer_id, now) == 0


async def test_known_nodes_are_remembered_and_can_be_forgotten(
    tmp_path: Path, autojump_clock: object
) -> None:
    air = Air()
    async with member(tmp_path, air, "one"), member(tmp_path, air, "two"):
        await trio.sleep(5)
    async with member(tmp_path, air, "one") as one:
        two = await one.node("two")
        assert (two.seen, two.hardware, two.addrs, two.models) == (False, None, [], [])
        with pytest.raises(UsageError):
            await one.lookout.forget("one")
        assert one.voice.looks_for == {two.peer_id: ["/ip4/192.0.2.7/tcp/7411"]}
        assert await one.lookout.forget("two") == two.peer_id
        assert one.voice.looks_for == {}
        assert await one.seen() == {"one": True}
    async with member(tmp_path, air, "one") as one:
        assert await one.seen() == {"one": True}


async def test_a_name_that_two_nodes_have_names_none(
    tmp_path: Path, autojump_clock: object
) -> None:
    air = Air()
    async with (
        member(tmp_path / "a", air, "same") as one,
        member(tmp_path / "b", air, "same") as two,
    ):
        await trio.sleep(5)
        with pytest.raises(Ambiguous):
            one.lookout.find("same")
        assert one.lookout.find(two.peer_id) == two.peer_id


async def test_changes_are_told_soon_and_not_often(tmp_path: Path, autojump_clock: object) -> None:
    air = Air()
    async with member(tmp_path, air, "one") as one, member(tmp_path, air, "two") as two:
        await trio.sleep(15)
        quiet_since = trio.current_time()
        await trio.sleep(10 * EVERY)
        assert 8 <= air.count(two.peer_id, quiet_since) <= 12
        busy_since = trio.current_time()
        for number in range(40):
            two.reporter.tell_outcome(CommandReport(f"c-{number}", "m@1", CommandOutcome.DONE))
            await trio.sleep(0.1)
        spent = trio.current_time() - busy_since
        assert 3 <= air.count(two.peer_id, busy_since) <= spent + 1
        await trio.sleep(2)
        told = await one.node("two")
        assert told.commands[0] == {
            "command_id": "c-39", "model": "m@1", "outcome": "done", "reason": None,
        }  # fmt: skip


async def test_what_all_hear_at_once_is_told_soon_and_not_by_all_at_once(
    tmp_path: Path, autojump_clock: object
) -> None:
    air = Air()
    async with (
        member(tmp_path, air, "one") as one,
        member(tmp_path, air, "two") as two,
        member(tmp_path, air, "three") as three,
    ):
        everybody = one, two, three
        await trio.sleep(15)

        def resting() -> bool:
            """Nobody would speak soon in any case."""
            last = {who: at for at, who in air.words}
            ago = [trio.current_time() - at for at in last.values()]
            return len(ago) == len(everybody) and min(ago) > 2 * PAUSE and max(ago) < EVERY / 2

        # Where each is in its own round is chance; after a word they all begin one.
        for each in everybody:
            each.reporter.changed()
        await until(resting, every=0.25)
        heard_at = trio.current_time()
        for each in everybody:
            each.reporter.changed(urgent=False)
        await trio.sleep(2 * SOON + 2 * COALESCE + 0.2)
        said = [at - heard_at for at, _ in air.words if at > heard_at]
        assert len(said) == len(everybody)
        assert min(said) >= SOON
        assert max(said) - min(said) > 0.1 * SOON


async def test_who_fetches_speaks_at_moments_of_its_own(
    tmp_path: Path, autojump_clock: object
) -> None:
    air, path, gate = Air(), file_of(tmp_path), trio.Event()
    peer = MemoryPeer("holder", gate=gate)
    peer.add(path)
    async with (
        member(tmp_path, air, "one") as one,
        member(tmp_path, air, "fetcher", peer, fetch=FetchPolicy.ALL) as fetcher,
    ):
        await trio.sleep(15)
        await fetcher.world.hear(signed(path, "m"))
        await until(lambda: fetcher.reporter.busy)
        busy_since = trio.current_time() + PAUSE_FETCHING
        await trio.sleep(12 * PAUSE_FETCHING)
        times = [at for at, who in air.words if who == fetcher.peer_id and at >= busy_since]
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert len(pauses) >= 5
        assert min(pauses) >= PAUSE_FETCHING
        assert max(pauses) - min(pauses) > 0.1 * PAUSE_FETCHING
        # Its end is not one of these moments.
        gate.set()
        await until(lambda: not fetcher.reporter.busy)
        await trio.sleep(PAUSE + 2 * COALESCE)
        assert (await one.node("fetcher")).models[0]["status"] == "ready"


async def test_a_node_for_one_task_hears_and_says_nothing(
    tmp_path: Path, autojump_clock: object
) -> None:
    air = Air()
    async with (
        member(tmp_path, air, "one") as one,
        member(tmp_path, air, "two", silent=True) as two,
    ):
        await trio.sleep(EVERY)
        await two.lookout.leave()
        assert await one.seen() == {"one": True}
        assert await two.seen() == {"one": True, "two": True}


async def test_where_a_model_stands_while_it_spreads(tmp_path: Path) -> None:
    air, path, gate = Air(), file_of(tmp_path), trio.Event()
    peer = MemoryPeer("holder", gate=gate)
    peer.add(path)
    async with (
        member(tmp_path, air, "asker") as asker,
        member(tmp_path, air, "fetcher", peer, fetch=FetchPolicy.ALL) as fetcher,
        member(tmp_path, air, "stranger", trusted=()) as stranger,
    ):
        with pytest.raises(NotFound):
            await asker.lookout.status("m")
        envelope = signed(path, "m")
        for each in (asker, fetcher, stranger):
            await each.world.hear(envelope)
            each.reporter.changed()
        seen: list[RolloutView] = []

        def look(view: RolloutView) -> bool:
            if any(each.status == "downloading" for each in view.nodes):
                gate.set()
            return view.counts["ready"] == 1 and len(view.nodes) == 3

        with trio.fail_after(60):
            view = await asker.lookout.watch("m@1.0.0", seen.append, look)
        assert view == seen[-1]
        assert (view.model_id, view.version, view.eta_s) == ("m", "1.0.0", 0.0)
        by_name = {each.name: each for each in view.nodes}
        assert by_name["fetcher"].status == "ready"
        assert by_name["fetcher"].reason is None
        assert by_name["stranger"].reason == "untrusted publisher"
        assert (by_name["asker"].status, by_name["asker"].last_seen_s) == ("pending", 0.0)
        assert view.counts == {
            "loaded": 0, "ready": 1, "downloading": 0, "pending": 2, "failed": 0, "unknown": 0,
        }  # fmt: skip
        with pytest.raises(NotFound, match="without a manifest"):
            await asker.lookout.status("ab" * 32)


async def test_without_a_network_there_is_what_is_remembered(tmp_path: Path) -> None:
    air = Air()
    async with member(tmp_path, air, "one") as one, member(tmp_path, air, "two"):
        await until(lambda: one.events)
    async with world(tmp_path / "one", name="one") as here:
        lookout = Lookout(
            here.library,
            None,
            Reporter(here.library, here.keeper),
            random.Random(1),
            lambda _: None,
            silent=True,
        )
        await lookout.run()
        await lookout.leave()
        assert [(each.name, each.seen) for each in await lookout.nodes()] == [
            ("one", True),
            ("two", False),
        ]
