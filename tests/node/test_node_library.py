"""What a library makes of records and blobs: what is ready, what a reference means, which file has a model's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from node.node_kit import OTHERS, THEM, config_of, file_of, hash_of, signed, withdrawal_of
from peatnet.errors import Ambiguous, InUse, NotFound
from peatnet.opening import open_library
from peatnet.states import LocalState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from peatnet.library import Library
    from peatnet.records import KeyPair
    from peatnet.targets import Model

NAME = "models/m/m-1_0_0-f16.safetensors"
BOTH = (THEM, OTHERS)


@pytest.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    with open_library(config_of(tmp_path / "data")) as opened:
        for keys in BOTH:
            await opened.ledger.trust(str(keys.peer_id))
        yield opened


async def hear(library: Library, *envelopes: bytes) -> None:
    assert all(taken.fault is None for taken in await library.ledger.take(envelopes))


def model_of(library: Library, model_id: str = "m", keys: KeyPair = THEM) -> Model:
    return library.find_model((str(keys.peer_id), f"{model_id}@1.0.0"))


def ready(library: Library, path: Path, model_id: str = "m", keys: KeyPair = THEM) -> Path:
    """The model's file has come; where it is now."""
    return library.set_ready(model_of(library, model_id, keys), library.store.add_file(path))


def same(first: Path, second: Path) -> bool:
    return first.read_bytes() == second.read_bytes()


def progress(*_: int) -> None:
    pass


# Ready


async def test_a_new_file_for_a_version_is_not_ready_before_it_is_in_place(
    library: Library, one: Path, two: Path
) -> None:
    await hear(library, signed(one, "m"))
    ready(library, one)
    library.store.add_file(two)  # here already, as another model's file
    await hear(library, signed(two, "m", 2))
    view = library.view(model_of(library), progress=None)
    assert (view.status, view.local_path) == ("available", None)
    placed = ready(library, two)
    assert same(placed, two)
    assert placed == library.config.data_dir / NAME


async def test_an_old_manifests_file_arrives_after_the_new_one(
    library: Library, one: Path, two: Path
) -> None:
    await hear(library, signed(one, "m"))
    old = model_of(library)
    await hear(library, signed(two, "m", 2))
    info = library.store.add_file(one)
    assert library.set_ready(old, info) == info.path
    assert library.state(old) == LocalState()
    assert not (library.config.data_dir / NAME).exists()


async def test_a_withdrawn_models_file_arrives(library: Library, one: Path) -> None:
    await hear(library, signed(one, "m"))
    old = model_of(library)
    await hear(library, withdrawal_of(THEM, "m@1.0.0", 2))
    library.set_ready(old, library.store.add_file(one))
    assert not (library.config.data_dir / NAME).exists()


async def test_a_newer_manifest_has_not_failed_yet(library: Library, one: Path) -> None:
    await hear(library, signed(one, "m", size_bytes=1))
    library.set_failed(model_of(library), "wrong size", failed=True)
    view = library.view(model_of(library), progress=None)
    assert (view.status, view.error) == ("failed", "wrong size")
    await hear(library, signed(one, "m", 2))
    view = library.view(model_of(library), progress=None)
    assert (view.status, view.error) == ("available", None)


@pytest.mark.parametrize(("sha256", "status"), [(None, "ready"), ("", "available")])
async def test_a_manifest_without_a_blob_hash_is_ready_by_its_sha256_alone(
    library: Library, one: Path, sha256: str | None, status: str
) -> None:
    await hear(library, signed(one, "m", blob_hash=None, metadata={}))
    ready(library, one)
    changes: dict[str, Any] = {} if sha256 is None else {"sha256": sha256, "size_bytes": 0}
    await hear(library, signed(one, "m", 2, blob_hash=None, metadata={}, name="new", **changes))
    assert library.view(model_of(library), progress=None).status == status


