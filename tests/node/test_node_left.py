"""What the end of a node has left half done is finished when it starts again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.waiting import until

from node.node_kit import OTHERS, THEM, config_of, file_of, hash_of, signed
from peatnet import mending
from peatnet.opening import open_library, open_node

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_what_was_published_but_not_noted_as_ready(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mending, "_TOGETHER", 2)
    names = ["one", "two", "three", "removed", "distrusted", "elsewhere"]
    files = {name: file_of(root.parent, seed) for seed, name in enumerate(names)}
    config = config_of(root, fetch="none", trusted_publishers=[str(THEM.peer_id)])
    with open_library(config) as library:
        # As far as a group had come when the node ended: blobs and records, and nothing besides.
        for name, path in files.items():
            keys = OTHERS if name == "distrusted" else THEM
            await library.ledger.take([signed(path, name, keys=keys)])
            if name != "elsewhere":
                library.store.add_file(path)
        library.remove(hash_of(files["removed"]), force=True)
        library.store.add_file(files["removed"])
        assert library.states.items()[0][1].removed
    async with open_node(config, network=False) as node:

        async def ready() -> set[str]:
            return {view.model_id for view in await node.models() if view.status == "ready"}

        await until(lambda: len(list((root / "models").glob("*/*"))) == 3)
        async with node.subscribe() as changes:
            while await ready() != {"one", "two", "three"}:
                await changes.receive()
    with open_library(config) as library:
        assert mending.left_unready(library) == []
        assert len(library.states.items()) == 4
