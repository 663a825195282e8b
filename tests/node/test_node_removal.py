"""Removing models that are in service, or on their way there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.waiting import until

from node.orders_kit import command_of, file_of, manifest_text, orders, record
from peatnet.errors import InUse, NotFound
from peatnet.removal import remove

if TYPE_CHECKING:
    from pathlib import Path

    from node.orders_kit import Orders


async def removed(here: Orders, reference: str, *, force: bool = True) -> int:
    library = here.world.library
    return await remove(library, here.world.keeper, library.find(reference), force=force)


@pytest.mark.parametrize("before", [None, "m@1"])
async def test_rm_of_a_model_whose_loader_runs(root: Path, before: str | None) -> None:
    one, two = (manifest_text(file_of(root, name), name) for name in ("m@1", "m@2"))
    async with orders(root, "m@1", "m@2") as here:
        if before is not None:
            await here.hear(record(one), command_of(one, 1))
            await here.wait("command-1", "done")
        (root / "wait-m@2").touch()
        await here.hear(record(two), command_of(two, 2))
        await until(lambda: "m@2" in here.started())
        with pytest.raises(InUse):
            await removed(here, "m@2", force=False)
        size = file_of(root, "m@2").stat().st_size
        assert await removed(here, "m@2") == size
        assert here.serving() == before
        assert not list((root / "models" / "m").glob("m-2*"))
        await here.wait("command-2", "failed")
        now = f"it was removed there by hand; {before or 'nothing'} is in service"
        assert now in here.reason("command-2")
        # It is not there any more, and asking again changes nothing.
        with pytest.raises(NotFound, match="m@2 is not here"):
            await removed(here, "m@2")
        assert here.serving() == before


async def test_rm_of_a_model_in_service_whose_file_somebody_took_away(root: Path) -> None:
    one = manifest_text(file_of(root, "m@1"), "m@1")
    async with orders(root, "m@1") as here:
        await here.hear(record(one), command_of(one, 1))
        await here.wait("command-1", "done")
        library = here.world.library
        (info,) = library.store.blobs()
        library.store.remove(info.hash, force=True)
        with pytest.raises(InUse):
            await removed(here, "m@1", force=False)
        assert await removed(here, "m@1") == 0
        assert not (root / "models" / "m" / "current").is_symlink()
        with pytest.raises(NotFound):
            await removed(here, "m@1")
