"""How update commands end that are not followed any more: canceled, replaced, or gone, also over restarts and full disks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from support.waiting import until

from node.node_kit import THEM
from node.orders_kit import cancellation_of, command_of, file_of, manifest_text, orders, record
from peatnet.blobs import Database
from peatnet.errors import DiskFull
from peatnet.order_table import KEPT, OrderEntry, OrderState, OrderTable

if TYPE_CHECKING:
    from pathlib import Path

    from node.orders_kit import Orders
    from peatnet.models import ModelUpdateCommand
    from peatnet.ordered import OrderedModel


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "node"


def manifest(root: Path, name: str) -> dict[str, Any]:
    return manifest_text(file_of(root, name), name)


async def hear_before_the_end(here: Orders, *envelopes: bytes) -> None:
    """Records that are on disk when the node is back, and of which nothing was done before."""
    assert all(each.fault is None for each in await here.world.library.ledger.take(envelopes))


def rewrite(here: Orders, command_id: str, state: OrderState) -> None:
    """The table as a kill leaves it that comes before the command's end is noted."""
    (entry,) = [each for each in here.executor.entries() if each.command_id == command_id]
    here.executor._table.end(entry, state)


def words(here: Orders, command_id: str) -> list[str]:
    return [each.outcome.value for each in here.reports if each.command_id == command_id]


