"""The publishing side of commands: what is signed, what is refused, and what a rollback goes back to."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from node.node_kit import OTHERS, THEM, config_of
from node.orders_kit import command_of, file_of, manifest_text, record
from peatnet.errors import Ambiguous, NotFound, UntrustedPublisher, UsageError
from peatnet.models import ModelManifest
from peatnet.opening import open_node
from peatnet.records import RecordType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from peatnet.deploy.activator import Activator
    from peatnet.library import Library
    from peatnet.node import Node


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "node"


@asynccontextmanager
async def node_with(root: Path, *names: str) -> AsyncIterator[Node]:
    """A node without a network that has published these models."""
    config = config_of(root, trusted_publishers=[str(THEM.peer_id)])
    async with open_node(config, network=False) as node:
        for name in names:
            path = file_of(root, name)
            await node.publish(path, ModelManifest.from_json(json.dumps(manifest_text(path, name))))
        yield node


def library_of(node: Node) -> Library:
    return node._library


async def hear(node: Node, *envelopes: bytes) -> None:
    assert all(each.fault is None for each in await library_of(node).ledger.take(envelopes))


async def test_what_a_command_says(root: Path) -> None:
    async with node_with(root, "m@1", "m@2") as node:
        command = await node.commander.deploy(
            "m@1",
            to=[str(THEM.peer_id), node.peer_id, str(THEM.peer_id)],
            priority=1,
            load=False,
            rollback="m@2",
        )
        assert node.commander.commands() == [command]
        assert command.manifest == await node.show("m@1")
        assert command.target_nodes == (str(THEM.peer_id), node.peer_id)
        assert (command.priority, command.auto_load) == (1, False)
        assert command.rollback_model_id == "m@2"
        plain = await node.commander.deploy("m")
        assert plain.manifest.version == "2"
        assert (plain.target_nodes, plain.rollback_model_id) == ((), None)
    async with node_with(root) as node:
        assert node.commander.commands() == [command, plain]


async def test_what_is_refused(root: Path) -> None:
    async with node_with(root, "m@1") as node:
        deploy = node.commander.deploy
        with pytest.raises(NotFound, match="no model 'n'"):
            await deploy("n")
        with pytest.raises(NotFound, match="no model 'n@2'"):
            await deploy("m", rollback="n@2")
        with pytest.raises(NotFound, match="no node 'nobody'"):
            await deploy("m", to=["nobody"])
        with pytest.raises(UsageError, match="priority 6"):
            await deploy("m", priority=6)
        await hear(node, record(manifest_text(file_of(root, "o@1"), "o@1"), keys=OTHERS))
        with pytest.raises(UntrustedPublisher, match="does not trust"):
            await deploy("o")
        blob = (await node.show("m")).blob_hash
        assert blob is not None
        with pytest.raises(NotFound, match="no version"):
            await node.commander.rollback("m")
        with pytest.raises(NotFound, match="no model 'n'"):  # misspelled, perhaps
            await node.commander.rollback("n")
        assert node.commander.commands() == []


async def test_a_command_is_newer_than_all_that_is_known_of_its_model(root: Path) -> None:
    future = 2**62
    async with node_with(root, "m@1") as node:
        text = manifest_text(file_of(root, "m@1"), "m@1")
        await hear(node, command_of(text, future))
        # A publisher that is not trusted cannot use the numbers up.
        await hear(node, command_of(text, 2**63 - 1, keys=OTHERS))
        await node.commander.deploy("m")
        records = [
            each
            for each in library_of(node).ledger.catalogue.commands()
            if str(each.publisher) == node.peer_id
        ]
        assert [each.sequence for each in records] == [future + 1]


async def test_cancel_takes_the_place_of_the_command(root: Path) -> None:
    async with node_with(root, "m@1") as node:
        commander = node.commander
        one = str((await commander.deploy("m")).command_id)
        two = str((await commander.deploy("m")).command_id)
        assert commander.find(two[:12]).command_id == two
        assert await commander.cancel(one[:12], reason="too early") == one
        assert [str(each.command_id) for each in commander.commands()] == [two]
        assert await commander.cancel(one) == one  # it stays so
        kinds = [each.type for each in library_of(node).ledger.catalogue.commands()]
        assert sorted(kinds) == [RecordType.CANCELLATION, RecordType.COMMAND]
        with pytest.raises(NotFound, match="canceled"):
            commander.find(one)
        with pytest.raises(NotFound, match="no command"):
            await commander.cancel("abcdefgh")
        with pytest.raises(UsageError, match="at least 6"):
            await commander.cancel("ab")
        text = manifest_text(file_of(root, "m@1"), "m@1")
        await hear(node, command_of(text, 5), command_of(text, 6))
        with pytest.raises(Ambiguous, match="2 commands"):
            await commander.cancel("command-")
        with pytest.raises(UsageError, match="only that node"):
            await commander.cancel("command-5")


async def test_rollback_goes_back_to_what_was_deployed_before(root: Path) -> None:
    async with node_with(root, "m@1", "m@2", "m@3") as node:
        deploy, rollback = node.commander.deploy, node.commander.rollback
        await deploy("m@1")
        with pytest.raises(NotFound, match="no version"):
            await rollback("m")
        await deploy("m@2")
        await deploy("m@3", load=False)  # was never put into service
        back = await rollback("m", to=[node.peer_id], priority=2)
        assert (back.manifest.version, back.priority) == ("1", 2)
        assert back.target_nodes == (node.peer_id,)
        again = await rollback("m")
        assert again.manifest.version == "2"
        assert (await rollback("m@3")).manifest.version == "3"
        await node.withdraw("m@2")
        with pytest.raises(NotFound, match="m@2"):
            await rollback("m")


async def test_rollback_never_takes_another_file_for_the_one_that_was_deployed(root: Path) -> None:
    async with node_with(root, "m@1") as node:
        first = await node.commander.deploy("m")
        other = file_of(root, "m@other")
        text = manifest_text(other, "m@1")
        await node.publish(other, ModelManifest.from_json(json.dumps(text)))
        await node.commander.deploy("m")
        with pytest.raises(NotFound, match="replaced by another under the same version"):
            await node.commander.rollback("m")
        assert len(node.commander.commands()) == 2
        # Another publisher's record of that file will do, but only a trusted one's.
        theirs = manifest_text(file_of(root, "m@1"), "m@1")
        await hear(node, record(theirs, keys=OTHERS))
        with pytest.raises(NotFound, match="replaced"):
            await node.commander.rollback("m")
        await hear(node, record(theirs))
        back = await node.commander.rollback("m", to=[node.peer_id])
        assert back.manifest == first.manifest
        assert back.target_nodes == (node.peer_id,)


async def test_rollback_to_what_is_in_service_here_goes_by_its_bytes(root: Path) -> None:
    async with node_with(root, "m@1") as node:
        activator = library_of(node).activator
        manifest = await node.show("m")
        await activator.activate(activator.candidate(node.peer_id, manifest, file_of(root, "m@1")))
        other = file_of(root, "m@other")
        text = manifest_text(other, "m@1")
        await node.publish(other, ModelManifest.from_json(json.dumps(text)))
        second = await node.show("m")
        await activator.activate(activator.candidate(node.peer_id, second, other))
        with pytest.raises(NotFound, match="replaced by another under the same version"):
            await node.commander.rollback("m")
        # What is ordered is that file, whoever's newer record there is of the version.
        await hear(node, record(manifest_text(file_of(root, "m@1"), "m@1")))
        assert (await node.commander.rollback("m")).manifest.blob_hash == manifest.blob_hash


async def test_rollback_goes_by_what_is_in_service_here_where_no_command_tells(root: Path) -> None:
    async with node_with(root, "m@1", "m@2") as node:
        activator: Activator = library_of(node).activator
        for version in ("1", "2"):
            manifest = await node.show(f"m@{version}")
            path = file_of(root, f"m@{version}")
            await activator.activate(activator.candidate(node.peer_id, manifest, path))
        assert (await node.commander.rollback("m")).manifest.version == "1"
