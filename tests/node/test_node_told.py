"""Models whose manifests name no blob: what others say of it is followed once, and held against the origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from support.files import sha256_of
from support.waiting import until
from support.web import serving

from node.node_kit import MemoryPeer, World, file_of, hash_of, signed, world
from peatnet import fetching
from peatnet.blobs import Hash

if TYPE_CHECKING:
    from pathlib import Path


def content(path: Path) -> bytes:
    return path.read_bytes()


def holder(name: str, path: Path, gate: trio.Event | None = None) -> MemoryPeer:
    peer = MemoryPeer(name, gate=gate)
    peer.add(path)
    return peer


async def begin(here: World, one: Path, url: str, teller: str, told: Path) -> None:
    """Hear of a model that names no blob, and of a blob that is said to be it."""
    here.peers.claims.heard(teller, [], [(Hash.parse(sha256_of(one)), hash_of(told))])
    await here.hear(signed(one, "m", blob_hash=None, metadata={}, download_url=url))


async def test_what_was_told_once_and_was_wrong_is_not_followed_again(
    root: Path, tmp_path: Path, one: Path, two: Path
) -> None:
    three = file_of(tmp_path, 3)
    liar, other = holder("liar", two), holder("other", three)
    with serving(content(one)) as server:
        async with world(root, liar, other) as here:
            await begin(here, one, server.url, "liar", two)
            sha256 = Hash.parse(sha256_of(one))
            await until(lambda: here.peers.claims.told(sha256) is None)
            here.peers.claims.heard("liar", [], [(sha256, hash_of(three))])
            assert here.peers.claims.told(sha256) is None
            asked = other.asked
            here.peers.claims.heard("other", [], [(sha256, hash_of(three))])
            await until(lambda: here.status("m") == "ready")
            assert other.asked == asked
            # Who gave the table and the bytes gave what was asked for.
            assert here.peers.offences == []
            assert here.library.store.partials() == []


@pytest.mark.parametrize("wanted", [True, False])
async def test_who_tells_a_lie_and_delivers_slowly_holds_nothing_up(
    root: Path, one: Path, two: Path, monkeypatch: pytest.MonkeyPatch, *, wanted: bool
) -> None:
    # Peers do not deliver, and the swarm wants the origin; or it seems to be content with them.
    fallback = 0.05 if wanted else 1000.0
    if not wanted:
        monkeypatch.setattr(fetching, "LOOSE_PATIENCE", 0.05)
    liar = holder("liar", two, trio.Event())
    with serving(content(one)) as server:
        async with world(root, liar, http_fallback_after_s=fallback) as here:
            await begin(here, one, server.url, "liar", two)
            await until(lambda: here.status("m") == "ready")
            assert here.peers.claims.told(Hash.parse(sha256_of(one))) is None
            assert here.library.store.partials() == []


async def test_an_origin_with_another_file_does_not_make_a_true_word_wrong(
    root: Path, one: Path, two: Path
) -> None:
    gate = trio.Event()
    honest = holder("honest", one, gate)
    with serving(content(two)) as server:
        async with world(root, honest, http_fallback_after_s=0.05) as here:
            await begin(here, one, server.url, "honest", one)
            await until(lambda: len(server.requests) == 2)  # a chunk, and then the whole
            gate.set()
            await until(lambda: here.status("m") == "ready")
            assert here.peers.claims.told(Hash.parse(sha256_of(one))) is not None
