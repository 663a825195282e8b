"""A data directory that another process works in, a node or a command."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import pytest
import trio
from support.waiting import until

from node.node_kit import config_of
from peatnet import opening
from peatnet.datadir import HeldByVerb, locked_data_dir
from peatnet.errors import DataDirLocked
from peatnet.opening import open_node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level("INFO", "peatnet"):
        yield


def test_who_holds_it_is_named(root: Path) -> None:
    me = f"(process {os.getpid()})"
    with locked_data_dir(root, "get"), pytest.raises(HeldByVerb) as verb, locked_data_dir(root):
        pass
    assert f"the command `get` {me} works in {root}" in verb.value.message
    with locked_data_dir(root), pytest.raises(DataDirLocked) as node, locked_data_dir(root, "get"):
        pass
    assert f"another peatnet node runs on {root} {me}" in node.value.message
    assert not isinstance(node.value, HeldByVerb)
    assert (root / "lock").read_bytes() == b""


@pytest.mark.parametrize(
    "content", [b"", b"1 up", b"\xff\n", b"1 \x1b[2J\n", b"9" * 11 + b" get\n", b"1 get\n" * 20]
)
def test_a_lock_file_that_says_nothing_of_use(root: Path, content: bytes) -> None:
    root.mkdir()
    (root / "lock").write_bytes(content)
    with (root / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DataDirLocked) as caught, locked_data_dir(root):
            pass
    assert caught.value.message == f"another peatnet node runs on {root}"


async def test_a_node_waits_for_a_command(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = trio.Event()

    async def run() -> None:
        async with open_node(config_of(root), network=False):
            opened.set()

    async with trio.open_nursery() as nursery:
        with locked_data_dir(root, "get"):
            nursery.start_soon(run)
            await until(lambda: "waiting for the data directory" in caplog.text)
            assert not opened.is_set()
        await opened.wait()


async def test_it_does_not_wait_for_ever_nor_for_another_node(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with locked_data_dir(root), pytest.raises(DataDirLocked):
        async with open_node(config_of(root), network=False):
            pass
    # Nor does a command, which tries again by itself.
    with locked_data_dir(root, "get"), pytest.raises(HeldByVerb):
        async with open_node(config_of(root), network=False, verb="rm"):
            pass
    assert "waiting" not in caplog.text
    monkeypatch.setattr(opening, "VERB_PATIENCE_S", 0.01)
    with locked_data_dir(root, "get"), pytest.raises(HeldByVerb):
        async with open_node(config_of(root), network=False):
            pass
