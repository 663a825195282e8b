"""Publishing on a node without a network: what happens to the file, the manifest and the store."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.files import sha256_of

from node.node_kit import THEM, config_of, draft, hash_of, signed
from peatnet.blobs import AddMode
from peatnet.errors import IntegrityError, NotFound, UsageError
from peatnet.opening import open_node
from peatnet.views import ModelChanged

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path) -> Any:
    return config_of(tmp_path / "data")


def files_under(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def is_there(path: Path) -> bool:
    return path.exists()


def same(first: Path, second: Path) -> bool:
    return first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("mode", [AddMode.AUTO, AddMode.COPY, AddMode.HARDLINK, AddMode.MOVE])
async def test_each_way_of_taking_the_file(config: Any, one: Path, mode: AddMode) -> None:
    blob, sha256 = hash_of(one), sha256_of(one)
    async with open_node(config, network=False) as node:
        manifest = await node.publish(one, draft("m"), mode=mode)
        assert (manifest.blob_hash, manifest.sha256) == (blob.hex(), sha256)
        (view,) = await node.models()
        assert (view.status, view.trusted, view.publisher) == ("ready", True, node.peer_id)
        assert view.local_path is not None
        assert hash_of(config.data_dir / view.local_path) == blob
        assert is_there(one) == (mode is not AddMode.MOVE)
        assert node._library.store.pins() == {}


@pytest.mark.parametrize("mode", [AddMode.AUTO, AddMode.MOVE])
@pytest.mark.parametrize("lie", [{"size_bytes": 7}, {"sha256": "0" * 64}, {"blob_hash": "0" * 64}])
async def test_a_refused_manifest_leaves_the_file_where_it_was(
    config: Any, one: Path, mode: AddMode, lie: dict[str, Any]
) -> None:
    async with open_node(config, network=False) as node:
        with pytest.raises(IntegrityError, match="the manifest says"):
            await node.publish(one, draft("m", **lie), mode=mode)
        assert is_there(one)
        assert await node.models() == []
        await node.gc()
        assert node._library.store.blobs() == []
        assert is_there(one)


async def test_a_link_is_not_moved(config: Any, one: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(one)
    async with open_node(config, network=False) as node:
        with pytest.raises(UsageError, match="symbolic link"):
            await node.publish(link, draft("m"), mode=AddMode.MOVE)
        with pytest.raises(NotFound):
            await node.publish(tmp_path / "nothing", draft("m"))
        assert await node.models() == []


async def test_gc_in_the_middle_of_a_publish_leaves_its_blob(config: Any, one: Path) -> None:
    async with open_node(config, network=False) as node:
        sign, collected = node._library.ledger.sign, 0

        async def sign_after_gc(*args: Any) -> Any:
            nonlocal collected
            collected = len((await node.gc()).removed)
            return await sign(*args)

        node._library.ledger.sign = sign_after_gc  # type: ignore[method-assign, assignment]  # comes in between
        await node.publish(one, draft("m"))
        assert collected == 0
        assert [view.status for view in await node.models()] == ["ready"]


async def test_a_cancelled_publish_publishes_nothing(config: Any, one: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def progress(_: int) -> None:
        reached.set()
        assert go_on.wait(10)

    async with open_node(config, network=False) as node:
        async with trio.open_nursery() as nursery:

            async def publish() -> None:
                await node.publish(one, draft("m"), progress=progress)

            nursery.start_soon(publish)
            assert await trio.to_thread.run_sync(reached.wait, 10)
            nursery.cancel_scope.cancel()
            go_on.set()
        assert await node.models() == []


async def test_a_cancelled_verify_ends_at_once_and_finds_nothing_damaged(
    config: Any, one: Path, two: Path
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def progress(_done: int, _size: int) -> None:
        reached.set()
        assert go_on.wait(10)

    async with open_node(config, network=False) as node:
        await node.publish(one, draft("m"))
        await node.publish(two, draft("n"))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def verify() -> None:
                    await node.verify(progress=progress)
                    raise AssertionError("it went on to its end")

                nursery.start_soon(verify)
                assert await trio.to_thread.run_sync(reached.wait, 10)
                scope.cancel()
                go_on.set()
        assert len((await node.verify()).good) == 2


async def test_the_same_version_with_another_file(config: Any, one: Path, two: Path) -> None:
    async with open_node(config, network=False) as node:
        await node.publish(two, draft("n"))
        await node.publish(one, draft("m"))
        await node.publish(two, draft("m"))
        views = {view.model_id: view for view in await node.models()}
        assert views["m"].blob_hash == hash_of(two).hex()
        local = views["m"].local_path
        assert local is not None
        assert same(two, one.parent / local)
        assert [blob for blob, _ in (await node.gc()).removed] == [hash_of(one)]
        assert same(two, one.parent / local)


async def test_withdraw_takes_our_own_of_two_of_one_name(config: Any, one: Path) -> None:
    trusting = config.model_copy(update={"trusted_publishers": [str(THEM.peer_id)]})
    async with open_node(trusting, network=False) as node:
        await node._library.ledger.take([signed(one, "m")])
        with pytest.raises(UsageError, match="only that node can withdraw"):
            await node.withdraw("m@1.0.0")
        await node.publish(one, draft("m"))
        await node.withdraw("m@1.0.0")
        assert [view.publisher for view in await node.models()] == [str(THEM.peer_id)]


async def test_withdraw_then_gc_frees_the_disk(config: Any, one: Path) -> None:
    async with open_node(config, network=False) as node:
        await node.publish(one, draft("m"))
        await node.withdraw("m")
        assert await node.models() == []
        assert len((await node.gc()).removed) == 1
        assert files_under(config.data_dir / "models") == []
        assert files_under(config.data_dir / "blobs") == []
        with pytest.raises(NotFound):
            await node.show("m")


async def test_what_is_published_is_there_after_a_restart(config: Any, one: Path) -> None:
    async with open_node(config, network=False) as node:
        await node.publish(one, draft("m"))
        before, peer_id = await node.models(), node.peer_id
    async with open_node(config, network=False) as node:
        assert await node.models() == before
        assert node.peer_id == peer_id


async def test_rm_and_get_of_what_we_published(config: Any, one: Path) -> None:
    async with open_node(config, network=False) as node:
        await node.publish(one, draft("m"))
        await node.pin("m")
        assert (await node.gc()).removed == []
        await node.unpin("m")
        await node.remove("m")
        assert [view.status for view in await node.models()] == ["available"]
        assert not await node.is_here("m")
        with pytest.raises(NotFound):
            await node.remove("m")
        await node.publish(one, draft("m"))
        assert (await node.get("m")).bytes_by_source == {}


async def test_a_subscriber_that_closed_its_end_is_in_nobodys_way(config: Any, one: Path) -> None:
    async with (
        open_node(config, network=False) as node,
        node.subscribe() as closed,
        node.subscribe() as changes,
    ):
        closed.close()
        await node.publish(one, draft("m"))
        await node.withdraw("m")
        assert await changes.receive() == ModelChanged("m", "1.0.0", "available")
        with trio.fail_after(5):
            while await changes.receive() != ModelChanged("m", "1.0.0", "withdrawn"):
                pass


async def test_a_node_does_not_fetch_what_it_publishes(config: Any, one: Path) -> None:
    async with open_node(config) as node:
        set_ready, looked = node._library.set_ready, trio.Event()
        look = node._keeper._policy.wanted

        def wanted(models: Any) -> Any:
            found = look(models)
            if found:
                looked.set()
            return found

        def set_ready_late(*args: Any) -> Any:
            trio.from_thread.run(looked.wait)
            return set_ready(*args)

        node._keeper._policy.wanted = wanted  # type: ignore[method-assign]  # tells of it
        node._library.set_ready = set_ready_late  # type: ignore[method-assign, assignment]  # after the keeper has looked
        async with node.subscribe() as changes:
            await node.publish(one, draft("m"))
            told = [
                changes.receive_nowait() for _ in range(changes.statistics().current_buffer_used)
            ]
        assert {change.status for change in told if isinstance(change, ModelChanged)} == {
            "available"
        }
        assert [view.status for view in await node.models()] == ["ready"]
