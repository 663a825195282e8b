"""Blobs that leave the slots of a node, so that they can be removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from activation_kit import WAITING, Bench, loaders_running
from support.waiting import until

from peatnet.blobs import Hash
from peatnet.deploy.activator import REMOVED
from peatnet.models import ModelStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peatnet.deploy.activation import Candidate


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "node")
    yield bench
    bench.close()


def blob_of(model: Candidate) -> Hash:
    assert model.blob is not None
    return Hash.parse(model.blob)


async def test_out_of_service(bench: Bench) -> None:
    model = bench.model("m@1")
    await bench.activator.activate(model)
    for slots in (["m"], []):
        async with bench.activator.without(blob_of(model)) as retired:
            assert retired == slots
            assert (bench.linked("m"), bench.activator.current("m")) == (None, None)
            assert bench.pinned() == set()
    assert bench.activator.path_of(model).exists()


async def test_a_blob_that_leaves_while_its_loader_runs(bench: Bench) -> None:
    old, new = bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(old)
    bench.verdict("m@2", WAITING)
    outcomes = []

    async def activate() -> None:
        outcomes.append(await bench.activator.activate(new))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(activate)
        await until((bench.root / "waiting").exists)
        async with bench.activator.without(blob_of(new)) as retired:
            assert retired == []
            assert (bench.linked("m"), bench.running) == ("m@1", "m@1")
            assert loaders_running(bench.root) == 0
    (outcome,) = outcomes
    assert (outcome.reason, outcome.in_service) == (REMOVED, old)
    # Whoever wants it while it leaves does not get it; afterwards it is as ever.
    async with bench.activator.without(blob_of(new)):
        assert (await bench.activator.activate(new)).reason == REMOVED
    bench.verdict("m@2", "")
    assert (await bench.activator.activate(new)).status is ModelStatus.LOADED


async def test_a_blob_that_leaves_while_it_is_replaced(bench: Bench) -> None:
    old, new = bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(old)
    bench.verdict("m@2", "touch waiting; until test -e word; do sleep 0.02; done")

    async def say_so() -> None:
        await until(lambda: bench.activator._turn.statistics().tasks_waiting)
        (bench.root / "word").touch()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.activator.activate, new)
        await until((bench.root / "waiting").exists)
        nursery.start_soon(say_so)
        # It may have to be gone back to; and the other one, which is in service then, stays.
        async with bench.activator.without(blob_of(old)) as retired:
            assert retired == []
            assert (bench.linked("m"), bench.running) == ("m@2", "m@2")
            assert bench.activator.loaded() == [new]
