"""Fetches by a chunk table that nobody signed: whose table is taken, and who is to blame for a wrong one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from support.waiting import until

from node.node_kit import SIZE, MemoryPeer, hash_of, world
from peatnet.blobs import ChunkTable
from peatnet.config import FetchPolicy
from peatnet.errors import NoSource
from peatnet.views import SourceChoice

if TYPE_CHECKING:
    from pathlib import Path

NONE = FetchPolicy.NONE


def peer_with(*paths: Path, name: str = "p1", corrupt: bool = False) -> MemoryPeer:
    peer = MemoryPeer(name, corrupt=corrupt)
    for path in paths:
        peer.add(path)
    return peer


async def led_astray(path: Path, by: Path, name: str, *, vouches: bool = True) -> MemoryPeer:
    """A peer that gives the table, and the bytes, of another file."""
    peer = peer_with(by, name=name)
    wrong = await peer.table(hash_of(by))
    assert isinstance(wrong, ChunkTable)
    peer.files[hash_of(path)], peer.tables[hash_of(path)] = by, wrong
    peer.asked, peer.vouches = 0, vouches
    return peer


async def test_a_table_that_led_astray_is_its_givers_fault(
    root: Path, one: Path, two: Path
) -> None:
    lying = await led_astray(one, two, "a-liar")
    honest = MemoryPeer("honest")
    async with world(root, lying, honest, fetch=NONE, trusted=()) as here:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.get, hash_of(one).hex())
            await until(lambda: here.peers.offences)
            honest.add(one)
            here.keeper.wake_for(hash_of(one))
        assert here.peers.offences == [("a-liar", "wrong table")]
        assert here.library.store.info(hash_of(one)) is not None


async def test_who_passes_a_wrong_table_on_is_not_banned_who_vouches_for_it_is(
    root: Path, one: Path, two: Path
) -> None:
    relay = await led_astray(one, two, "relay", vouches=False)
    async with world(root, relay, fetch=NONE, trusted=()) as here:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.get, hash_of(one).hex())
            # Asked for the table, and for the bytes; these were wrong, and it is not asked again.
            await until(lambda: relay.asked == 2 and not here.library.store.partials())
            assert here.peers.offences == []
            # What was found out once is not fetched again to be found out again.
            liar = await led_astray(one, two, "liar")
            here.peers.peers["liar"] = liar
            here.keeper.wake(peers=True)
            await until(lambda: here.peers.offences)
            assert liar.asked == 1
            here.peers.peers["honest"] = peer_with(one, name="honest")
            here.keeper.wake(peers=True)
        assert here.peers.offences == [("liar", "wrong table")]
        assert here.library.store.info(hash_of(one)) is not None


async def test_a_table_that_somebody_vouches_for_goes_first(
    root: Path, one: Path, two: Path
) -> None:
    relay = await led_astray(one, two, "a-relay", vouches=False)
    async with world(root, relay, peer_with(one), fetch=NONE, trusted=()) as here:
        target = here.library.find(hash_of(one).hex())
        info, by_source = await here.keeper.get(target, SourceChoice.ANY, None)
        assert (info.hash, by_source) == (hash_of(one), {"peer:p1": SIZE})
        assert here.peers.offences == []


async def test_a_table_on_trial_is_not_wrong_because_no_source_agrees_with_it(
    root: Path, one: Path
) -> None:
    corrupt = peer_with(one, name="corrupt", corrupt=True)
    async with world(root, corrupt, fetch=NONE, trusted=(), give_up_after_s=0.05) as here:
        with pytest.raises(NoSource):
            await here.get(hash_of(one).hex())
        assert here.peers.offences == []
