"""A machine or a user that does not play along: one clear line, the right exit code, nothing lost."""

from __future__ import annotations

import filecmp
import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from support.files import MIB, blake3_of, make_model
from support.nodes import Node, peatnet
from support.web import serving

from peatnet.errors import (
    AlreadyExists,
    ConfigError,
    DataDirLocked,
    DiskFull,
    InvalidManifest,
    ListenError,
    NoSource,
    NotFound,
    PeatnetError,
    StorageError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.nodes import Cluster


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model.safetensors", 3 * MIB + 5)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with one model, m@1.0.0."""
    root = tmp_path_factory.mktemp("known")
    peatnet(root / "node", "publish", make_model(root / "a.safetensors", MIB), "--id", "m").ok()
    return Node("node", root / "node", root / "logs").configure(give_up_after_s=0.5).data_dir


# -- the data directory ---------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [pytest.param("models", marks=pytest.mark.slow), "up"])
@pytest.mark.parametrize("what", ["directory", "parent", "key", "blobs", "database"])
def test_an_unreadable_data_directory(known: Path, tmp_path: Path, what: str, verb: str) -> None:
    data_dir = tmp_path / "a" / "node"
    shutil.copytree(known, data_dir)
    target = {
        "directory": data_dir,
        "parent": data_dir.parent,
        "key": data_dir / "identity.key",
        "blobs": data_dir / "blobs",
        "database": data_dir / "peatnet.db",
    }[what]
    mode = target.stat().st_mode
    target.chmod(0)
    try:
        words = ("up", "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns") if verb == "up" else (verb,)
        ran = peatnet(data_dir, *words, unprivileged=True)
    finally:
        target.chmod(mode)
    ran.failed(StorageError)
    assert str(data_dir) in ran.err


def test_a_data_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    peatnet(tmp_path / "file", "models").failed(StorageError)
    peatnet(tmp_path / "file" / "below", "models").failed(StorageError)


def test_a_damaged_key_is_not_replaced(tmp_path: Path) -> None:
    data_dir = tmp_path / "node"
    peatnet(data_dir, "init").ok()
    key = data_dir / "identity.key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.write_bytes(b"not a key")
    peatnet(data_dir, "id").failed(StorageError)
    assert key.read_bytes() == b"not a key"


@pytest.mark.parametrize("fresh", [True, False])
def test_a_key_that_is_not_mounted_yet_is_not_replaced(tmp_path: Path, *, fresh: bool) -> None:
    data_dir = tmp_path / "node"
    key, secret = data_dir / "identity.key", tmp_path / "secrets" / "key"
    data_dir.mkdir()
    if not fresh:
        peatnet(data_dir, "init").ok()
        key.unlink()
    key.symlink_to(secret)
    ran = peatnet(data_dir, "models").failed(StorageError)
    assert f"{key} leads to {secret}, where nothing is" in ran.err
    assert key.readlink() == secret
    # It is mounted.
    peatnet(tmp_path / "other", "init").ok()
    secret.parent.mkdir()
    (tmp_path / "other" / "identity.key").rename(secret)
    peatnet(data_dir, "id").ok()
    assert key.is_symlink()


def test_a_key_that_is_gone_is_not_made_up_for(tmp_path: Path) -> None:
    data_dir = tmp_path / "node"
    peatnet(data_dir, "init").ok()
    key = data_dir / "identity.key"
    before = key.rename(tmp_path / "key")
    ran = peatnet(data_dir, "models").failed(StorageError)
    assert "the node's key is gone" in ran.err
    assert not key.exists()
    # Back again; or a new node, where that is what somebody wants.
    before.rename(key)
    old = peatnet(data_dir, "id").ok().out
    key.unlink()
    (data_dir / "peatnet.db").unlink()
    assert peatnet(data_dir, "id").ok().out != old


def test_config_that_cannot_be_used(tmp_path: Path) -> None:
    node = Node("node", tmp_path / "node", tmp_path / "logs").configure(quota_byte=1)
    ran = node.run("models").failed(ConfigError)
    assert "quota_byte" in ran.err


def test_a_second_node_on_the_same_data_directory(cluster: Cluster, model: Path) -> None:
    first = cluster.up("first")
    ran = first.run("up", "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns")
    ran.failed(DataDirLocked)
    assert str(first.data_dir) in ran.err
    # A port that somebody has: the other node's own.
    port = f"/ip4/127.0.0.1/tcp/{first.port}"
    ran = peatnet(cluster.root / "second", "up", "--listen", port, "--no-mdns")
    ran.failed(ListenError)
    assert port in ran.err
    # The first has noticed nothing, and answers on its socket, which is for its owner alone.
    assert (first.data_dir / "control.sock").stat().st_mode & 0o777 == 0o600
    first.json("publish", model, "--id", "m")
    assert first.json("id") == {"peer_id": first.peer_id}
    first.stop(signal.SIGINT)
    assert not (first.data_dir / "control.sock").exists()


def test_a_port_in_use_by_another_program(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = f"/ip4/127.0.0.1/tcp/{other.getsockname()[1]}"
        ran = peatnet(tmp_path / "node", "up", "--listen", port, "--no-mdns")
    ran.failed(ListenError)
    assert port in ran.err


# -- the disk -------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no tmpfs here: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk(small_disk: Path, model: Path, tmp_path: Path) -> None:
    large = make_model(tmp_path / "large.safetensors", 7 * MIB)
    node = Node("node", tmp_path / "node", tmp_path / "logs").configure(free_floor_bytes=0)
    with serving(large.read_bytes()) as web:
        node.json("publish", large, "--id", "large", "--url", web.url)
        node.json("rm", "large", "--force")
        shutil.copytree(node.data_dir, small_disk / "node")
        node.data_dir = small_disk / "node"
        node.json("publish", model, "--id", "small")
        node.run("publish", large, "--id", "again").failed(DiskFull)
        node.run("get", "large", "--source", "http").failed(DiskFull)
    status = {view["model_id"]: view["status"] for view in node.json("models")}
    assert status["small"] == "ready"
    assert status["large"] not in {"ready", "loaded"}
    assert "again" not in status
    assert filecmp.cmp(node.json("get", "small")["path"], model, shallow=False)
    node.run("verify").ok()


def test_room_is_made_on_a_disk_that_others_have_filled(small_disk: Path, model: Path) -> None:
    node = Node("node", small_disk / "node", small_disk / "logs").configure(free_floor_bytes=0)
    node.json("publish", model, "--id", "small")
    with (small_disk / "others").open("wb", buffering=0) as others, suppress(OSError):
        while others.write(bytes(4096)):
            pass
    assert node.json("models")[0]["status"] == "ready"
    assert node.json("rm", "small")["freed_bytes"] == model.stat().st_size
    node.run("gc").ok()
    assert node.json("models")[0]["status"] == "available"


def test_a_disk_on_which_nothing_can_be_opened_is_called_full(
    small_disk: Path, model: Path
) -> None:
    node = Node("node", small_disk / "node", small_disk / "logs").configure(free_floor_bytes=0)
    node.json("publish", model, "--id", "small")
    (node.data_dir / "reserve").unlink()
    with (small_disk / "others").open("wb", buffering=0) as others, suppress(OSError):
        while others.write(bytes(4096)):
            pass
    node.run("models").failed(DiskFull)


def test_a_full_quota_while_fetching(cluster: Cluster, model: Path, tmp_path: Path) -> None:
    large = make_model(tmp_path / "large.safetensors", 7 * MIB, seed=2)
    source = cluster.up("source")
    taker = cluster.node("taker").configure(quota_bytes=6 * MIB)
    taker.up("--peer", source.addr, "--trust", source.peer_id, "--fetch", "all")
    source.json("publish", model, "--id", "small")
    taker.wait_status("small", "ready")
    source.json("publish", large, "--id", "large")
    view = taker.wait_status("large", "failed")
    assert view["error"]
    taker.run("get", "large").failed(DiskFull)
    assert not taker.blob_file(blake3_of(large)).exists()
    # What was there is still there, and room that is made is used.
    assert filecmp.cmp(taker.copy_of("small"), model, shallow=False)
    taker.json("rm", "small", "--force")
    taker.run("publish", large, "--id", "own").failed(DiskFull)


# -- what a user says -----------------------------------------------------------------------------

HOSTILE = ["../evil", "a/b", "a\\b", "..", ".hidden", "", "x" * 129, "nul", "a\nb", "a b\x1b[31m"]


@pytest.mark.parametrize("model_id", HOSTILE)
def test_a_hostile_model_id(known: Path, tmp_path: Path, model: Path, model_id: str) -> None:
    ran = peatnet(known, "publish", model, f"--id={model_id}")
    assert ran.code in {InvalidManifest.exit_code, UsageError.exit_code}, ran
    assert "error:" in ran.err
    assert "\x1b" not in ran.err
    assert [path.name for path in (known / "models").iterdir()] == ["m"]
    assert not list(known.parent.rglob("evil*"))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("get", "nobody"), NotFound),
        (("get", "0" * 64), NoSource),
        (("show", "m@9"), NotFound),
        (("withdraw", "nobody@1"), NotFound),
        (("publish", "/nowhere/model.gguf", "--id", "x"), NotFound),
        (("trust", "add", "12D3KooWnonsense"), UsageError),
        (("get", "m", "--source", "moon"), UsageError),
        (("get", "m", "--out", "{there}"), AlreadyExists),
        (("frobnicate",), UsageError),
    ],
)
def test_a_mistake_on_the_command_line(
    known: Path, tmp_path: Path, words: tuple[str, ...], error: type[PeatnetError]
) -> None:
    there = tmp_path / "there"
    there.write_text("precious")
    peatnet(known, *(word.replace("{there}", str(there)) for word in words)).failed(error)
    assert there.read_text() == "precious"