async def test_states_last(tmp_path: Path, one: Path) -> None:
    config = config_of(tmp_path / "data", trusted_publishers=[str(THEM.peer_id)])
    with open_library(config) as library:
        await hear(library, signed(one, "m"), signed(one, "n"))
        ready(library, one)
        library.set_failed(model_of(library, "n"), "no room", failed=True)
        states = library.states.items()
    with open_library(config) as library:
        assert library.states.items() == states
        views = [library.view(model, progress=None) for model in library.models()]
        assert [(view.status, view.error) for view in views] == [
            ("ready", None),
            ("failed", "no room"),
        ]


# Names under models/


async def test_two_publishers_want_one_name(library: Library, one: Path, two: Path) -> None:
    await hear(library, signed(one, "m"), signed(two, "m", keys=OTHERS))
    first = ready(library, one)
    second = ready(library, two, keys=OTHERS)
    assert first == library.config.data_dir / NAME
    assert second == library.store.info(hash_of(two)).path  # type: ignore[union-attr]  # it is here
    assert same(first, one)


async def test_who_lost_a_name_does_not_show_the_winners_file(
    library: Library, one: Path, two: Path
) -> None:
    await hear(library, signed(one, "m"), signed(two, "m", keys=OTHERS))
    ready(library, one)
    await library.ledger.distrust(str(THEM.peer_id))
    assert same(ready(library, two, keys=OTHERS), two)
    view = library.view(model_of(library), progress=None)
    assert view.status == "ready"
    assert view.local_path == str(library.store.info(hash_of(one)).path)  # type: ignore[union-attr]


async def test_a_publisher_who_is_not_trusted_any_more_gets_no_name(
    library: Library, one: Path
) -> None:
    await hear(library, signed(one, "m"))
    model = model_of(library)
    assert model.trusted
    await library.ledger.distrust(str(THEM.peer_id))
    path = library.set_ready(model, library.store.add_file(one))
    assert path.parent.parent.name == "blobs"


async def test_trust_gives_names(library: Library, one: Path) -> None:
    await library.ledger.distrust(str(THEM.peer_id))
    await hear(library, signed(one, "m"))
    ready(library, one)
    assert not (library.config.data_dir / NAME).exists()
    await library.ledger.trust(str(THEM.peer_id))
    library.place_all(str(THEM.peer_id))
    assert same((library.config.data_dir / NAME), one)


async def test_another_file_name_takes_the_old_one_away(
    library: Library, one: Path, two: Path
) -> None:
    await hear(library, signed(one, "m"))
    ready(library, one)
    await hear(library, signed(two, "m", 2, quantization="F32"))
    ready(library, two)
    assert [path.name for path in (library.config.data_dir / "models/m").iterdir()] == [
        "m-1_0_0-f32.safetensors"
    ]


# Removing


@pytest.mark.parametrize("changes", [{}, {"blob_hash": None, "metadata": {}}])
async def test_rm_leaves_nothing(library: Library, one: Path, changes: dict[str, Any]) -> None:
    await hear(library, signed(one, "m", **changes), signed(one, "n"))
    ready(library, one)
    ready(library, one, "n")
    blob = library.find("m").blob
    assert blob == hash_of(one)
    library.remove(blob, force=False)
    assert [
        path for path in (library.config.data_dir / "models").rglob("*") if path.is_file()
    ] == []
    assert [library.state(model).removed for model in library.models()] == [True, True]
    assert library.find("n").blob == blob


async def test_rm_of_a_pinned_blob_changes_nothing(library: Library, one: Path) -> None:
    await hear(library, signed(one, "m"))
    placed = ready(library, one)
    library.store.pin(hash_of(one))
    with pytest.raises(InUse):
        library.remove(hash_of(one), force=False)
    assert placed.is_file()
    assert library.view(model_of(library), progress=None).status == "ready"
    library.remove(hash_of(one), force=True)
    assert not placed.exists()


async def test_rm_of_one_model_does_not_take_another_along(library: Library, one: Path) -> None:
    await hear(library, signed(one, "m"), signed(one, "n"))
    placed, other = ready(library, one), ready(library, one, "n")
    with pytest.raises(InUse, match=r"^m@1\.0\.0 is the same file as n@1\.0\.0$"):
        library.remove(hash_of(one), of=library.find("m").model, force=False)
    assert placed.is_file()
    assert other.is_file()
    library.remove(hash_of(one), of=library.find("m").model, force=True)
    assert not placed.exists()
    assert not other.exists()


