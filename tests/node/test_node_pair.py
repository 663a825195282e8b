"""Two real nodes on the loopback, in one process: trust, withdrawal, removal and replacement while they run."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from support.records import manifest_of
from support.waiting import until

from node.node_kit import SIZE, config_of, draft, hash_of
from peatnet.config import FetchPolicy
from peatnet.errors import IntegrityError, NoSource
from peatnet.opening import open_node
from peatnet.records import RecordType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from peatnet.node import Node
    from peatnet.views import ModelView


@asynccontextmanager
async def pair(root: Path, **changes: Any) -> AsyncIterator[tuple[Node, Node]]:
    """A publisher, and a node that is connected to it and trusts nobody."""
    async with open_node(config_of(root / "a")) as publisher:
        config = config_of(root / "b", peers=publisher.addrs[:1], **changes)
        async with open_node(config) as other:
            await until(lambda: publisher.peer_id in other._network.connected)  # type: ignore[union-attr]  # it has one
            yield publisher, other


def view_of(node: Node, model_id: str = "m") -> ModelView | None:
    views = [node._view(model, {}) for model in node._library.models()]
    return next((view for view in views if view.model_id == model_id), None)


def status_of(node: Node, model_id: str = "m") -> str | None:
    view = view_of(node, model_id)
    return view.status if view is not None else None


async def test_trust_at_run_time_then_a_new_file_then_withdrawal(
    tmp_path: Path, one: Path, two: Path
) -> None:
    async with pair(tmp_path) as (publisher, other):
        await publisher.publish(one, draft("m"))
        await until(lambda: status_of(other) == "available")
        await other.trust_add(publisher.peer_id)
        await until(lambda: status_of(other) == "ready")
        view = view_of(other)
        assert view is not None
        assert view.local_path == str(tmp_path / "b/models/m/m-1_0_0-q4_k_m.gguf")

        await publisher.publish(two, draft("m"))
        blob = hash_of(two).hex()
        await until(
            lambda: (view := view_of(other)) and (view.blob_hash, view.status) == (blob, "ready")
        )
        assert hash_of(tmp_path / "b/models/m/m-1_0_0-q4_k_m.gguf").hex() == blob

        await publisher.withdraw("m")
        await until(lambda: status_of(other) is None)
        assert len((await other.gc()).removed) == 2
        assert (await other.trust_list()) == sorted([publisher.peer_id, other.peer_id])
        await other.trust_remove(publisher.peer_id)
        assert (await other.trust_list()) == [other.peer_id]


async def test_what_was_removed_is_not_fetched_again_before_somebody_asks(
    tmp_path: Path, one: Path
) -> None:
    async with pair(tmp_path) as (publisher, other):
        await other.trust_add(publisher.peer_id)
        await publisher.publish(one, draft("m"))
        await until(lambda: status_of(other) == "ready")
        assert await other.remove("m") == SIZE
        other._keeper.wake(peers=True)
        assert status_of(other) == "available"
        result = await other.get("m")
        assert result.bytes_by_source == {f"peer:{publisher.peer_id}": SIZE}
        assert status_of(other) == "ready"


async def test_a_get_by_hash_of_an_untrusted_publishers_file(tmp_path: Path, one: Path) -> None:
    async with pair(tmp_path, fetch=FetchPolicy.NONE) as (publisher, other):
        await publisher.publish(one, draft("m"))
        await until(lambda: status_of(other) == "available")
        out = tmp_path / "out.bin"
        result = await other.get(hash_of(one).hex()[:10], out=out)
        assert (result.path, hash_of(out)) == (str(out), hash_of(one))
        view = view_of(other)
        assert view is not None
        assert (view.status, view.trusted) == ("ready", False)
        assert not list((tmp_path / "b/models").iterdir())


@pytest.mark.parametrize("lie", [{"sha256": "0" * 64}, {"size_bytes": SIZE + 1}])
async def test_a_strangers_word_on_a_blob_keeps_nobody_from_getting_it(
    tmp_path: Path, one: Path, lie: dict[str, Any]
) -> None:
    async with pair(tmp_path, fetch=FetchPolicy.NONE, give_up_after_s=0.5) as (publisher, other):
        await publisher.publish(one, draft("m"))
        await publisher.withdraw("m")  # the bytes stay
        lying = json.dumps(manifest_of(one, "lie", **lie))
        record = await publisher._library.ledger.sign(RecordType.MANIFEST, "lie@1.0.0", lying)
        await publisher._announce(record)
        await until(lambda: status_of(other, "lie") == "available")
        with pytest.raises((IntegrityError, NoSource)):
            await other.get("lie")
        out = tmp_path / "out.bin"
        await other.get(hash_of(one).hex(), out=out)
        assert hash_of(out) == hash_of(one)
        assert status_of(other, "lie") != "ready"
