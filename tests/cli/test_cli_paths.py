"""Paths and texts as they are typed: of another user, empty, not UTF-8. Real processes, in which file modes count."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.files import blake3_of, make_model
from support.nodes import Cluster, Ran, environment, peatnet

from peatnet.errors import NotFound, StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = 4_000
NOT_UTF8 = os.fsdecode(b"m\xff")


@pytest.fixture
def mode_0(tmp_path: Path) -> Iterator[Path]:
    """A model file that may not be read."""
    path = make_model(tmp_path / "hidden.safetensors", SMALL)
    path.chmod(0)
    yield path
    path.chmod(0o600)


def by_a_user(data: Path, *words: str | Path) -> Ran:
    return peatnet(data, *words, unprivileged=True)


def test_a_data_directory_of_another_user_is_no_wrong_use(data: Path) -> None:
    data.mkdir(mode=0)
    try:
        ran = by_a_user(data.parent / "other", "--data-dir", data, "models").failed(StorageError)
        after = by_a_user(data.parent / "other", "models", "--data-dir", data).failed(StorageError)
    finally:
        data.chmod(0o700)
    assert ran.err == after.err
    assert "or choose another one with --data-dir" in ran.err


def test_a_file_that_only_the_node_may_read_is_published(
    nodes: Cluster, data: Path, mode_0: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("a node that may read what its user may not is root's")
    node = nodes.up("data", "--fetch", "none")
    assert node.data_dir == data
    ran = by_a_user(data, "publish", mode_0, "--id", "m")
    assert f"not looked into: {mode_0} cannot be read: Permission denied\n" in ran.err
    assert ran.json()["blob_hash"] == blake3_of(mode_0)
    node.stop()


def test_one_that_may_not_be_read_holds_up_no_other(data: Path, mode_0: Path) -> None:
    folder = mode_0.parent / "folder"
    folder.mkdir()
    within = make_model(folder / "within.safetensors", SMALL, 2)
    good = make_model(mode_0.parent / "good.safetensors", SMALL, 3)
    folder.chmod(0)
    try:
        ran = by_a_user(data, "publish", mode_0, within, good)
        whole = by_a_user(data, "publish", good, folder).failed(StorageError)
        alone = by_a_user(data, "publish", within, "--id", "m").failed(StorageError)
        manifest = by_a_user(data, "publish", good, "--id", "m", "--manifest", within).failed(
            StorageError
        )
        demo = by_a_user(data, "demo", "--file", within).failed(StorageError)
        out = by_a_user(data, "get", "good", "--out", folder / "x").failed(StorageError)
    finally:
        folder.chmod(0o700)
    assert ran.code == StorageError.exit_code
    assert ran.out.split()[1:] == ["good@1.0.0"]
    for path in (mode_0, within):
        assert f"{path}: not published: " in ran.err
    assert f"{folder}: Permission denied" in whole.err
    for each in (alone, manifest, demo, out):
        assert "Permission denied" in each.err


def test_a_file_that_may_not_be_read_may_be_overwritten(data: Path, mode_0: Path) -> None:
    good = make_model(mode_0.parent / "good.safetensors", SMALL, 3)
    by_a_user(data, "publish", good, "--id", "m").ok()
    by_a_user(data, "get", "m", "--out", mode_0, "--force").ok()
    assert blake3_of(mode_0) == blake3_of(good)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--data-dir", "", "id"], "--data-dir"),
        (["id", "--data-dir="], "--data-dir"),
        (["publish", ""], "FILE..."),
        (["publish", "x", "--id", "m", "--manifest", ""], "--manifest"),
        (["get", "m", "--out", ""], "--out"),
        (["demo", "--file", ""], "--file"),
        (["inspect", ""], "FILE"),
    ],
)
def test_an_empty_path_is_not_the_working_directory(
    tmp_path: Path, data: Path, words: list[str], named: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "peatnet", *words],
        env=environment(data),
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    ran = Ran(words, done.returncode, done.stdout, done.stderr).failed(UsageError)
    assert f"'{named}'" in ran.err
    assert not list(here.iterdir())
    assert not data.exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["show", NOT_UTF8], "MODEL[@VERSION]"),
        (["get", "m", "--out", NOT_UTF8], "--out"),
        (["deploy", "m", "--to", "a", "--to", NOT_UTF8], "--to"),
        (["publish", NOT_UTF8, "--id", "m"], "FILE..."),
        (["up", "--name", NOT_UTF8], "--name"),
        (["trust", "add", NOT_UTF8], "PEER_ID"),
    ],
)
def test_what_is_not_utf8_is_named(data: Path, words: list[Any], named: str) -> None:
    ran = peatnet(data, *words).failed(UsageError)
    assert f"'{named}'" in ran.err
    assert "m\\xff' is not UTF-8" in ran.err
    assert not data.exists()


def test_the_data_directory_may_be_called_as_it_likes(tmp_path: Path) -> None:
    data = tmp_path / NOT_UTF8
    peer_id = peatnet(tmp_path / "other", "--data-dir", data, "id").ok().out
    assert peatnet(data, "id").ok().out == peer_id


def test_a_name_in_a_folder_that_is_not_utf8_holds_up_no_other(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    make_model(folder / "good.safetensors", SMALL)
    make_model(folder / f"{NOT_UTF8}.safetensors", SMALL, 2)
    ran = peatnet(data, "publish", folder)
    assert (ran.code, ran.out.split()[1:]) == (UsageError.exit_code, ["good@1.0.0"])
    assert "not published: its path is not UTF-8" in ran.err


def test_a_manifest_file_that_is_missing(data: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m.safetensors", SMALL)
    ran = peatnet(data, "publish", model, "--manifest", tmp_path / "none").failed(NotFound)
    assert f"there is no file {tmp_path / 'none'}" in ran.err
    assert "hint:" in ran.err


def test_a_folder_without_models_is_said_before_what_its_options_are_for(
    data: Path, tmp_path: Path
) -> None:
    ran = peatnet(data, "publish", tmp_path, "--id", "z").failed(UsageError)
    assert "no model file in this folder" in ran.err
