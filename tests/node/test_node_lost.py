"""Blobs whose file is gone while the model's own name still has the bytes: they are never the price of tidying up."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from typing import TYPE_CHECKING

import pytest

from node.node_kit import OTHERS, SIZE, THEM, config_of, hash_of, signed, withdrawal_of
from peatnet.blobs import hash_file, restoring
from peatnet.opening import open_library

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from peatnet.library import Library
    from peatnet.targets import Model

WAYS = ["gc", "verify", "verify one", "gc of a running node", "verify of a running node"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def library(root: Path) -> Iterator[Library]:
    with opened(root) as library:
        yield library


def opened(root: Path) -> AbstractContextManager[Library]:
    return open_library(config_of(root, trusted_publishers=[str(THEM.peer_id)]))


async def put(library: Library, file: Path) -> Path:
    """The name of a model that has come."""
    await library.ledger.take([signed(file, "m")])
    return library.set_ready(model_of(library), library.store.add_file(file, chunk_size=65536))


def lose(root: Path) -> None:
    for folder in (root / "blobs").iterdir():
        shutil.rmtree(folder)


def same(name: Path, file: Path) -> bool:
    return name.read_bytes() == file.read_bytes()


def is_gone(name: Path) -> bool:
    return not os.path.lexists(name)


def model_of(library: Library) -> Model:
    return library.find_model((str(THEM.peer_id), "m@1.0.0"))


def tidy(library: Library, way: str, file: Path) -> list[str]:
    """What was put back by it."""
    if way.startswith("gc"):
        report = library.collect(set(), dry_run=False)
        assert (report.removed, report.files) == ([], [])
        return [blob.hex() for blob in report.restored]
    checked = library.verify(
        hash_of(file) if way == "verify one" else None, rebuild=False, progress=lambda *_: None
    )
    assert checked.ok
    assert checked.good == [hash_of(file)]
    return [blob.hex() for blob in checked.restored]


def is_whole(library: Library, file: Path, name: Path) -> bool:
    info, view = library.store.info(hash_of(file)), library.view(model_of(library), progress=None)
    assert info is not None
    assert info.path.read_bytes() == name.read_bytes() == file.read_bytes()
    assert stat.S_IMODE(info.path.stat().st_mode) == 0o444
    return (view.status, view.local_path) == ("ready", str(name))


@pytest.mark.parametrize("way", WAYS)
async def test_a_lost_blob_is_put_back_from_its_name(root: Path, one: Path, way: str) -> None:
    with opened(root) as library:
        name = await put(library, one)
        before = library.store.info(hash_of(one))
        running = "running" in way
        if running:
            lose(root)
            assert tidy(library, way, one) == [hash_of(one).hex()]
            assert is_whole(library, one, name)
    if not running:
        lose(root)
    with opened(root) as library:
        assert running or library.store.blobs() == []
        assert tidy(library, way, one) == ([] if running else [hash_of(one).hex()])
        assert is_whole(library, one, name)
        assert library.store.info(hash_of(one)) == before
    with opened(root) as library:
        assert library.store.used_bytes == SIZE
        assert is_whole(library, one, name)
        assert tidy(library, way, one) == []


async def test_one_that_the_index_has_forgotten_keeps_the_chunks_that_were_signed(
    root: Path, one: Path, library: Library
) -> None:
    await put(library, one)
    signed_table = model_of(library).manifest.chunks
    assert signed_table is not None
    lose(root)
    library.store.verify()  # without a look at names
    assert library.collect(set(), dry_run=False).restored == [hash_of(one)]
    info = library.store.info(hash_of(one))
    assert info is not None
    assert info.table.table_hash.hex() == signed_table.table_hash


async def test_where_no_link_can_be_made_a_copy_is(
    root: Path, one: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await put(library, one)
    lose(root)
    monkeypatch.setattr(restoring, "hard_link", lambda *_: False)  # as between two file systems
    assert tidy(library, "gc", one) == [hash_of(one).hex()]
    assert is_whole(library, one, name)
    assert name.stat().st_nlink == 1
    assert library.store.used_bytes == SIZE


async def test_a_dry_run_touches_nothing(root: Path, one: Path, library: Library) -> None:
    name = await put(library, one)
    lose(root)
    assert library.collect(set(), dry_run=True).restored == []
    assert same(name, one)
    assert not library.store.has_file(hash_of(one))


@pytest.mark.parametrize("spoiled", ["other bytes", "shorter", "a directory", "gone"])
async def test_a_name_that_is_not_the_blob_goes(
    root: Path, one: Path, library: Library, spoiled: str
) -> None:
    name = await put(library, one)
    lose(root)
    size = name.stat().st_size
    name.unlink()
    if spoiled == "a directory":
        name.symlink_to(root)
    elif spoiled != "gone":
        name.write_bytes(bytes(size if spoiled == "other bytes" else size - 1))
    report = library.verify(None, rebuild=False, progress=lambda *_: None)
    assert (report.missing, report.restored) == ([hash_of(one)], [])
    assert is_gone(name)
    assert library.state(model_of(library)).path is None
    assert library.view(model_of(library), progress=None).status == "available"


async def test_a_name_that_cannot_be_read_stays(
    root: Path, one: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await put(library, one)
    lose(root)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", refused)
        assert library.collect(set(), dry_run=False).restored == []
        report = library.verify(None, rebuild=False, progress=lambda *_: None)
    assert report.missing == [hash_of(one)]
    assert same(name, one)
    assert tidy(library, "gc", one) == [hash_of(one).hex()]
    assert is_whole(library, one, name)


async def test_rm_means_the_name_as_well(root: Path, one: Path, library: Library) -> None:
    name = await put(library, one)
    library.remove(hash_of(one), of=model_of(library), force=False)
    assert not name.exists()
    assert library.collect(set(), dry_run=False).restored == []
    assert library.store.blobs() == []


async def test_rm_of_one_model_leaves_the_lost_ones_name(
    root: Path, one: Path, two: Path, library: Library
) -> None:
    name = await put(library, one)
    lose(root)
    other = library.store.add_file(two)
    library.remove(other.hash, force=False)
    assert same(name, one)
    assert tidy(library, "verify", one) == [hash_of(one).hex()]


async def test_who_is_removed_while_its_name_is_read_does_not_come_back(
    root: Path, one: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await put(library, one)
    lose(root)
    read = hash_file

    def meanwhile(*args: object, **named: object) -> object:
        found = read(*args, **named)  # type: ignore[arg-type]  # as it was called
        library.remove(hash_of(one), force=False)
        return found

    monkeypatch.setattr(restoring, "hash_file", meanwhile)
    assert library.collect(set(), dry_run=False).restored == []
    assert not name.exists()
    assert library.store.blobs() == []


async def test_gc_of_a_lost_blob_that_nobody_wants_takes_its_name(
    root: Path, one: Path, library: Library
) -> None:
    name = await put(library, one)
    await library.ledger.take([withdrawal_of(THEM, "m@1.0.0", 2)])
    lose(root)
    report = library.collect(set(), dry_run=False)
    assert report.removed == [(hash_of(one), SIZE)]
    assert not name.exists()
    assert library.states.items() == []


async def test_a_damaged_blob_is_put_back_from_a_copy_that_is_not(
    root: Path, one: Path, library: Library
) -> None:
    name = await put(library, one)
    copy = name.read_bytes()
    name.unlink()
    name.write_bytes(copy)
    info = library.store.info(hash_of(one))
    assert info is not None
    info.path.chmod(0o644)
    with info.path.open("r+b") as file:
        file.write(b"damage")
    report = library.verify(None, rebuild=False, progress=lambda *_: None)
    assert [damage.hash for damage in report.damaged] == report.restored == [hash_of(one)]
    assert is_whole(library, one, name)


# The database is lost


def lose_database(root: Path) -> None:
    for path in root.glob("peatnet.db*"):
        path.unlink()


async def test_what_a_new_database_does_not_know_is_kept(
    root: Path, one: Path, two: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(root) as library:
        name = await put(library, one)
        library.store.add_file(two)
    assert caplog.messages == []
    lose_database(root)
    with opened(root) as library:
        assert len([text for text in caplog.messages if "verify --rebuild" in text]) == 1
        assert library.collect(set(), dry_run=False).removed == []
        told = library.verify(None, rebuild=False, progress=lambda *_: None)
        assert ({path.stem for path in told.unindexed}, told.foreign) == (
            {hash_of(one).hex(), hash_of(two).hex()},
            [],
        )
        caplog.clear()
        report = library.verify(None, rebuild=True, progress=lambda *_: None)
        assert (report.rebuilt, report.ok, report.unindexed) == (2, True, [])
    with opened(root) as library:
        assert not any("verify --rebuild" in text for text in caplog.messages)
        assert library.collect(set(), dry_run=False).removed == []
        assert library.verify(None, rebuild=True, progress=lambda *_: None).rebuilt == 0
        assert {info.hash for info in library.store.blobs()} == {hash_of(one), hash_of(two)}
        # One is named by a manifest again, the other one nobody wants.
        assert await put(library, one) == name
        library.collect(set(), dry_run=True)
        assert library.store.pins() == {hash_of(one): {"rebuilt"}, hash_of(two): {"rebuilt"}}
        library.collect(set(), dry_run=False)
        assert library.store.pins() == {hash_of(two): {"rebuilt"}}
        library.store.unpin(hash_of(two))
        assert library.collect(set(), dry_run=False).removed == [(hash_of(two), SIZE)]
        await library.ledger.take([withdrawal_of(THEM, "m@1.0.0", 2)])
        assert library.collect(set(), dry_run=False).removed == [(hash_of(one), SIZE)]


async def test_a_stranger_who_names_a_rebuilt_blob_does_not_unpin_it(root: Path, one: Path) -> None:
    with opened(root) as library:
        library.store.add_file(one)
    lose_database(root)
    with opened(root) as library:
        library.store.rebuild()
        await library.ledger.take([signed(one, "m", keys=OTHERS)])
        library.collect(set(), dry_run=False)
        assert library.store.pins() == {hash_of(one): {"rebuilt"}}


async def test_an_older_database_keeps_what_came_after_it(
    root: Path, one: Path, two: Path, tmp_path: Path
) -> None:
    with opened(root) as library:
        await put(library, one)
    shutil.copytree(root, tmp_path / "before")
    with opened(root) as library:
        library.store.add_file(two, pin="user")
    lose_database(root)
    shutil.copy(tmp_path / "before" / "peatnet.db", root)
    with opened(root) as library:
        assert library.verify(None, rebuild=True, progress=lambda *_: None).rebuilt == 1
        assert library.collect(set(), dry_run=False).removed == []
        assert library.store.pins() == {hash_of(two): {"rebuilt"}}
