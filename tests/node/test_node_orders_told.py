"""What a node tells of update commands that it does not follow, and what that must not hide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from node.node_kit import OTHERS, THEM
from node.orders_kit import command_of, file_of, manifest_text, orders, record
from peatnet.deploy.rollout import NodeWord, Stage, rollout
from peatnet.order_table import KEPT
from peatnet.reporting import UNTRUSTED_TOLD, Reporter

if TYPE_CHECKING:
    from pathlib import Path

    from node.orders_kit import Orders
    from peatnet.deploy.rollout import NodeStage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "node"


async def stage_of(here: Orders) -> NodeStage:
    """Where m@1 stands here, as others see it."""
    reporter = Reporter(here.world.library, here.world.keeper)
    for report in here.reports:
        reporter.tell_outcome(report)
    word = NodeWord("id", "name", 0.0, await reporter.status())
    return rollout(str(THEM.peer_id), "m", "1", 1000, [word]).nodes[0]


async def test_a_strangers_command_hides_nothing(root: Path) -> None:
    one = manifest_text(file_of(root, "m@1"), "m@1")
    async with orders(root, "m@1") as here:
        (root / "fail-m@1").touch()
        await here.hear(record(one), command_of(one, 1))
        await here.wait("command-1", "failed")
        await here.hear(command_of(one, 9, keys=OTHERS))
        await here.wait("command-9", "refused")
        found = await stage_of(here)
        assert found.stage is Stage.FAILED
        assert found.reason.startswith("load failed")
        # Nor does one with the same id.
        await here.hear(
            command_of(one, 10, keys=OTHERS, command_id="command-1"),
            command_of(one, 11, keys=OTHERS),
        )
        await here.wait("command-11", "refused")
        assert here.told("command-1") == "failed"


async def test_a_command_that_is_heard_too_late_is_refused(root: Path) -> None:
    one, two = (manifest_text(file_of(root, name), name) for name in ("m@1", "m@2"))
    async with orders(root, "m@1", "m@2") as here:
        await here.hear(record(one), record(two), command_of(two, 20))
        await here.wait("command-20", "done")
        await here.hear(command_of(one, 10))
        await here.wait("command-10", "refused")
        assert here.reason("command-10") == "a newer command has been carried out"
    async with orders(root) as here:
        await here.wait("command-10", "refused")
        assert here.told("command-20") == "done"
        # The newest comes last, so that it is the last to be forgotten.
        assert [each.command_id for each in here.reports] == ["command-10", "command-20"]


async def test_what_was_done_and_forgotten_is_not_refused(root: Path) -> None:
    one = manifest_text(file_of(root, "m@1"), "m@1")
    async with orders(root, "m@1") as here:
        await here.hear(record(one))
        for sequence in range(1, KEPT + 2):
            await here.hear(command_of(one, sequence, auto_load=False))
            await here.wait(f"command-{sequence}", "done")
        assert len(here.executor.entries()) == KEPT
    async with orders(root) as here:
        await here.wait(f"command-{KEPT + 1}", "done")
        assert here.told("command-1") is None


async def test_the_newest_commands_of_strangers_are_told(root: Path) -> None:
    one = manifest_text(file_of(root, "m@1"), "m@1")
    count = UNTRUSTED_TOLD + 2

    def told(here: Orders) -> list[str]:
        reporter = Reporter(here.world.library, here.world.keeper)
        for report in here.reports:
            reporter.tell_outcome(report)
        return [each.command_id for each in reporter.outcomes()]

    async with orders(root) as here:
        for sequence in range(1, count + 1):
            await here.hear(command_of(one, sequence, keys=OTHERS))
            await here.wait(f"command-{sequence}", "refused")
        newest = [f"command-{count - number}" for number in range(UNTRUSTED_TOLD)]
        assert told(here) == newest
    async with orders(root) as here:
        await here.wait(f"command-{count}", "refused")
        assert told(here) == newest
        await here.hear(command_of(one, 30, keys=OTHERS))
        await here.wait("command-30", "refused")
        assert told(here) == ["command-30", *newest[:-1]]
