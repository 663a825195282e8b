"""Update commands on one node: followed once, in the publishers' order, over restarts, and let go when they are old."""

from __future__ import annotations

import filecmp
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from support.waiting import until

from node.node_kit import OTHERS, THEM, withdrawal_of
from node.orders_kit import (
    LOADER,
    cancellation_of,
    command_of,
    file_of,
    manifest_text,
    orders,
    record,
)
from peatnet.config import FetchPolicy, HardwareConfig
from peatnet.loader_settings import LoaderSettings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "node"


def manifest(root: Path, name: str, **changes: Any) -> dict[str, Any]:
    return manifest_text(file_of(root, name), name, **changes)


async def test_a_command_fetches_and_loads_whatever_the_policy_says(root: Path) -> None:
    one = manifest(root, "m@1")
    async with orders(root, "m@1") as here:
        await here.hear(record(one), command_of(one, 5))
        await here.wait("command-5", "done")
        assert here.world.status("m") == "loaded"
        assert (here.started(), here.serving()) == (["m@1"], "m@1")
        # Once: what is heard again, or is older, does nothing.
        await here.hear(command_of(one, 5), command_of(one, 4))
        await here.wait("command-4", "refused")
        assert "newer" in here.reason("command-4")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert here.executor.entries()[0].state == "done"
        assert here.started() == ["m@1"]
    async with orders(root) as here:
        await here.wait("command-5", "done")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert here.started() == ["m@1"]
        assert here.world.status("m") == "loaded"