def test_force_overwrites_and_nothing_else_does(known: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    peatnet(known, "get", "m", "--out", out).failed(AlreadyExists)
    peatnet(known, "get", "m", "--out", out, "--force").ok()
    assert out.stat().st_size == MIB


# -- trust ----------------------------------------------------------------------------------------


def test_an_untrusted_publisher(cluster: Cluster, model: Path) -> None:
    stranger = cluster.up("stranger")
    node = cluster.up("node", "--peer", stranger.addr, "--fetch", "all")
    node.wait_connected(stranger)
    stranger.json("publish", model, "--id", "gift")
    view = node.wait_model("gift")
    assert (view["trusted"], view["status"], view["local_path"]) == (False, "available", None)
    # Trusting somebody else's model starts its download; the untrusted one stays where it is.
    friend = cluster.up("friend", "--peer", node.addr)
    node.json("trust", "add", friend.peer_id)
    other = make_model(cluster.root / "other.safetensors", MIB, seed=3)
    friend.json("publish", other, "--id", "known")
    node.wait_status("known", "ready")
    view = node.wait_model("gift")
    assert (view["trusted"], view["status"]) == (False, "available")
    assert not node.blob_file(view["blob_hash"]).exists()
    # A person may still ask for it.
    assert filecmp.cmp(node.json("get", "gift")["path"], model, shallow=False)
    node.json("trust", "remove", friend.peer_id)
    assert friend.peer_id not in node.json("trust", "list")