async def test_the_name_of_a_withdrawn_model_goes_though_another_is_the_same_file(
    library: Library, one: Path
) -> None:
    await hear(library, signed(one, "m"), signed(one, "n"))
    placed, other = ready(library, one), ready(library, one, "n")
    await hear(library, withdrawal_of(THEM, "m@1.0.0", 2))
    library.collect(set(), dry_run=False)
    assert not placed.exists()
    assert other.is_file()
    assert [key for key, _ in library.states.items()] == [(str(THEM.peer_id), "n@1.0.0")]


async def test_rm_of_a_new_files_beginning_leaves_the_old_name_owned(
    library: Library, one: Path, two: Path
) -> None:
    await hear(library, signed(one, "m"))
    placed = ready(library, one)
    await hear(library, signed(two, "m", 2))
    table = library.store.add_file(two).table
    library.store.remove(hash_of(two))
    library.store.start_partial(table, hash_of(two)).close()
    library.remove(hash_of(two), force=False)
    assert library.state(model_of(library)).removed
    assert placed.is_file()
    library.collect(set(), dry_run=False)
    assert not placed.exists()


async def test_gc_of_a_withdrawn_model_takes_its_name_as_well(library: Library, one: Path) -> None:
    await hear(library, signed(one, "m"))
    placed = ready(library, one)
    await hear(library, withdrawal_of(THEM, "m@1.0.0", 2))
    library.store.pin(hash_of(one))
    assert library.collect(set(), dry_run=False).removed == []
    assert placed.is_file()
    library.store.unpin(hash_of(one))
    assert [blob for blob, _ in library.collect(set(), dry_run=True).removed] == [hash_of(one)]
    assert placed.is_file()
    library.collect(set(), dry_run=False)
    assert not placed.exists()
    assert library.states.items() == []


async def test_gc_keeps_a_name_that_another_model_has_as_well(library: Library, one: Path) -> None:
    await hear(library, signed(one, "m"), signed(one, "m", keys=OTHERS))
    placed = ready(library, one)
    assert ready(library, one, keys=OTHERS) == placed
    await hear(library, withdrawal_of(THEM, "m@1.0.0", 2))
    library.collect(set(), dry_run=False)
    assert placed.is_file()


async def test_gc_of_an_unfinished_fetch_that_nobody_wants(
    library: Library, one: Path, two: Path, tmp_path: Path
) -> None:
    three = file_of(tmp_path, 3)
    for path in (one, two, three):
        table = library.store.add_file(path).table
        library.store.remove(hash_of(path))
        library.store.start_partial(table, hash_of(path)).close()
    await hear(library, signed(one, "m"))
    report = library.collect({hash_of(two)}, dry_run=False)
    assert [blob for blob, _ in report.removed] == [hash_of(three)]


async def test_a_damaged_file_loses_its_name(library: Library, one: Path) -> None:
    await hear(library, signed(one, "m"))
    placed = ready(library, one)
    placed.chmod(0o644)
    with placed.open("r+b") as file:
        file.write(b"damage")
    report = library.verify(None, rebuild=False, progress=progress)
    assert [damage.hash for damage in report.damaged] == [hash_of(one)]
    assert not placed.exists()
    view = library.view(model_of(library), progress=None)
    assert (view.status, view.local_path) == ("available", None)
    library.store.add_file(one)
    assert library.view(model_of(library), progress=None).status == "available"
    assert same(ready(library, one), one)


async def test_verifying_tells_what_is_read_of_all_that_is_to_be_read(
    library: Library, one: Path, two: Path
) -> None:
    first = library.store.add_file(one)
    size = first.size + library.store.add_file(two).size
    told: list[tuple[int, int]] = []

    def tell(done: int, whole: int) -> None:
        told.append((done, whole))

    library.verify(None, rebuild=False, progress=tell)
    assert told[-1] == (size, size)
    assert {whole for _, whole in told} == {size}
    told.clear()
    library.verify(first.hash, rebuild=True, progress=tell)  # the index has lost nothing
    assert told[-1] == (first.size, first.size)