async def test_untrusted_and_forged_commands_do_nothing(root: Path) -> None:
    one = manifest(root, "m@1")
    async with orders(root, "m@1") as here:
        forged = bytearray(command_of(one, 7))
        forged[-1] ^= 1
        (taken,) = await here.world.library.ledger.take([bytes(forged)])
        assert taken.fault is not None
        await here.hear(record(one), command_of(one, 9, keys=OTHERS))
        await here.wait("command-9", "refused")
        assert here.reason("command-9") == "untrusted publisher"
        await here.hear(command_of(one, 3, "another node"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (here.started(), here.serving(), here.told("command-3")) == ([], None, None)
        # Trusted later, it counts.
        await here.world.library.ledger.trust(str(OTHERS.peer_id))
        here.executor.wake()
        await here.wait("command-9", "done")


async def test_a_command_waits_for_its_manifest_and_its_bytes(root: Path) -> None:
    one = manifest(root, "m@1")
    async with orders(root, give_up_after_s=0.05) as here:
        await here.hear(command_of(one, 1))
        await here.wait("command-1", "waiting")
        assert "manifest is not in the catalogue" in here.reason("command-1")
        await here.hear(record(one))
        await until(lambda: any(each.reason.startswith("transfer failed") for each in here.reports))
        here.world.peers.peers["peer"].add(file_of(root, "m@1"))
        here.executor.wake(peers=True)
        await here.wait("command-1", "done")
        # An untrusted publisher's manifest will do, since a trusted command names its bytes.
        other = manifest(root, "o@1")
        here.world.peers.peers["peer"].add(file_of(root, "o@1"))
        await here.hear(record(other, keys=OTHERS), command_of(other, 2))
        await here.wait("command-2", "done")
        assert here.serving("o") == "o@1"
        # But not with other bytes.
        third = manifest(root, "p@1")
        await here.hear(record(manifest_text(file_of(root, "o@1"), "p@1")), command_of(third, 3))
        await here.wait("command-3", "waiting")


async def test_a_withdrawn_model_is_not_put_into_service(root: Path) -> None:
    one = manifest(root, "m@1")
    async with orders(root, "m@1") as here:
        await here.hear(record(one), withdrawal_of(THEM, "m@1", 2), command_of(one, 3))
        await here.wait("command-3", "waiting")
        assert here.serving() is None


async def test_a_newer_command_takes_the_place_of_one_that_is_fetched(root: Path) -> None:
    one, two, gate = manifest(root, "m@1"), manifest(root, "m@2"), trio.Event()
    async with orders(root, "m@1", "m@2", gate=gate) as here:
        await here.hear(record(one), record(two), command_of(one, 1))
        await until(lambda: here.world.keeper.is_fetching)
        await here.hear(command_of(two, 2))
        await here.wait("command-1", "refused")
        assert "newer" in here.reason("command-1")
        gate.set()
        await here.wait("command-2", "done")
        assert here.started() == ["m@2"]
        assert here.serving() == "m@2"


async def test_cancel_stops_a_fetch_and_the_command_before_counts(root: Path) -> None:
    one, two, gate = manifest(root, "m@1"), manifest(root, "m@2"), trio.Event()
    async with orders(root, "m@2", gate=gate) as here:
        await here.hear(record(one), record(two), command_of(one, 1), command_of(two, 2))
        await until(lambda: here.world.keeper.is_fetching)
        await here.hear(cancellation_of("m", "command-2", 3))
        await here.wait("command-2", "canceled")
        await here.wait("command-1", "running")
        here.world.peers.peers["peer"].add(file_of(root, "m@1"))
        gate.set()
        await here.wait("command-1", "done")
        assert here.started() == ["m@1"]
        # What is done stays done.
        await here.hear(cancellation_of("m", "command-1", 4))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert here.told("command-1") == "done"
        assert here.serving() == "m@1"


async def test_a_command_that_was_canceled_while_the_node_was_off(root: Path) -> None:
    one, gate = manifest(root, "m@1"), trio.Event()
    async with orders(root, "m@1", gate=gate) as here:
        await here.hear(record(one), command_of(one, 1))
        await until(lambda: here.world.keeper.is_fetching)
    async with orders(root, "m@1") as here:
        await here.hear(cancellation_of("m", "command-1", 2))
        await until(lambda: here.told("command-1") in {"canceled", "done"})
        assert here.executor.entries()[0].state.value == here.told("command-1")


async def test_what_does_not_fit_is_refused_unless_this_node_is_named(root: Path) -> None:
    one = manifest(root, "m@1")
    one["requirements"]["min_ram_mb"] = 1000
    async with orders(root, "m@1", hardware=HardwareConfig(ram_mb=512)) as here:
        await here.hear(record(one), command_of(one, 1))
        await here.wait("command-1", "refused")
        assert "too little RAM" in here.reason("command-1")
        await here.hear(command_of(one, 2, here.world.library.identity.peer_id))
        await here.wait("command-2", "done")


async def test_where_going_back_fails_too_nothing_is_said_to_be_in_service(root: Path) -> None:
    one, two = manifest(root, "m@1"), manifest(root, "m@2")
    async with orders(root, "m@1", "m@2") as here:
        await here.hear(record(one), command_of(one, 1))
        await here.wait("command-1", "done")
        (root / "fail-m@1").touch()
        (root / "fail-m@2").touch()
        await here.hear(record(two), command_of(two, 2))
        await here.wait("command-2", "failed")
        assert "; then m@1: " in here.reason("command-2")
        assert "`current` leads to m@1, which is not loaded" in here.reason("command-2")
        assert "in service" not in here.reason("command-2")
        # Once more the one that is there already.
        await here.hear(command_of(one, 3))
        await here.wait("command-3", "failed")
        assert "`current` leads to m@1, which is not loaded" in here.reason("command-3")


async def test_a_load_that_fails_goes_back_and_says_why(root: Path) -> None:
    one, two = manifest(root, "m@1"), manifest(root, "m@2")
    async with orders(root, "m@1", "m@2") as here:
        await here.hear(record(one), command_of(one, 1))
        await here.wait("command-1", "done")
        (root / "fail-m@2").touch()
        await here.hear(record(two), command_of(two, 2))
        await here.wait("command-2", "failed")
        assert "load failed" in here.reason("command-2")
        assert "m@1 is in service" in here.reason("command-2")
        assert here.started() == ["m@1", "m@2", "m@1"]
        assert here.serving() == "m@1"
    async with orders(root) as here:
        await here.wait("command-2", "failed")  # told again, not done again
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(here.started()) == 3


async def test_the_model_to_go_back_to_can_be_named(root: Path) -> None:
    names = ("m@1", "m@2", "m@3", "small@1")
    texts = [manifest(root, name) for name in names]
    async with orders(root, *names) as here:
        await here.hear(*(record(text) for text in texts))
        for sequence, text in enumerate((texts[0], texts[1]), 1):
            await here.hear(command_of(text, sequence))
            await here.wait(f"command-{sequence}", "done")
        await here.hear(command_of(texts[3], 3, auto_load=False))
        await here.wait("command-3", "done")
        assert here.serving("small") is None
        (root / "fail-m@3").touch()
        await here.hear(command_of(texts[2], 4, rollback_model_id="m@1"))
        await here.wait("command-4", "failed")
        assert here.serving() == "m@1"
        await here.hear(command_of(texts[2], 5, rollback_model_id="small"))
        await here.wait("command-5", "failed")
        assert here.serving("small") == "small@1"
        await here.hear(command_of(texts[2], 6, rollback_model_id="unheard-of"))
        await here.wait("command-6", "failed")
        assert here.serving() == "m@1"


async def test_the_same_version_with_other_bytes_does_not_disturb_the_one_in_service(
    root: Path,
) -> None:
    first = manifest(root, "m@1")
    second = manifest_text(file_of(root, "m@other"), "m@1")
    async with orders(root, "m@1", "m@other", fetch=FetchPolicy.ALL) as here:
        await here.hear(record(first), command_of(first, 1))
        await here.wait("command-1", "done")
        served = (root / "models/m/current").resolve()
        await here.hear(record(second, 2))
        await until(lambda: here.world.status("m") == "ready")
        assert here.serving() == "m@1"
        assert filecmp.cmp(served, file_of(root, "m@1"), shallow=False)
        (view,) = [here.world.library.view(here.world.model("m"), progress=None)]
        assert view.local_path is not None
        assert view.local_path.endswith(".safetensors")
        assert (view.in_service, view.status) == (False, "ready")
        await here.hear(command_of(second, 2))
        await here.wait("command-2", "done")
        assert here.serving() == "m@other"
        await until(lambda: not served.exists(), "the name that is not in service to go")
        assert here.world.status("m") == "loaded"
        manifests = list((root / "manifests").iterdir())
        assert len(manifests) == 2  # of what is in service, and of what was


async def test_a_model_that_contradicts_its_manifest_fails_for_good(root: Path) -> None:
    wrong = manifest(root, "m@1", sha256="0" * 64)
    async with orders(root, "m@1") as here:
        await here.hear(record(wrong), command_of(wrong, 1))
        await here.wait("command-1", "failed")
        assert "SHA-256" in here.reason("command-1")
        assert here.serving() is None


async def test_a_model_that_is_removed_by_hand_meanwhile_is_left_alone(root: Path) -> None:
    one, gate = manifest(root, "m@1"), trio.Event()
    async with orders(root, "m@1", gate=gate) as here:
        await here.hear(record(one), command_of(one, 1))
        await until(lambda: here.world.keeper.is_fetching)
        library = here.world.library
        target = library.find("m")
        assert target.blob is not None
        await until(lambda: bool(library.store.partials()))
        async with here.world.keeper.stopped(target):
            remove = partial(library.remove, target.blob, force=True)
            await trio.to_thread.run_sync(remove)
        await here.wait("command-1", "failed")
        assert here.reason("command-1") == "it was removed there by hand"


NOTING = LoaderSettings(
    command=("/bin/sh", "-c", 'cp "$MANIFEST_PATH" seen && echo wrong >> loaded')
)


async def test_a_strangers_manifest_of_the_same_bytes_decides_nothing(root: Path) -> None:
    one = manifest(root, "m@1")
    # As the signed one, but for what chooses the loader, and what would make the fetch fail.
    others = [one | {"format": "pytorch"}, one | {"size_bytes": 1}, one | {"name": "other"}]
    loaders = {"safetensors": LOADER, "pytorch": NOTING}
    async with orders(root, "m@1", loaders=loaders) as here:
        for sequence, each in enumerate(others, 1):
            await here.hear(record(each, sequence, keys=OTHERS), command_of(one, sequence))
            await here.wait(f"command-{sequence}", "waiting")
        assert (here.started(), here.serving()) == ([], None)
        await here.hear(record(one))
        await here.wait("command-3", "done")
        assert (here.started(), here.serving()) == (["m@1"], "m@1")


async def test_a_loader_reads_the_manifest_that_was_signed_with_the_command(root: Path) -> None:
    """Trusted publishers may differ in what they say of the same bytes; the command has one of them."""
    one = manifest(root, "m@1")
    # Published anew since, with the same bytes.
    other = one | {"format": "pytorch", "model_type": "llm", "name": "other"}
    reading = LoaderSettings(command=("/bin/sh", "-c", 'cp "$MANIFEST_PATH" seen'))
    loaders = {"safetensors": reading, "pytorch": NOTING, "llm": NOTING}
    async with orders(root, "m@1", loaders=loaders) as here:
        await here.hear(record(other, 2), command_of(one, 1))
        await here.wait("command-1", "done")
        assert (here.started(), here.serving()) == ([], "m@1")
        assert json.loads((root / "seen").read_text()) == one
        current = here.world.library.activator.current("m")
        assert current is not None
        assert (current.format, current.model_type) == ("safetensors", "custom")
