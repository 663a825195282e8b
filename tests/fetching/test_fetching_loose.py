"""What a fetch without a chunk table tells of itself: received is not verified, and nothing ever falls."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest
import trio
from support.files import MIB, blake3_of, make_model
from support.records import manifest_of
from support.web import FileServer

from peatnet.blobs import Database, Hash, Store
from peatnet.concurrency import Stirring
from peatnet.config import Config
from peatnet.fetching import BlobFetch
from peatnet.models import ModelManifest
from peatnet.records import KeyPair, RecordType, sign_record
from peatnet.targets import Model, Target
from peatnet.views import Progress, SourceChoice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIZE = 6 * MIB + 777


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors", SIZE)


@pytest.fixture(scope="module")
def body(model: Path) -> bytes:
    return model.read_bytes()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    database = Database.open(tmp_path / "peatnet.db")
    store = Store.open(tmp_path, database)
    yield store
    store.close()
    database.close()


def fetch_of(model: Path, url: str, store: Store, root: Path) -> BlobFetch:
    """A fetch of a manifest that names no chunk table, without any peers."""
    body = json.dumps(manifest_of(model, "m", download_url=url, metadata={})).encode()
    manifest = ModelManifest.from_json(body)
    keys = KeyPair.from_seed(bytes(32))
    record = sign_record(keys, RecordType.MANIFEST, manifest.key, 1, manifest.to_json().encode())
    return BlobFetch(
        Target(Model(record, manifest, trusted=True), Hash.parse(blake3_of(model))),
        SourceChoice.HTTP,
        store=store,
        peers=None,
        config=Config(data_dir=root),
        rng=random.Random(0),
        stirring=Stirring(),
        on_chunks=lambda _: None,
    )


async def until(
    fetch: BlobFetch, reached: Callable[[Progress], bool], seen: list[Progress]
) -> None:
    """Look at the progress over and over until it is as wanted."""
    with trio.fail_after(60):
        while True:
            seen.append(fetch.progress)
            if reached(fetch.progress):
                return
            await trio.sleep(0.001)


def assert_never_falls(seen: list[Progress]) -> None:
    for values in ([look.received_bytes for look in seen], [look.verified_bytes for look in seen]):
        assert values == sorted(values)


async def test_received_is_told_while_nothing_is_verified(
    model: Path, body: bytes, store: Store, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    with FileServer(body, stall_at=5 * MIB) as server:
        fetch = fetch_of(model, server.url, store, tmp_path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch.run)
            await until(fetch, lambda look: look.received_bytes == 5 * MIB, seen)
            assert fetch.progress.verified_bytes == 0
            assert fetch.progress.size_bytes == SIZE
            server.resume()
            await until(fetch, lambda look: look.verified_bytes == SIZE, seen)
        assert server.bytes_sent == SIZE
        name = f"http:{server.url.split('/')[2]}"
    assert_never_falls(seen)
    assert fetch.progress.to_json() == {
        "copied_bytes": None,
        "size_bytes": SIZE,
        "verified_bytes": SIZE,
        "received_bytes": SIZE,
        "rate": 0.0,
        "eta_s": 0.0,
        "bytes_by_source": {name: SIZE},
    }


async def test_a_file_that_changed_does_not_take_it_back(
    model: Path, body: bytes, store: Store, tmp_path: Path
) -> None:
    with store.start_loose(Hash.parse(blake3_of(model)), SIZE) as earlier:
        earlier.write_at(0, bytes(3 * MIB))
        earlier.note = '"v0"'
    seen: list[Progress] = []
    with FileServer(body, stall_at=MIB) as server:
        fetch = fetch_of(model, server.url, store, tmp_path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch.run)
            await until(fetch, lambda look: MIB in look.bytes_by_source.values(), seen)
            assert fetch.progress.received_bytes == 3 * MIB
            server.resume()
            await until(fetch, lambda look: look.verified_bytes == SIZE, seen)
        assert server.bytes_sent == SIZE
    assert_never_falls(seen)
    assert list(fetch.progress.bytes_by_source.values()) == [SIZE]
