"""What a node tells of itself: how far it is with each model, and why it is no further."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.waiting import until

from node.node_kit import OTHERS, THEM, MemoryPeer, World, file_of, hash_of, signed, world
from peatnet.config import FetchPolicy, HardwareConfig
from peatnet.deploy.activator import REMOVED
from peatnet.deploy.orders import NOT_TRUSTED
from peatnet.loader_settings import LoaderSettings
from peatnet.models import ModelStatus
from peatnet.net.node_status import (
    MAX_MODELS,
    MAX_OUTCOMES,
    CommandOutcome,
    CommandReport,
    NodeStatus,
)
from peatnet.reporting import NO_POLICY, UNTRUSTED_TOLD, WAITING, Reporter

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.net.node_status import ModelReport

NEEDS: dict[str, Any] = {
    "requirements": {
        "min_vram_mb": 0,
        "recommended_vram_mb": 0,
        "min_ram_mb": 64_000,
        "execution_providers": ["cpu"],
        "architectures": ["x86_64"],
    }
}
SMALL = HardwareConfig(arch="x86_64", ram_mb=512, vram_mb=0, cpu="tiny")


def reporter_of(here: World) -> Reporter:
    return Reporter(here.library, here.keeper)


async def model_of(reporter: Reporter, model_id: str = "m") -> ModelReport:
    told = NodeStatus.decode((await reporter.status()).encode())
    (found,) = [each for each in told.models if each.model_id == model_id]
    return found


async def test_a_model_comes_and_is_ready_and_loaded(tmp_path: Path) -> None:
    path, gate = file_of(tmp_path), trio.Event()
    peer = MemoryPeer("peer", gate=gate)
    peer.add(path)
    loaders = {"m": LoaderSettings(command=("true",))}
    async with world(tmp_path / "here", peer, loaders=loaders) as here:
        reporter = reporter_of(here)
        await here.hear(signed(path, "m"))
        await until(lambda: here.keeper.is_fetching)
        coming = await model_of(reporter)
        assert (coming.status, coming.wanted, coming.reason) == (ModelStatus.DOWNLOADING, True, "")
        assert reporter.busy
        gate.set()
        await until(lambda: here.status("m") == "ready")
        ready = await model_of(reporter)
        assert (ready.status, ready.progress) == (ModelStatus.READY, 1.0)
        assert ready.publisher == str(THEM.peer_id)
        model, activator = here.model("m"), here.library.activator
        candidate = activator.candidate(model.publisher, model.manifest, path)
        await activator.activate(candidate)
        assert (await model_of(reporter)).status is ModelStatus.LOADED


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"hardware": SMALL}, "too little RAM: it needs 64000 MB, 512 are here"),
        (
            {"hardware": HardwareConfig(arch="armv7l", ram_mb=65_000)},
            "wrong architecture: it runs on x86_64, this is armv7l",
        ),
        (
            {
                "fetch": FetchPolicy.NONE,
                "hardware": HardwareConfig(arch="x86_64", ram_mb=65_000, free_disk_mb=0),
            },
            f"too little disk: it needs 1 MB, 0 are free; {NO_POLICY}",
        ),
        (
            {"fetch": FetchPolicy.NONE, "hardware": HardwareConfig(ram_mb=65_000, arch="x86_64")},
            NO_POLICY,
        ),
        (
            {"fetch": FetchPolicy.NONE, "hardware": SMALL},
            f"too little RAM: it needs 64000 MB, 512 are here; {NO_POLICY}",
        ),
        ({"trusted": ()}, NOT_TRUSTED),
    ],
)
async def test_a_model_that_will_not_come(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    given = {"fetch": FetchPolicy.FITTING} | settings
    async with world(tmp_path / "here", **given) as here:
        await here.hear(signed(file_of(tmp_path), "m", **NEEDS))
        found = await model_of(reporter_of(here))
        assert found.status is ModelStatus.AVAILABLE
        assert found.reason == reason
        assert not found.wanted


async def test_a_transfer_that_failed_and_is_tried_again(tmp_path: Path) -> None:
    async with world(tmp_path / "here", give_up_after_s=0.05) as here:
        reporter = reporter_of(here)
        await here.hear(signed(file_of(tmp_path), "m"))
        await until(
            lambda: here.library.state(here.model("m")).error and not here.keeper.is_fetching
        )
        found = await model_of(reporter)
        assert found.status is ModelStatus.AVAILABLE
        assert found.wanted
        assert found.reason.startswith("transfer failed: ")
        assert found.reason.endswith("; it will be tried again")


async def test_a_transfer_that_failed_for_good(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    peer = MemoryPeer("peer")
    peer.add(path)
    async with world(tmp_path / "here", peer) as here:
        await here.hear(signed(path, "m", sha256="ab" * 32))
        await until(lambda: here.status("m") == "failed")
        found = await model_of(reporter_of(here))
        assert (found.status, found.wanted) == (ModelStatus.FAILED, False)
        assert "SHA-256" in found.reason


async def test_a_model_that_was_removed_by_hand(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    peer = MemoryPeer("peer")
    peer.add(path)
    async with world(tmp_path / "here", peer) as here:
        await here.hear(signed(path, "m"))
        await until(lambda: here.status("m") == "ready")
        here.library.remove(hash_of(path), force=True)
        found = await model_of(reporter_of(here))
        assert (found.status, found.wanted, found.reason) == (ModelStatus.AVAILABLE, False, REMOVED)


async def test_what_waits_for_its_turn_says_so(tmp_path: Path) -> None:
    peer = MemoryPeer("peer", gate=trio.Event())
    paths = [file_of(tmp_path, seed) for seed in range(1, 7)]
    for path in paths:
        peer.add(path)
    async with world(tmp_path / "here", peer) as here:
        reporter = reporter_of(here)
        await here.hear(
            *(signed(path, f"m-{number}", number) for number, path in enumerate(paths, 1))
        )
        await until(lambda: len(here.keeper.fetching_models()) == 4)
        told = await reporter.status()
        assert sorted(each.reason for each in told.models) == ["", "", "", "", WAITING, WAITING]
        # What is being fetched goes first, then what is newest.
        assert [each.status for each in told.models[:4]] == [ModelStatus.DOWNLOADING] * 4
        assert told.models[4].model_id > told.models[5].model_id


async def test_trusted_and_new_models_go_first_where_not_all_can_be_told(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    async with world(tmp_path / "here", fetch=FetchPolicy.NONE) as here:
        count = MAX_MODELS + 10
        await here.hear(
            *(signed(path, f"m-{number}", number) for number in range(1, count + 1)),
            *(signed(path, f"other-{number}", 10**15 + number, OTHERS) for number in range(10)),
        )
        reporter = reporter_of(here)
        told = await reporter.status()
        assert told.truncated
        names = [each.model_id for each in told.models]
        assert names == [f"m-{number}" for number in range(count, count - len(names), -1)]
        # One that an order is about is told of, however old it is.
        reporter.tell_outcome(CommandReport("c", "m-1@1.0.0", CommandOutcome.REFUSED, "why"))
        assert (await reporter.status()).models[0].model_id == "m-1"


async def test_orders_are_told_newest_first_and_bounded(tmp_path: Path) -> None:
    async with world(tmp_path / "here") as here:
        reporter, changes = reporter_of(here), list[bool]()
        reporter.on_change.append(lambda *, urgent: changes.append(urgent))
        for number in range(MAX_OUTCOMES + 5):
            reporter.tell_outcome(CommandReport(f"c-{number}", "m@1", CommandOutcome.RUNNING))
        reporter.tell_outcome(CommandReport("c-10", "m@1", CommandOutcome.DONE))
        told = (await reporter.status()).outcomes
        assert len(told) == MAX_OUTCOMES - UNTRUSTED_TOLD
        assert told[0] == CommandReport("c-10", "m@1", CommandOutcome.DONE)
        assert told[1].command_id == f"c-{MAX_OUTCOMES + 4}"
        assert changes == [True] * (MAX_OUTCOMES + 6)


async def test_refusals_of_strangers_are_told_last_and_put_out_nothing_else(tmp_path: Path) -> None:
    def refused(command_id: str) -> CommandReport:
        return CommandReport(command_id, "m@1", CommandOutcome.REFUSED, NOT_TRUSTED)

    async with world(tmp_path / "here") as here:
        reporter = reporter_of(here)
        ours = [
            CommandReport(f"c-{number}", "m@1", CommandOutcome.FAILED)
            for number in range(MAX_OUTCOMES)
        ]
        for report in ours:
            reporter.tell_outcome(report)
        for number in range(3 * UNTRUSTED_TOLD):
            reporter.tell_outcome(refused(f"s-{number}"))
        told = list((await reporter.status()).outcomes)
        newest = [refused(f"s-{number}") for number in range(3 * UNTRUSTED_TOLD)][-UNTRUSTED_TOLD:]
        assert told == [*ours[UNTRUSTED_TOLD:][::-1], *newest[::-1]]
        # Trusted later, and then not any more.
        reporter.tell_outcome(CommandReport("s-11", "m@1", CommandOutcome.WAITING))
        assert reporter.outcomes()[0].command_id == "s-11"
        assert refused("s-11") not in reporter.outcomes()
        reporter.tell_outcome(refused("s-11"))
        assert [each.command_id for each in reporter.outcomes()].count("s-11") == 1
        assert refused("s-11") in reporter.outcomes()


async def test_a_node_has_a_name_and_hardware(tmp_path: Path) -> None:
    async with world(tmp_path / "here", name="jetson-3", hardware=SMALL) as here:
        told = await reporter_of(here).status(["/ip4/192.0.2.7/tcp/7411"], leaving=True)
        assert (told.name, told.leaving) == ("jetson-3", True)
        assert (told.hardware.ram_mb, told.hardware.cpu) == (512, "tiny")
        assert told.addresses == ("/ip4/192.0.2.7/tcp/7411",)
    async with world(tmp_path / "there") as there:
        assert (await reporter_of(there).status()).name == there.library.config.node_name != ""
