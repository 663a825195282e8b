"""Small blobs that are fetched in groups: who is asked, what is stored, and what goes the ordinary way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from support.files import make_model
from support.waiting import until

from node.node_kit import THEM, MemoryPeer, World, hash_of, signed, withdrawal_of, world
from peatnet import small_fetch
from peatnet.blobs import Store
from peatnet.errors import DiskFull, NoSource, RemoteProtocolError
from peatnet.small_fetch import MIN_GROUP
from peatnet.transfer.budget import DownloadBudget

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from peatnet.blobs import BlobInfo, Hash, SmallBlob
    from peatnet.net.small_stream import Wanted

COUNT = 20


@dataclass
class SmallPeer(MemoryPeer):
    """A peer that can be asked for many at once.

    Attributes:
        groups: how many it was asked for each time.
        fault: what it fails with after the first blob.
        sent: what it was asked for.
        wrong: blobs of which it sends other bytes.
    """

    groups: list[int] = field(default_factory=list)
    fault: Exception | None = None
    wrong: set[Hash] = field(default_factory=set)
    sent: list[Hash] = field(default_factory=list)

    async def small(
        self,
        wanted: Sequence[Wanted],
        pace: Callable[[], Awaitable[None]],
        take: Callable[[int, bytes], None],
    ) -> None:
        self.groups.append(len(wanted))
        for number, (blob, size) in enumerate(wanted):
            await pace()
            self.sent.append(blob)
            await trio.lowlevel.checkpoint()
            if self.gate is not None:
                await self.gate.wait()
            if blob in self.files:
                data = self.files[blob].read_bytes()
                assert len(data) == size
                take(number, bytes(size) if blob in self.wrong else data)
            if self.fault is not None:
                raise self.fault


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Of different sizes."""
    return [
        make_model(tmp_path / f"small-{seed}.onnx", 500 + 13_000 * seed, seed)
        for seed in range(COUNT)
    ]


def peer_of(files: list[Path], name: str = "p1", **how: object) -> SmallPeer:
    peer = SmallPeer(name, **how)  # type: ignore[arg-type]  # whatever the test says
    for path in files:
        peer.add(path)
    return peer


def all_ready(here: World, files: list[Path]) -> bool:
    """They are, and nobody is at work on them any more."""
    return not here.keeper.is_fetching and all(here.status(path.stem) == "ready" for path in files)


async def hear(here: World, files: list[Path]) -> None:
    await here.hear(*(signed(path, path.stem) for path in files))


async def test_many_come_in_one_group(root: Path, files: list[Path]) -> None:
    peer = peer_of(files)
    async with world(root, peer) as here:
        await hear(here, files)
        await until(lambda: all_ready(here, files))
        assert (peer.groups, peer.asked) == ([COUNT], 0)
        assert sorted(here.blobs) == sorted(map(hash_of, files))
        for path in files:
            model = here.model(path.stem)
            info = here.library.ready_info(model)
            assert info is not None
            placed = here.library.path_of(model, info)
            assert placed.parent.parent.name == "models"
            assert placed.read_bytes() == path.read_bytes()
        assert here.library.store.pins() == {}


async def test_a_few_are_fetched_one_by_one(root: Path, files: list[Path]) -> None:
    few = files[: MIN_GROUP - 1]
    peer = peer_of(few)
    async with world(root, peer) as here:
        await hear(here, few)
        await until(lambda: all_ready(here, few))
        assert (peer.groups, peer.asked) == ([], len(few))