async def test_a_full_disk_when_a_command_is_canceled(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, gate, real = manifest(root, "m@1"), trio.Event(), OrderTable.put
    monkeypatch.setattr("peatnet.executor.LOOK_AGAIN", 0.01)

    def full(*_: object) -> None:
        raise DiskFull("no room for the database", hint="make room")

    async with orders(root, "m@1", gate=gate) as here:
        await here.hear(record(one), command_of(one, 1))
        await until(lambda: here.world.keeper.is_fetching)
        monkeypatch.setattr(OrderTable, "put", full)
        await here.hear(cancellation_of("m", "command-1", 2))
        await until(lambda: "no room for the database" in caplog.text)
        assert words(here, "command-1")[-1] == "running"
    caplog.clear()
    async with orders(root, "m@1") as here:
        await until(lambda: "no room for the database" in caplog.text)
        monkeypatch.setattr(OrderTable, "put", real)
        await here.wait("command-1", "canceled")
        assert [each.state for each in here.executor.entries()] == [OrderState.CANCELED]


async def test_a_full_disk_when_a_command_is_canceled_whose_loader_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = manifest(root, "m@1")
    monkeypatch.setattr("peatnet.executor.LOOK_AGAIN", 0.01)
    async with orders(root, "m@1") as here:
        (root / "wait-m@1").touch()
        await here.hear(record(one), command_of(one, 1))
        await until(here.started)
        activator = here.world.library.activator
        real = activator.cancel

        async def full(*_: object) -> bool:
            raise DiskFull("no room for the database", hint="make room")

        monkeypatch.setattr(activator, "cancel", full)
        await here.hear(cancellation_of("m", "command-1", 2))
        await until(lambda: "no room for the database" in caplog.text)
        monkeypatch.setattr(activator, "cancel", real)
        await here.wait("command-1", "canceled")
        assert here.serving() is None


async def test_several_commands_are_noted_at_the_same_moment(tmp_path: Path) -> None:
    with Database.open(tmp_path / "peatnet.db") as database:
        table, rounds = OrderTable(database), 60

        def note(worker: int) -> None:
            for number in range(rounds):
                name, order = f"{worker}-{number}", (number, bytes([worker]))
                entry = OrderEntry("publisher", "m", name, "1", order, OrderState.BEGUN)
                table.put(entry)
                table.end(entry, OrderState.DONE)

        async with trio.open_nursery() as nursery:
            for worker in range(3):
                nursery.start_soon(trio.to_thread.run_sync, note, worker)
            while nursery.child_tasks:
                table.marks()  # as the trio thread does meanwhile
                await trio.lowlevel.checkpoint()
        kept = table.entries()
        assert [entry.order[0] for entry in kept][-3:] == [rounds - 1] * 3
        assert KEPT <= len(kept) <= KEPT + 3
        assert OrderTable(database).entries() == kept


async def test_a_bug_of_ours_ends_one_command_and_not_the_node(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = manifest(root, "m@1"), manifest(root, "n@1")
    async with orders(root, "m@1", "n@1") as here:
        real = here.executor._ordered.find

        def find(publisher: str, command: ModelUpdateCommand) -> OrderedModel | None:
            if command.manifest.model_id == "m":
                raise KeyError("a bug")
            return real(publisher, command)

        monkeypatch.setattr(here.executor._ordered, "find", find)
        await here.hear(record(one), command_of(one, 1))
        await here.wait("command-1", "failed")
        assert "a bug in peatnet" in here.reason("command-1")
        assert "KeyError" in caplog.text
        await here.hear(record(two), command_of(two, 2))
        await here.wait("command-2", "done")


async def test_what_was_replaced_is_forgotten(root: Path) -> None:
    one, two, gate = manifest(root, "m@1"), manifest(root, "m@2"), trio.Event()
    async with orders(root, "m@1", "m@2", gate=gate) as here:
        await here.hear(record(one), record(two), command_of(one, 1))
        await here.wait("command-1", "running")
        await here.hear(command_of(two, 2))
        await here.wait("command-2", "running")
    async with orders(root, "m@1", "m@2", gate=gate) as here:
        await here.wait("command-2", "running")
        assert words(here, "command-1") == ["refused"]
        gate.set()
        await here.wait("command-2", "done")
        await until(lambda: len(here.executor.entries()) == 1)
    async with orders(root) as here:
        await here.wait("command-2", "done")
        assert words(here, "command-1") == ["refused"]
        assert here.reason("command-1") == "a newer command has been carried out"


async def test_what_was_replaced_while_the_node_was_off_is_forgotten(root: Path) -> None:
    one, two = manifest(root, "m@1"), manifest(root, "m@2")
    async with orders(root) as here:
        await here.hear(record(one), record(two), command_of(one, 1))
        await here.wait("command-1", "running")
        await hear_before_the_end(here, command_of(two, 2))
    async with orders(root, "m@2") as here:
        await here.wait("command-2", "done")
        await until(lambda: len(here.executor.entries()) == 1)
        assert words(here, "command-1") == ["refused"]


async def test_what_had_begun_and_is_in_no_catalogue_any_more_is_forgotten(root: Path) -> None:
    async with orders(root) as here:
        order = (1, b"the id of its record")
        gone = OrderEntry(str(THEM.peer_id), "m", "gone", "1", order, OrderState.BEGUN)
        here.executor._table.put(gone)
    async with orders(root) as here:
        await until(lambda: not here.executor.entries())
        assert here.told("gone") is None


async def test_canceled_before_its_activation_began(root: Path) -> None:
    one, gate = manifest(root, "m@1"), trio.Event()
    async with orders(root, "m@1", gate=gate) as here:
        await here.hear(record(one), command_of(one, 1))
        await here.wait("command-1", "running")
        rewrite(here, "command-1", OrderState.ACTIVATING)
        await hear_before_the_end(here, cancellation_of("m", "command-1", 2))
    async with orders(root, "m@1") as here:
        await here.wait("command-1", "canceled")
        assert words(here, "command-1") == ["canceled"]
        assert (here.started(), here.serving()) == ([], None)
        # So it is no mark, below which nothing counts.
        assert here.executor._table.marks() == {}


@pytest.mark.parametrize("outcome", ["done", "failed"])
async def test_canceled_after_its_activation_ended(root: Path, outcome: str) -> None:
    one = manifest(root, "m@1")
    async with orders(root, "m@1") as here:
        if outcome == "failed":
            (root / "fail-m@1").touch()
        await here.hear(record(one), command_of(one, 1))
        await here.wait("command-1", outcome)
        rewrite(here, "command-1", OrderState.ACTIVATING)
        await hear_before_the_end(here, cancellation_of("m", "command-1", 2))
    async with orders(root, "m@1") as here:
        await here.wait("command-1", outcome)
        assert words(here, "command-1") == [outcome]
        assert here.started() == ["m@1"]
        assert here.serving() == ("m@1" if outcome == "done" else None)


@pytest.mark.parametrize("began", [True, False])
async def test_replaced_while_it_was_put_into_service_and_the_node_was_off(
    root: Path, *, began: bool
) -> None:
    one, two, gate = manifest(root, "m@1"), manifest(root, "m@2"), trio.Event()
    async with orders(root, "m@1", gate=None if began else gate) as here:
        await here.hear(record(one), record(two), command_of(one, 1))
        await here.wait("command-1", "done" if began else "running")
        rewrite(here, "command-1", OrderState.ACTIVATING)
        await hear_before_the_end(here, command_of(two, 2))
    async with orders(root, "m@2") as here:
        await here.wait("command-2", "done")
        assert here.serving() == "m@2"
        assert not any(each.is_open for each in here.executor.entries())
        assert words(here, "command-1")[-1] == ("done" if began else "refused")
        assert here.started() == (["m@1", "m@2"] if began else ["m@2"])