def test_what_the_index_has_lost_is_read_twice_and_told_so(
    root: Path, one: Path, two: Path
) -> None:
    with open_library(config_of(root)) as library:
        size = library.store.add_file(one).size + library.store.add_file(two).size
    for path in root.glob("peatnet.db*"):
        path.unlink()
    told: list[tuple[int, int]] = []
    with open_library(config_of(root)) as library:
        report = library.verify(
            None, rebuild=True, progress=lambda done, whole: told.append((done, whole))
        )
    assert len(report.good) == 2
    assert told == sorted(told)
    assert told[-1] == (2 * size, 2 * size)
    assert {whole for _, whole in told} == {2 * size}


# References


async def test_the_version_published_last_is_meant(library: Library, one: Path) -> None:
    await hear(
        library,
        signed(one, "m", 1, version="2.0.0"),
        signed(one, "m", 2, version="1.0.0"),
        signed(one, "m", 3, version="9", keys=OTHERS),
    )
    await library.ledger.distrust(str(OTHERS.peer_id))

    def key(reference: str, **who: Any) -> str:
        model = library.find(reference, **who).model
        assert model is not None
        return model.record.key

    assert key("m") == "m@1.0.0"
    assert key("m@2.0.0") == "m@2.0.0"
    assert key("m@9") == "m@9"
    assert key("m", publisher=str(OTHERS.peer_id)) == "m@9"
    with pytest.raises(NotFound):
        library.find("m@3")


async def test_two_trusted_publishers_of_one_name(library: Library, one: Path, two: Path) -> None:
    await hear(library, signed(one, "m"), signed(two, "m", keys=OTHERS))
    with pytest.raises(Ambiguous):
        library.find("m")
    for path, keys in ((one, THEM), (two, OTHERS)):
        target = library.find(hash_of(path).hex()[:12])
        assert target == library.find(hash_of(path).hex())
        assert target.model == model_of(library, keys=keys)


async def test_a_model_called_like_a_hash_is_not_taken_for_the_blob(
    library: Library, one: Path, two: Path
) -> None:
    wanted = hash_of(one).hex()
    await hear(library, signed(one, "good"))
    for name in (wanted, wanted[:8]):
        await hear(library, signed(two, name, keys=OTHERS))
    await library.ledger.distrust(str(OTHERS.peer_id))
    assert library.find(wanted).blob == hash_of(one)
    assert library.find(f"{wanted}@1.0.0").blob == hash_of(two)
    with pytest.raises(Ambiguous):
        library.find(wanted[:8])
    await library.ledger.trust(str(OTHERS.peer_id))
    assert library.find(wanted[:8]).blob == hash_of(two)


async def test_a_manifest_that_a_blob_contradicts_tells_nothing_of_it(
    library: Library, one: Path
) -> None:
    await hear(library, signed(one, "liar", size_bytes=7))
    blob = hash_of(one)
    assert library.find(blob.hex()).model == model_of(library, "liar")
    library.store.add_file(one)
    assert library.find(blob.hex()).model is None
    await hear(library, signed(one, "m", keys=OTHERS))
    assert library.find(blob.hex()).model == model_of(library, "m", OTHERS)


@pytest.mark.parametrize("reference", ["m", "m@1", "0" * 63, "01234567"])
async def test_unknown_references(library: Library, reference: str) -> None:
    with pytest.raises(NotFound):
        library.find(reference)


async def test_a_whole_hash_may_be_unknown(library: Library) -> None:
    target = library.find("AB" * 32)
    assert (target.model, str(target.blob)) == (None, "ab" * 32)


# A crash


def test_what_was_being_published_is_not_pinned_for_good(tmp_path: Path, one: Path) -> None:
    config = config_of(tmp_path / "data")
    with open_library(config) as library:
        library.store.add_file(one, pin="publish")
        library.store.pin(hash_of(one), "user")
    with open_library(config) as library:
        assert library.store.pins() == {hash_of(one): {"user"}}
