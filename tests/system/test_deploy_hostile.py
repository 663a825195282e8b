"""Commands that must do nothing but a log line: replayed, older, of strangers, and forged."""

from __future__ import annotations

import filecmp
from typing import TYPE_CHECKING, Any

import pytest
from support.deploying import current, outcome, state_of, wait_loaded, with_loader
from support.files import make_model
from support.records import manifest_of, record_of
from support.strangers import Stranger
from support.waiting import wait_until

from peatnet.models import ModelManifest, ModelUpdateCommand, Timestamp
from peatnet.records import KeyPair, RecordType, command_key, sign_record

if TYPE_CHECKING:
    from pathlib import Path

    from support.nodes import Cluster

# Many nodes, or limits that take their time: ./scripts/test --all
pytestmark = pytest.mark.slow

RECORDS = "/peatnet/records/1"
FRIEND = KeyPair.from_seed(b"a publisher that is trusted.....")
MALLORY = KeyPair.from_seed(b"a publisher that nobody trusts..")
SIZE = 100_000


def command(manifest: dict[str, Any], sequence: int, keys: KeyPair = FRIEND) -> bytes:
    """The record of a command to all nodes."""
    order = ModelUpdateCommand(
        command_id=f"command-{sequence}",
        manifest=ModelManifest.model_validate(manifest),
        timestamp=Timestamp("2026-01-02T03:04:05Z"),
    )
    key = command_key("m", str(order.command_id))
    return sign_record(keys, RecordType.COMMAND, key, sequence, order.to_json().encode()).envelope


def test_they_do_nothing(cluster: Cluster, tmp_path: Path) -> None:
    files = [make_model(tmp_path / f"{n}.safetensors", SIZE, n) for n in (1, 2)]
    one, two = (manifest_of(file, "m", version=str(n)) for n, file in enumerate(files, 1))
    node = cluster.node("node")
    loader = with_loader(node)
    node.up("--trust", FRIEND.peer_id, "--fetch", "none")
    for number, file in enumerate(files):  # the bytes are here; what counts is who may order
        node.call("publish", path=str(file), manifest=manifest_of(file, f"own-{number}"))
    stranger = Stranger("stranger", node.addr, cluster.root / "logs")
    cluster.own(stranger)
    first = stranger.become()
    first_order = command(one, 10)
    for data in (record_of(FRIEND, one, 1), record_of(FRIEND, two, 2), first_order):
        stranger.publish(RECORDS, data)
    wait_loaded(node, "m@1")
    stranger.publish(RECORDS, command(two, 20))
    wait_loaded(node, "m@2")
    assert loader.started() == ["m@1", "m@2"]

    stranger.publish(RECORDS, first_order)
    stranger.publish(RECORDS, command(one, 15))
    node.wait_log("command-15", "decision=older")
    stranger.publish(RECORDS, command(one, 99, MALLORY))
    node.wait_log("command-99", "decision=untrusted")
    assert outcome(node, "command-99") == ("refused", "untrusted publisher")
    forged = bytearray(command(one, 30))
    forged[-1] ^= 1
    stranger.publish(RECORDS, bytes(forged))
    wait_until(
        lambda: any("offence" in line and first in line for line in node.log().splitlines()),
        what="the forgery to be logged",
    )
    # Signed well, but about another model than it is filed under.
    stranger.become()
    body = ModelUpdateCommand(
        command_id="x",
        manifest=ModelManifest.model_validate(one),
        timestamp=Timestamp("2026-01-02T03:04:05Z"),
    )
    key = command_key("other", "x")
    wrong = sign_record(FRIEND, RecordType.COMMAND, key, 40, body.to_json().encode())
    stranger.publish(RECORDS, wrong.envelope)
    wait_until(
        lambda: sum("offence" in line for line in node.log().splitlines()) >= 2,
        what="the misfiled command to be logged",
    )
    node.stop()
    node.up("--trust", FRIEND.peer_id, "--fetch", "none")
    assert state_of(node, "m@2") == ("loaded", True)
    link = current(node)
    assert link is not None
    assert filecmp.cmp(link, files[1], shallow=False)
    assert loader.started() == ["m@1", "m@2"]
    assert outcome(node, "command-30") is None
    assert outcome(node, "x") is None
