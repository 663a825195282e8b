"""Publishing many small files: they share the work, and each is published or not by itself."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.files import make_model, sha256_of

from node.node_kit import config_of, draft, hash_of
from peatnet import publisher
from peatnet.api.verbs import VERBS
from peatnet.blobs import AddMode
from peatnet.errors import (
    DiskFull,
    IntegrityError,
    NotFound,
    PeatnetError,
    StorageError,
    UsageError,
)
from peatnet.models import ModelManifest
from peatnet.opening import open_node
from peatnet.publishing import Publication
from peatnet.records.catalogue import Bound, CatalogueLimits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peatnet.node import Node

SMALL = 4_000


@pytest.fixture
def config(tmp_path: Path) -> Any:
    return config_of(tmp_path / "data")


def small_files(folder: Path, count: int, size: int = SMALL) -> list[Path]:
    return [
        make_model(folder / f"m{number}.safetensors", size, number + 1) for number in range(count)
    ]


def publications(paths: list[Path], **others: Any) -> list[Publication]:
    return [Publication(path, draft(path.stem, **others)) for path in paths]


def counting(function: Callable[..., Any], counts: list[int]) -> Callable[..., Any]:
    """Does what the function does, and notes how many things it was given at a time."""

    def counted(things: Any) -> Any:
        counts.append(len(things))
        return function(things)

    return counted


async def ready(node: Node) -> dict[str, str | None]:
    """The blobs of the models that are here, by id; all models must be."""
    views = await node.models()
    assert {view.status for view in views} <= {"ready"}
    return {view.model_id: view.blob_hash for view in views}


async def test_callers_at_the_same_time_share_groups(config: Any, tmp_path: Path) -> None:
    files = small_files(tmp_path, 40)
    async with open_node(config, network=False) as node:
        store, counts = node._library.store, list[int]()
        store.add_small = counting(store.add_small, counts)  # type: ignore[method-assign]  # counts
        async with trio.open_nursery() as nursery:
            for path in files:
                nursery.start_soon(node.publish, path, draft(path.stem))
        assert await ready(node) == {path.stem: hash_of(path).hex() for path in files}
        assert sum(counts) == 40
        assert len(counts) < 40
        assert store.pins() == {}
    async with open_node(config, network=False) as node:
        assert await ready(node) == {path.stem: hash_of(path).hex() for path in files}


async def test_many_files_at_once(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "MAX_GROUP", 8)
    files = small_files(tmp_path, 20)
    large = make_model(tmp_path / "large.safetensors", 300_000)
    wanted = publications([*files[:5], large, *files[5:]])
    hashed: list[int] = []
    async with open_node(config, network=False) as node:
        store, counts = node._library.store, list[int]()
        store.add_small = counting(store.add_small, counts)  # type: ignore[method-assign]  # counts
        results = await node.publish_all(wanted, progress=hashed.append)
        for each, result in zip(wanted, results, strict=True):
            assert isinstance(result, ModelManifest)
            assert result.sha256 == sha256_of(each.path)
        assert await ready(node) == {each.path.stem: hash_of(each.path).hex() for each in wanted}
        assert counts == [5, 8, 7]
        assert hashed == sorted(hashed)
        assert hashed[-1] == 20 * SMALL + 300_000
        assert await node.publish_all([]) == []


async def test_groups_are_bounded_in_bytes(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "MAX_BYTES", 2 * SMALL)
    async with open_node(config, network=False) as node:
        store, counts = node._library.store, list[int]()
        store.add_small = counting(store.add_small, counts)  # type: ignore[method-assign]  # counts
        await node.publish_all(publications(small_files(tmp_path, 7)))
        assert len(await ready(node)) == 7
        assert sum(counts) == 7
        assert max(counts) == 2


async def test_one_files_error_keeps_no_other(config: Any, tmp_path: Path) -> None:
    files = small_files(tmp_path, 4)
    empty, nothing, pipe = tmp_path / "empty.gguf", tmp_path / "nothing.gguf", tmp_path
    empty.touch()
    wanted = [
        *publications(files[:1]),
        *publications(files[1:2], sha256="0" * 64),
        *publications([empty, nothing, pipe]),
        *publications(files[2:3], metadata={"much": "x" * 48_600}),
        *publications(files[3:]),
    ]
    async with open_node(config, network=False) as node:
        results = await node.publish_all(wanted)
        assert [type(each) for each in results[1:5]] == [
            IntegrityError,
            UsageError,
            NotFound,
            UsageError,
        ]
        assert isinstance(results[5], PeatnetError)
        assert set(await ready(node)) == {"m0", "m3"}
        with pytest.raises(IntegrityError, match="the manifest says"):
            await node.publish(files[1], draft("m1", blob_hash="0" * 64))


async def test_the_last_of_a_group_that_is_the_same_model_counts(
    config: Any, tmp_path: Path
) -> None:
    first, second = small_files(tmp_path, 2)
    wanted = [Publication(path, draft("m")) for path in (first, second)]
    async with open_node(config, network=False) as node:
        results = await node.publish_all(wanted)
        assert all(isinstance(each, ModelManifest) for each in results)
        assert await ready(node) == {"m": hash_of(second).hex()}
        assert [blob for blob, _ in (await node.gc()).removed] == [hash_of(first)]


async def test_two_models_of_a_group_with_the_same_bytes(config: Any, tmp_path: Path) -> None:
    (path,) = small_files(tmp_path, 1)
    wanted = [Publication(path, draft(name)) for name in ("a", "b")]
    async with open_node(config, network=False) as node:
        await node.publish_all(wanted)
        assert await ready(node) == dict.fromkeys("ab", hash_of(path).hex())


async def test_what_a_group_cannot_do_is_done_one_by_one(config: Any, tmp_path: Path) -> None:
    here, cut, other = small_files(tmp_path, 3)
    async with open_node(config, network=False) as node:
        store = node._library.store
        store.add_file(here)
        store.add_file(cut, chunk_size=64 * 1024)  # its table is another one
        results = await node.publish_all(publications([here, cut, other]))
        assert len(await ready(node)) == 3
        (manifest,) = (
            each for each in results if isinstance(each, ModelManifest) and each.name == "m1"
        )
        assert manifest.chunks is not None
        assert manifest.chunks.chunk_size == 64 * 1024


async def test_a_full_store_takes_those_that_fit(config: Any, tmp_path: Path) -> None:
    config = config.model_copy(update={"quota_bytes": 2 * SMALL + 100})
    async with open_node(config, network=False) as node:
        results = await node.publish_all(publications(small_files(tmp_path, 4)))
        assert [type(each) for each in results] == [
            ModelManifest,
            ModelManifest,
            DiskFull,
            DiskFull,
        ]
        assert set(await ready(node)) == {"m0", "m1"}


async def test_a_database_that_refuses_publishes_nothing(config: Any, tmp_path: Path) -> None:
    (path,) = small_files(tmp_path, 1)
    async with open_node(config, network=False) as node:
        node._library.database.execute("ALTER TABLE records RENAME TO gone")
        with pytest.raises(StorageError):
            await node.publish(path, draft("m"))
        node._library.database.execute("ALTER TABLE gone RENAME TO records")
        assert await node.models() == []
        await node.publish(path, draft("m"))
        assert set(await ready(node)) == {"m"}


async def test_a_full_catalogue_takes_those_that_fit(config: Any, tmp_path: Path) -> None:
    async with open_node(config, network=False) as node:
        limits = CatalogueLimits(trusted=Bound(0, 0), publisher=Bound(2, 2**20))
        node._library.ledger.catalogue._limits = limits
        *fit, refused = await node.publish_all(publications(small_files(tmp_path, 3)))
        assert all(isinstance(each, ModelManifest) for each in fit)
        assert isinstance(refused, StorageError)
        assert refused.message == "m2@1.0.0: the catalogue is full"
        with pytest.raises(StorageError, match="the catalogue is full"):
            await node.publish(tmp_path / "m2.safetensors", draft("m2"))
        assert set(await ready(node)) == {"m0", "m1"}
    async with open_node(config, network=False) as node:
        assert set(await ready(node)) == {"m0", "m1"}


@pytest.mark.parametrize("mode", [AddMode.MOVE, AddMode.HARDLINK])
async def test_small_files_that_may_not_be_copied(
    config: Any, tmp_path: Path, mode: AddMode
) -> None:
    files = small_files(tmp_path, 3)
    blobs = {path.stem: hash_of(path).hex() for path in files}
    wanted = [Publication(path, draft(path.stem), mode) for path in files]
    async with open_node(config, network=False) as node:
        await node.publish_all(wanted)
        assert await ready(node) == blobs
    assert [path.exists() for path in files] == [mode is AddMode.HARDLINK] * 3


async def test_gc_in_the_middle_of_a_group_leaves_its_blobs(config: Any, tmp_path: Path) -> None:
    files = small_files(tmp_path, 5)
    async with open_node(config, network=False) as node:
        sign_all, kept = node._library.ledger.sign_all, list[int]()

        async def sign_after_gc(*args: Any) -> Any:
            kept.append(len(node._library.store.blobs()))
            assert (await node.gc()).removed == []
            return await sign_all(*args)

        node._library.ledger.sign_all = sign_after_gc  # type: ignore[method-assign, assignment]  # comes in between
        await node.publish_all(publications(files))
        assert kept == [5]
        assert len(await ready(node)) == 5


async def test_those_who_wait_can_leave(config: Any, tmp_path: Path) -> None:
    first, second, third = small_files(tmp_path, 3)
    storing, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    async with open_node(config, network=False) as node:
        store = node._library.store
        add_small = store.add_small

        def slow(blobs: Any) -> Any:
            trio.from_thread.run_sync(storing.set, trio_token=token)
            assert go_on.wait(10)
            return add_small(blobs)

        store.add_small = slow  # type: ignore[method-assign]  # takes its time
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.publish, first, draft("m0"))
            await storing.wait()
            async with trio.open_nursery() as leaving:
                leaving.start_soon(node.publish, second, draft("m1"))
                while not node._publisher._waiting:
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(node.publish, third, draft("m2"))
                while len(node._publisher._waiting) < 2:
                    await trio.lowlevel.checkpoint()
                leaving.cancel_scope.cancel()
                go_on.set()
        assert set(await ready(node)) == {"m0", "m2"}


async def test_a_cancelled_caller_whose_file_is_being_written(config: Any, tmp_path: Path) -> None:
    first, second = small_files(tmp_path, 2)
    storing, go_on, calls = trio.Event(), threading.Event(), list[int]()
    token = trio.lowlevel.current_trio_token()
    async with open_node(config, network=False) as node:
        store = node._library.store
        add_small = store.add_small

        def slow(blobs: Any) -> Any:
            calls.append(len(blobs))
            trio.from_thread.run_sync(storing.set, trio_token=token)
            assert go_on.wait(10)
            return add_small(blobs)

        store.add_small = slow  # type: ignore[method-assign]  # takes its time
        waiting = node._publisher._waiting
        async with trio.open_nursery() as nursery:
            async with node._publisher._writing:  # so that both are in one group
                nursery.start_soon(node.publish, first, draft("m0"))
                nursery.start_soon(node.publish, second, draft("m1"))
                while len(waiting) < 2:
                    await trio.lowlevel.checkpoint()
            await storing.wait()
            nursery.cancel_scope.cancel()
            go_on.set()
        assert calls == [2]
        assert set(await ready(node)) == {"m0", "m1"}


async def test_as_a_verb(config: Any, tmp_path: Path) -> None:

    files = small_files(tmp_path, 2)
    manifest = json.loads(draft("m0").to_json())
    verb = VERBS["publish_all"]
    params = verb.parse(
        {
            "files": [
                {"path": str(files[0]), "manifest": {}},
                {"path": str(files[0]), "manifest": manifest},
                {"path": str(tmp_path / "nothing"), "manifest": manifest},
            ]
        }
    )
    told: list[dict[str, Any]] = []
    async with open_node(config, network=False) as node:
        answers = await verb.run(node, params, told.append)
        assert [next(iter(answer)) for answer in answers] == ["error", "manifest", "error"]
        assert answers[0]["error"]["slug"] == "invalid-manifest"
        assert answers[1]["manifest"]["blob_hash"] == hash_of(files[0]).hex()
        assert answers[2]["error"]["slug"] == "not-found"
    assert told == [{"hashed_bytes": SMALL}]
    with pytest.raises(UsageError, match="files"):
        verb.parse({"files": []})
