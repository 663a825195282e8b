"""Rows of peatnet.db that make no sense are left out and told of; the node goes on without them."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from node.node_kit import OTHERS, THEM, config_of, hash_of, signed
from node.orders_kit import command_of, file_of, manifest_text, orders, record
from peatnet.errors import StorageError
from peatnet.opening import open_library
from peatnet.states import Intent
from peatnet.views import SourceChoice

if TYPE_CHECKING:
    from pathlib import Path


ACTIVATION = "INSERT INTO activations (slot, state) VALUES ('m', '{}')"


def spoil(root: Path, *statements: str) -> None:
    with sqlite3.connect(root / "peatnet.db") as database:
        for statement in statements:
            database.execute(statement)
    database.close()


async def test_what_makes_no_sense_of_trust_models_and_intents(
    root: Path, one: Path, two: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_library(config_of(root)) as library:
        for keys in (THEM, OTHERS):
            await library.ledger.trust(str(keys.peer_id))
        for path, name in ((one, "a"), (two, "b")):
            await library.ledger.take([signed(path, name)])
            info = library.store.add_file(path)
            library.set_ready(library.find_model((str(THEM.peer_id), f"{name}@1.0.0")), info)
            library.states.add_intent(Intent(name, SourceChoice.ANY, 3))
    spoil(
        root,
        f"UPDATE trusted SET peer_id = 'nobody' WHERE peer_id = '{OTHERS.peer_id}'",
        "UPDATE models SET blob = x'0102' WHERE key LIKE 'a@%'",
        "UPDATE intents SET source = 'pigeon' WHERE target = 'a'",
    )
    with open_library(config_of(root)) as library:
        assert library.ledger.is_trusted(str(THEM.peer_id))
        assert not library.ledger.is_trusted(str(OTHERS.peer_id))
        assert [each.target for each in library.states.intents()] == ["b"]
        found = {model.manifest.model_id: library.ready_info(model) for model in library.models()}
        assert found["a"] is None
        assert found["b"] is not None
        assert found["b"].hash == hash_of(two)
    for table in ("trusted", "models", "intents"):
        assert f"row of peatnet.db left out table={table}" in caplog.text


@pytest.mark.parametrize(
    ("table", "statement", "serving"),
    [
        ("service", "UPDATE service SET standing = '{}'", []),
        ("service", "UPDATE service SET previous = 'x'", ["m@1"]),
        ("orders", "UPDATE orders SET state = 'perhaps'", ["m@1"]),
        ("activations", ACTIVATION, ["m@1"]),
        ("activation_outcomes", "UPDATE activation_outcomes SET outcome = '[]'", ["m@1"]),
    ],
)
async def test_what_makes_no_sense_of_what_is_in_service(
    root: Path,
    caplog: pytest.LogCaptureFixture,
    table: str,
    statement: str,
    serving: list[str],
) -> None:
    one, two = (manifest_text(file_of(root, name), name) for name in ("m@1", "m@2"))
    async with orders(root, "m@1") as here:
        await here.hear(record(one), command_of(one, 1))
        await here.wait("command-1", "done")
    spoil(root, statement)
    async with orders(root, "m@1", "m@2") as here:
        activator = here.world.library.activator
        assert [str(each) for each in activator.loaded()] == serving
        # It can be put right by whoever deploys.
        await here.hear(record(two), command_of(two, 2))
        await here.wait("command-2", "done")
        assert not await activator.cancel("m", "another")
        assert (here.serving(), here.started()[-1]) == ("m@2", "m@2")
    assert caplog.text.count(f"row of peatnet.db left out table={table}") == 1


def test_a_table_that_is_gone(root: Path) -> None:
    with open_library(config_of(root)):
        pass
    spoil(root, "DROP TABLE records")
    with pytest.raises(StorageError) as caught, open_library(config_of(root)):
        pass
    assert "no such table" in caught.value.message
    assert "verify --rebuild" in (caught.value.hint or "")
