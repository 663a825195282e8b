"""What somebody asked for is not forgotten by a stop, and not remembered for longer than it is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing
from support.waiting import until

from node.node_kit import (
    OTHERS,
    THEM,
    MemoryPeer,
    World,
    config_of,
    hash_of,
    signed,
    withdrawal_of,
    world,
)
from peatnet.config import FetchPolicy
from peatnet.opening import open_library
from peatnet.states import Intent
from peatnet.views import SourceChoice

if TYPE_CHECKING:
    from pathlib import Path

NONE = FetchPolicy.NONE


def intend(
    root: Path, name: str, choice: SourceChoice = SourceChoice.ANY, priority: int = 3
) -> None:
    """Leave an intent behind, as a node does that was killed."""
    with open_library(config_of(root)) as library:
        library.states.add_intent(Intent(name, choice, priority))


def intents(here: World) -> list[Intent]:
    return here.library.states.intents()


async def test_an_intent_is_tried_until_a_peer_comes(root: Path, one: Path) -> None:
    intend(root, hash_of(one).hex())
    async with world(root, fetch=NONE, give_up_after_s=0.05) as here:
        await until(lambda: here.keeper._retries._retries)
        assert intents(here) != []
        peer = MemoryPeer("p1")
        peer.add(one)
        here.peers.peers["p1"] = peer
        here.keeper.wake(peers=True)
        await until(lambda: here.library.store.info(hash_of(one)))
        await until(lambda: not intents(here))


async def test_a_stopped_nodes_get_is_an_intent(root: Path, one: Path) -> None:
    peer = MemoryPeer("p1", gate=trio.Event())
    peer.add(one)
    with trio.CancelScope() as node:
        async with world(root, peer, fetch=NONE) as here, trio.open_nursery() as nursery:
            await here.hear(signed(one, "m"))
            nursery.start_soon(here.get, "m", "peers")
            await until(here.library.store.partials)
            node.cancel()
    peer.gate = None
    async with world(root, peer, fetch=NONE) as here:
        assert [intent.source for intent in intents(here)] in (["peers"], [])
        await until(lambda: here.status("m") == "ready")
        await until(lambda: not intents(here))


async def test_what_is_urgent_stays_so_over_a_stop(root: Path, one: Path) -> None:
    """Also where somebody has asked for it again who is in less of a hurry."""
    name = hash_of(one).hex()
    intend(root, name, priority=1)
    intend(root, name, priority=4)
    peer = MemoryPeer("p1", gate=trio.Event())
    peer.add(one)
    async with world(root, peer, fetch=NONE) as here:
        await until(lambda: here.keeper._jobs)
        job = here.keeper._jobs[name]
        assert job.fetch._priority == 1
        with job.asked_for(2):
            assert job.fetch._priority == 2
        assert job.fetch._priority == 1


async def test_intents_of_an_older_version_have_the_usual_priority(root: Path, one: Path) -> None:
    with open_library(config_of(root)) as library:
        library.database.execute("DROP TABLE intents")
        library.database.execute("DELETE FROM scripts WHERE name = 'library-3'")
        library.database.execute(
            "CREATE TABLE intents (target TEXT PRIMARY KEY, source TEXT NOT NULL) STRICT, WITHOUT ROWID"
        )
        name = hash_of(one).hex()
        library.database.execute("INSERT INTO intents VALUES (?, ?)", (name, "peers"))
    with open_library(config_of(root)) as library:
        assert library.states.intents() == [Intent(name, SourceChoice.PEERS, 3)]


async def test_a_node_for_one_command_leaves_intents_alone(root: Path, one: Path) -> None:
    intend(root, hash_of(one).hex())
    peer = MemoryPeer("p1")
    peer.add(one)
    async with world(root, peer, fetch=NONE, lasting=False) as here:
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert peer.asked == 0
        assert len(intents(here)) == 1


async def test_an_intent_for_one_publishers_model_means_no_other(root: Path, one: Path) -> None:
    key = "m@1.0.0"
    intend(root, f"{OTHERS.peer_id}/{key}")
    async with world(root, fetch=NONE) as here:
        await until(lambda: not intents(here))
    intend(root, f"{OTHERS.peer_id}/{key}")
    with open_library(config_of(root)) as library:
        records = [
            signed(one, "m"),
            signed(one, "m", keys=OTHERS, blob_hash=None, metadata={}),
        ]
        await library.ledger.take(records)
        library.store.add_file(one)
    async with world(root, fetch=NONE) as here:
        await until(lambda: not intents(here))
        theirs = here.library.find_model((str(OTHERS.peer_id), key))
        assert here.library.ready_info(theirs) is not None
        ours = here.library.find_model((str(THEM.peer_id), key))
        assert here.library.ready_info(ours) is None


async def test_rm_ends_an_intent(root: Path, one: Path) -> None:
    intend(root, hash_of(one).hex())
    async with world(root, fetch=NONE, give_up_after_s=60.0) as here:
        await until(lambda: here.keeper._jobs)
        async with here.keeper.stopped(here.library.find(hash_of(one).hex())):
            pass
        await until(lambda: not intents(here))
        assert not here.keeper._jobs


async def test_a_withdrawal_ends_an_intent(root: Path, one: Path) -> None:
    intend(root, hash_of(one).hex())
    with open_library(config_of(root)) as library:
        await library.ledger.take([signed(one, "m")])
    async with world(root, fetch=NONE) as here:
        await until(lambda: here.keeper._jobs)
        await here.hear(withdrawal_of(THEM, "m@1.0.0", 2))
        await until(lambda: not intents(here))
        await until(lambda: not here.keeper._jobs)


async def test_a_hopeless_intent_is_dropped(root: Path, one: Path) -> None:
    intend(root, hash_of(one).hex())
    with open_library(config_of(root)) as library:
        await library.ledger.take([signed(one, "m", sha256="0" * 64)])
    peer = MemoryPeer("p1")
    peer.add(one)
    async with world(root, peer, fetch=NONE) as here:
        await until(lambda: not intents(here))
        assert here.status("m") == "failed"
