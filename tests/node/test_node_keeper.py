"""Fetches: who starts and ends them, who shares them, what becomes of those that fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from support.files import make_model
from support.waiting import until

from node.node_kit import (
    OTHERS,
    SIZE,
    THEM,
    MemoryPeer,
    World,
    file_of,
    hash_of,
    signed,
    withdrawal_of,
    world,
)
from peatnet import fetching
from peatnet import opening as opening_module
from peatnet.blobs import ChunkTable, Database, hash_file
from peatnet.config import FetchPolicy
from peatnet.errors import DiskFull, IntegrityError, InUse, NoSource, PeatnetError
from peatnet.keeper import PARALLEL_FETCHES

if TYPE_CHECKING:
    from pathlib import Path

NONE = FetchPolicy.NONE


def peer_with(*paths: Path, name: str = "p1", **how: Any) -> MemoryPeer:
    peer = MemoryPeer(name, **how)
    for path in paths:
        peer.add(path)
    return peer


def running(here: World) -> list[str]:
    return sorted(here.keeper._jobs)


# What the policy wants


@pytest.mark.parametrize(
    ("policy", "needs_mb", "fetched"),
    [("all", 10**9, True), ("fitting", 1, True), ("fitting", 10**9, False), ("none", 1, False)],
)
async def test_the_policy(root: Path, one: Path, policy: str, needs_mb: int, fetched: bool) -> None:  # noqa: FBT001  # a parameter of the test
    requirements = {
        "min_vram_mb": 0,
        "recommended_vram_mb": 0,
        "min_ram_mb": needs_mb,
        "execution_providers": ["cpu"],
        "architectures": ["x86_64", "aarch64"],
    }
    async with world(root, peer_with(one), fetch=FetchPolicy(policy)) as here:
        await here.hear(signed(one, "m", requirements=requirements), signed(one, "u", keys=OTHERS))
        if fetched:
            await until(lambda: here.status("m") == "ready")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert here.status("m") == ("ready" if fetched else "available")
        assert here.status("u") == "available"
        assert running(here) == []


async def test_two_models_of_one_blob_are_fetched_once(root: Path, one: Path) -> None:
    peer = peer_with(one)
    async with world(root, peer) as here:
        await here.hear(signed(one, "a"), signed(one, "b"))
        await until(lambda: [here.status("a"), here.status("b")] == ["ready", "ready"])
        assert peer.asked == 1
        assert len(here.library.states.items()) == 2


async def test_a_blob_of_one_chunk_needs_no_table_from_a_peer(root: Path, one: Path) -> None:
    peer = peer_with(one)
    peer.tables[hash_of(one)] = ChunkTable(SIZE, 2**20, bytes(32))
    async with world(root, peer) as here:
        await here.hear(signed(one, "m"))
        await until(lambda: here.status("m") == "ready")
        assert here.peers.offences == []


async def test_small_blobs_are_fetched_side_by_side(root: Path, tmp_path: Path) -> None:
    small = [make_model(tmp_path / f"small-{seed}.onnx", 1000, seed) for seed in range(20)]
    gate = trio.Event()
    peer = peer_with(*small, gate=gate)
    async with world(root, peer) as here:
        await here.hear(*(signed(path, path.stem) for path in small))
        await until(lambda: len(running(here)) == len(small) > PARALLEL_FETCHES)
        gate.set()
        await until(lambda: all(here.status(path.stem) == "ready" for path in small))


async def test_a_withdrawal_ends_the_fetch(root: Path, one: Path) -> None:
    async with world(root, peer_with(one, gate=trio.Event())) as here:
        await here.hear(signed(one, "m"))
        await until(lambda: running(here))
        await here.hear(withdrawal_of(THEM, "m@1.0.0", 2))
        await until(lambda: not running(here))
        assert here.library.models() == []


async def test_trust_that_ends_ends_the_fetch(root: Path, one: Path) -> None:
    async with world(root, peer_with(one, gate=trio.Event()), trusted=()) as here:
        await here.hear(signed(one, "m"))
        assert running(here) == []
        await here.library.ledger.trust(str(THEM.peer_id))
        here.keeper.wake()
        await until(lambda: running(here))
        await here.library.ledger.distrust(str(THEM.peer_id))
        here.keeper.wake()
        await until(lambda: not running(here))


async def test_trust_that_ends_does_not_end_what_somebody_waits_for(root: Path, one: Path) -> None:
    gate = trio.Event()
    async with world(root, peer_with(one, gate=gate), trusted=()) as here:
        await here.hear(signed(one, "m"))
        await here.library.ledger.trust(str(THEM.peer_id))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.get, "m")
            await until(lambda: running(here))
            await here.library.ledger.distrust(str(THEM.peer_id))
            here.keeper.wake()
            await trio.testing.wait_all_tasks_blocked(0.02)
            gate.set()
        assert here.status("m") == "ready"
        assert not list((root / "models").iterdir())


async def test_a_newer_file_of_the_same_version_takes_over(
    root: Path, one: Path, two: Path
) -> None:
    async with world(root, peer_with(one, two)) as here:
        await here.hear(signed(one, "m"))
        await until(lambda: here.status("m") == "ready")
        await here.hear(signed(two, "m", 2))
        await until(lambda: here.status("m") == "ready")
        model = here.model("m")
        info = here.library.ready_info(model)
        assert info is not None
        assert info.hash == hash_of(two)
        assert here.library.path_of(model, info).stat().st_ino == info.path.stat().st_ino


async def test_many_models_that_nobody_has_do_not_keep_one_that_is_there_waiting(
    root: Path, tmp_path: Path, one: Path
) -> None:
    peer = peer_with(one)
    async with world(root, peer, give_up_after_s=0.05) as here:
        missing = [file_of(tmp_path, seed) for seed in range(10, 10 + 2 * PARALLEL_FETCHES)]
        records = [signed(path, f"a{number}") for number, path in enumerate(missing)]
        await here.hear(*records, signed(one, "z"))

        def ready_while_all_are_due() -> bool:
            for retry in here.keeper._retries._retries.values():
                retry.due = 0.0
            here.keeper.wake()
            return here.status("z") == "ready"

        await until(ready_while_all_are_due)


# What people ask for


async def test_a_get_without_a_policy(root: Path, one: Path) -> None:
    async with world(root, peer_with(one), fetch=NONE, trusted=()) as here:
        await here.hear(signed(one, "m"))
        info = await here.get("m")
        assert info.hash == hash_of(one)
        assert here.status("m") == "ready"
        await until(lambda: here.library.states.intents() == [])


@pytest.mark.parametrize("lasting", [True, False])
async def test_a_get_that_is_cancelled_ends_and_can_be_asked_for_again_at_once(
    root: Path,
    one: Path,
    lasting: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    gate = trio.Event()
    async with world(root, peer_with(one, gate=gate), fetch=NONE, lasting=lasting) as here:
        await here.hear(signed(one, "m"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.get, "m")
            await until(lambda: running(here))
            nursery.cancel_scope.cancel()
        gate.set()
        assert (await here.get("m")).hash == hash_of(one)
        await until(lambda: here.library.states.intents() == [])


async def test_two_wait_and_one_leaves(root: Path, one: Path) -> None:
    gate = trio.Event()
    async with (
        world(root, peer_with(one, gate=gate), fetch=NONE) as here,
        trio.open_nursery() as staying,
    ):
        await here.hear(signed(one, "m"))
        staying.start_soon(here.get, "m")
        async with trio.open_nursery() as leaving:
            leaving.start_soon(here.get, "m")
            await until(lambda: sum(here.keeper._claims.values()) == 2)
            leaving.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert [intent.target for intent in here.library.states.intents()] == running(here) != []
        gate.set()


async def test_another_choice_of_sources_replaces_the_fetch_of_the_policy(
    root: Path, one: Path
) -> None:
    gate = trio.Event()
    async with world(root, peer_with(one, gate=gate)) as here:
        await here.hear(signed(one, "m"))
        for _ in range(10):  # who of the two is first is a matter of luck
            await until(lambda: running(here))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.get, "m", "peers")
                await until(
                    lambda: any(job.choice == "peers" for job in here.keeper._jobs.values())
                )
                nursery.cancel_scope.cancel()
            for job in here.keeper._jobs.values():
                job.scope.cancel()
            await until(lambda: any(job.choice == "any" for job in here.keeper._jobs.values()))
        gate.set()
        await until(lambda: here.status("m") == "ready")


async def test_who_waited_hears_that_the_fetch_was_replaced(root: Path, one: Path) -> None:
    gate = trio.Event()
    async with world(root, peer_with(one, gate=gate), fetch=NONE) as here:
        await here.hear(signed(one, "m"))

        async def first() -> None:
            with pytest.raises(NoSource, match="was stopped"):
                await here.get("m")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await until(lambda: running(here))
            nursery.start_soon(here.get, "m", "peers")
            await until(lambda: any(job.choice == "peers" for job in here.keeper._jobs.values()))
            gate.set()
        assert here.status("m") == "ready"


async def test_one_manifest_is_wrong_and_another_of_the_same_blob_is_right(
    root: Path, one: Path
) -> None:
    gate = trio.Event()
    async with world(root, peer_with(one, gate=gate), fetch=NONE) as here:
        await here.hear(signed(one, "wrong", sha256="0" * 64), signed(one, "right"))
        failures: list[PeatnetError] = []

        async def ask_wrongly() -> None:
            try:
                await here.get("wrong")
            except IntegrityError as exc:
                failures.append(exc)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_wrongly)
            await until(lambda: running(here))
            nursery.start_soon(here.get, "right")
            await until(lambda: sum(here.keeper._claims.values()) == 2)
            gate.set()
        assert len(failures) == 1
        assert (here.status("right"), here.status("wrong")) == ("ready", "failed")


async def test_a_shared_fetch_is_checked_against_each_manifest(root: Path, one: Path) -> None:
    gate = trio.Event()
    async with world(root, peer_with(one, gate=gate), fetch=NONE) as here:
        await here.hear(signed(one, "right"), signed(one, "wrong", sha256="0" * 64))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.get, "right")
            await until(lambda: running(here))

            async def ask_wrongly() -> None:
                with pytest.raises(IntegrityError):
                    await here.get("wrong")

            nursery.start_soon(ask_wrongly)
            await until(lambda: sum(here.keeper._claims.values()) == 2)
            gate.set()
        assert (here.status("right"), here.status("wrong")) == ("ready", "available")


async def test_a_sha256_that_a_manifest_gives_is_checked_of_a_blob_fetched_by_hash(
    root: Path, one: Path
) -> None:
    gate = trio.Event()
    gate.set()
    async with world(root, peer_with(one, gate=gate), fetch=NONE) as here:
        blob = hash_of(one)
        await here.get(blob.hex())
        info = here.library.store.info(blob)
        assert info is not None
        assert info.sha256 is None
        await here.hear(signed(one, "right"), signed(one, "wrong", sha256="0" * 64))
        assert (here.status("right"), here.status("wrong")) == ("available", "available")
        with pytest.raises(IntegrityError, match="SHA-256"):
            await here.get("wrong")
        await here.get("right")
        assert here.status("right") == "ready"


async def test_a_manifest_without_a_blob_hash_whose_file_is_here(root: Path, one: Path) -> None:
    async with world(root) as here:
        here.library.store.add_file(one)
        await here.hear(signed(one, "m", blob_hash=None, metadata={}))
        await until(lambda: here.status("m") == "ready")
        assert here.library.find("m").blob == hash_of(one)


# rm


async def test_rm_of_a_model_that_the_policy_is_fetching(root: Path, one: Path) -> None:
    async with world(root, peer_with(one, gate=trio.Event())) as here:
        await here.hear(signed(one, "m"))
        await until(here.library.store.partials)
        target = here.library.find("m")
        assert target.blob is not None
        async with here.keeper.stopped(target):
            here.keeper.wake(peers=True)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert running(here) == []
            here.library.remove(target.blob, force=False)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert running(here) == []
        assert here.library.store.partials() == []


async def test_rm_that_is_refused_lets_the_fetch_go_on(root: Path, one: Path) -> None:
    gate = trio.Event()
    async with world(root, peer_with(one, gate=gate)) as here:
        await here.hear(signed(one, "m"))
        await until(here.library.store.partials)
        here.library.store.pin(hash_of(one))
        target = here.library.find("m")
        with pytest.raises(InUse):
            async with here.keeper.stopped(target):
                here.library.remove(hash_of(one), force=False)
        gate.set()
        await until(lambda: here.status("m") == "ready")


# Failures


async def test_corrupt_bytes_from_the_only_peer_are_no_reason_to_give_up_for_good(
    root: Path, one: Path
) -> None:
    async with world(root, peer_with(one, corrupt=True), give_up_after_s=0.05) as here:
        await here.hear(signed(one, "m"))
        await until(lambda: here.library.state(here.model("m")).error)
        assert here.peers.offences == [("p1", "corrupt chunk")]
        here.peers.peers["p2"] = peer_with(one, name="p2")
        here.keeper.wake(peers=True)
        await until(lambda: here.status("m") == "ready")


async def test_a_manifest_that_contradicts_its_file_is_not_fetched_over_and_over(
    root: Path, one: Path
) -> None:
    peer = peer_with(one)
    async with world(root, peer) as here:
        await here.hear(signed(one, "m", sha256="0" * 64))
        await until(lambda: here.status("m") == "failed")
        asked = peer.asked
        here.keeper.wake(peers=True)
        here.keeper.wake_for(hash_of(one))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (running(here), peer.asked) == ([], asked)
        assert (here.library.store.blobs(), here.library.store.partials()) == ([], [])
        await here.hear(signed(one, "m", 2))
        await until(lambda: here.status("m") == "ready")


async def test_news_of_one_blob_makes_nobody_ask_for_another(
    root: Path, one: Path, two: Path
) -> None:
    peer = MemoryPeer("p1")
    async with world(root, peer, fetch=NONE) as here, trio.open_nursery() as nursery:
        nursery.start_soon(here.get, hash_of(one).hex())
        await until(lambda: peer.asked)
        asked = peer.asked
        for _ in range(100):
            here.keeper.wake_for(hash_of(two))
            await trio.testing.wait_all_tasks_blocked()
        assert peer.asked <= asked + 1  # it looks around now and then
        peer.add(one)
        here.keeper.wake_for(hash_of(one))
        await until(lambda: here.library.store.info(hash_of(one)))


async def test_a_full_disk_does_not_end_the_node(
    root: Path, one: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDatabase(Database):
        full = False

        def execute(self, sql: str, parameters: Any = ()) -> Any:
            if FullDatabase.full and sql.startswith(("INSERT", "DELETE")):
                raise DiskFull("no room")
            return super().execute(sql, parameters)

    monkeypatch.setattr(opening_module, "Database", FullDatabase)
    async with world(root, peer_with(one)) as here:
        async with trio.open_nursery() as nursery:
            await here.hear(signed(two, "n", keys=OTHERS))

            async def ask() -> None:
                with pytest.raises(PeatnetError):
                    await here.get("n")

            nursery.start_soon(ask)
            await until(lambda: running(here))
            await here.library.ledger.take([signed(one, "m")])
            FullDatabase.full = True
            here.keeper.wake()
            await until(lambda: here.keeper._retries._retries)
            for job in here.keeper._jobs.values():
                job.scope.cancel()
        FullDatabase.full = False
        await until(lambda: here.library.states.intents() == [] or here.keeper.wake())  # type: ignore[func-returns-value]  # wakes it, and goes on
        here.keeper._retries.done(next(iter(here.keeper._retries._retries)))
        here.keeper.wake()
        await until(lambda: here.status("m") == "ready")


async def test_the_publisher_alone_is_asked_until_it_has_sent_a_chunk(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "HEAD_START", 1000.0)
    size, chunk = 4 * 1024 * 1024, 1024 * 1024
    path = make_model(tmp_path / "of-four-chunks.safetensors", size, 1)
    one_chunk, rest = trio.Event(), trio.Event()
    publisher, other = MemoryPeer(str(THEM.peer_id), gate=one_chunk), MemoryPeer("other")
    for peer in (publisher, other):
        peer.add(path)
        peer.tables[hash_of(path)] = hash_file(
            path, chunk_size=chunk
        ).table  # the one that is signed
    async with world(root, publisher, other) as here:
        await here.hear(signed(path, "m"))
        await until(lambda: publisher.asked == 2)  # for the table, and for chunks
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert other.asked == 0
        publisher.gate = rest
        one_chunk.set()
        await until(lambda: other.asked)
        rest.set()
        await until(lambda: here.status("m") == "ready")