@pytest.mark.parametrize("bound", ["count", "bytes"])
async def test_groups_are_bounded(
    root: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    if bound == "count":
        monkeypatch.setattr(small_fetch, "MAX_GROUP", 7)
    else:
        monkeypatch.setattr(small_fetch, "MAX_BYTES", 600_000)
    peer = peer_of(files)
    async with world(root, peer) as here:
        await hear(here, files)
        await until(lambda: all_ready(here, files))
        # The last few may come one by one, when they are fewer than a group at a later look.
        assert sum(peer.groups) + peer.asked == COUNT
        assert len(peer.groups) >= 2
        assert max(peer.groups) < COUNT - 5


async def test_what_one_peer_has_not_the_next_is_asked_for(root: Path, files: list[Path]) -> None:
    peers = [peer_of(files[:12], "p1"), peer_of(files[12:], "p2")]
    async with world(root, *peers) as here:
        await hear(here, files)
        await until(lambda: all_ready(here, files))
        assert sum(peer.asked for peer in peers) == 0
        assert {peer.groups[0] for peer in peers} in ({20, 8}, {20, 12})


async def test_what_nobody_gives_in_a_group_comes_the_ordinary_way(
    root: Path, files: list[Path]
) -> None:
    plain = MemoryPeer("p2")
    for path in files:
        plain.add(path)
    peer = peer_of(files[:5])
    async with world(root, peer, plain) as here:
        await hear(here, files)
        await until(lambda: all_ready(here, files))
        assert peer.groups == [COUNT]
        assert plain.asked >= COUNT - 5


@pytest.mark.parametrize("fault", [NoSource("gone"), RemoteProtocolError("nonsense")])
async def test_a_peer_that_fails_half_way(root: Path, files: list[Path], fault: Exception) -> None:
    peer = peer_of(files, fault=fault)
    async with world(root, peer) as here:
        await hear(here, files)
        await until(lambda: all_ready(here, files))
        assert peer.groups == [COUNT]
        assert peer.asked == COUNT - 1


async def test_wrong_bytes_in_a_group_accuse_nobody(root: Path, files: list[Path]) -> None:
    # The peer may go by another table than the signed one, and nobody has asked it.
    peer = peer_of(files, wrong={hash_of(files[0])})
    async with world(root, peer) as here:
        await hear(here, files)
        await until(lambda: all_ready(here, files))
        assert here.peers.offences == []


async def test_wrong_bytes_ban_and_are_not_ready(root: Path, files: list[Path]) -> None:
    liar = peer_of(files, wrong={hash_of(path) for path in files}, corrupt=True)
    async with world(root, liar) as here:
        await hear(here, files)
        await until(lambda: bool(here.peers.offences))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert set(here.peers.offences) == {("p1", "corrupt chunk")}
        assert not any(here.status(path.stem) == "ready" for path in files)
        assert here.library.store.blobs() == []
        honest = peer_of(files, "p2")
        here.peers.peers["p2"] = honest
        here.keeper.wake(peers=True)
        await until(lambda: all_ready(here, files))


async def test_a_manifest_that_contradicts_its_blob_is_told_of(
    root: Path, files: list[Path]
) -> None:
    peer = peer_of(files)
    async with world(root, peer) as here:
        await here.hear(
            signed(files[0], "wrong", sha256="00" * 32),
            *(signed(path, path.stem) for path in files[1:]),
        )
        await until(lambda: here.status("wrong") == "failed" and all_ready(here, files[1:]))


async def test_a_group_over_the_quota_is_fetched_as_far_as_it_fits(
    root: Path, files: list[Path]
) -> None:
    sizes = sum(path.stat().st_size for path in files)
    async with world(root, peer_of(files), quota_bytes=sizes - 1) as here:
        await hear(here, files)
        await until(lambda: min(here.status(p.stem) for p in files) == "failed")
        await until(lambda: not here.keeper.is_fetching)
        assert here.library.store.used_bytes < sizes
        assert sum(here.status(path.stem) == "ready" for path in files) == COUNT - 1


async def test_what_is_withdrawn_meanwhile_is_left_out(root: Path, files: list[Path]) -> None:
    gate = trio.Event()
    peer = peer_of(files, gate=gate)
    async with world(root, peer) as here:
        await hear(here, files)
        await until(lambda: peer.groups == [COUNT])
        await here.hear(withdrawal_of(THEM, "small-3@1.0.0", 2))
        await until(lambda: len(here.keeper._jobs) == COUNT - 1)
        gate.set()
        rest = [path for path in files if path.stem != "small-3"]
        await until(lambda: all_ready(here, rest))
        assert here.library.store.info(hash_of(files[3])) is None


async def test_removing_waits_for_the_disk(
    root: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = peer_of(files)
    stopped = False
    add = Store.add_small

    async with world(root, peer) as here:

        async def stop() -> None:
            nonlocal stopped
            async with here.keeper.stopped(here.library.find("small-3")):
                stopped = True
                assert here.status("small-3") == "ready"

        def slow(store: Store, blobs: Sequence[SmallBlob]) -> dict[Hash, BlobInfo]:
            trio.from_thread.run_sync(nursery.start_soon, stop)
            trio.from_thread.run(trio.testing.wait_all_tasks_blocked)
            assert not stopped
            return add(store, blobs)

        monkeypatch.setattr(Store, "add_small", slow)
        async with trio.open_nursery() as nursery:
            await hear(here, files)
            await until(lambda: all_ready(here, files) and stopped)


async def test_who_asks_for_one_of_a_group_gets_it(root: Path, files: list[Path]) -> None:
    gate = trio.Event()
    peer = peer_of(files[1:], gate=gate)
    plain = MemoryPeer("p2")
    plain.add(files[0])
    got: list[BlobInfo] = []
    async with world(root, peer, plain) as here:

        async def get(name: str) -> None:
            got.append(await here.get(name))

        await hear(here, files)
        await until(lambda: bool(peer.groups))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get, "small-0")  # which nobody can give in a group
            nursery.start_soon(get, "small-1")
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        assert {info.hash for info in got} == {hash_of(path) for path in files[:2]}
        await until(lambda: here.library.states.intents() == [])


async def test_a_disk_that_fails_once(
    root: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_store: Store, _blobs: Sequence[SmallBlob]) -> dict[Hash, BlobInfo]:
        raise DiskFull("no room")

    monkeypatch.setattr(Store, "add_small", full)
    async with world(root, peer_of(files)) as here:
        await hear(here, files)
        await until(lambda: all_ready(here, files))


async def test_two_models_of_one_name_or_blob(root: Path, files: list[Path]) -> None:
    async with world(root, peer_of(files)) as here:
        await here.hear(
            signed(files[0], "small-1", version="2.0.0"),
            signed(files[2], "twin"),
            *(signed(path, path.stem) for path in files),
        )
        await until(
            lambda: all(
                here.library.ready_info(model) is not None for model in here.library.models()
            )
        )
        paths = {here.library.state(model).path for model in here.library.models()}
        assert len(paths) == COUNT + 2


async def test_the_download_limit_holds(root: Path, files: list[Path]) -> None:
    budget = DownloadBudget(rate=1.0)
    peer = peer_of(files)
    async with world(root, peer) as here:
        here.keeper._groups._budget = budget
        await hear(here, files)
        await until(lambda: bool(peer.groups))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(peer.sent) <= 1
        budget.set_rate(None)
        await until(lambda: all_ready(here, files))
        assert (peer.groups, len(peer.sent)) == ([COUNT], COUNT)
