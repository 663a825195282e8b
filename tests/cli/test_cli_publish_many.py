"""``peatnet publish`` of several files and of folders: real processes, with and without a node."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.files import blake3_of, make_model
from support.nodes import Cluster, environment, peatnet

from peatnet.errors import NotFound, UsageError

if TYPE_CHECKING:
    from pathlib import Path

SMALL = 4_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten small models, a larger one, and other files."""
    folder = tmp_path / "models"
    folder.mkdir()
    for number in range(10):
        make_model(folder / f"m{number}.safetensors", SMALL, number + 1)
    make_model(folder / "m-large.safetensors", 1_500_000)
    (folder / "README.md").write_text("not a model")
    (folder / ".hidden.gguf").write_text("not meant")
    (folder / "deeper").mkdir()
    return folder


def models_in(folder: Path) -> dict[str, str]:
    return {path.stem: blake3_of(path) for path in folder.glob("m*.safetensors")}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_folder_without_a_node_and_with_one(nodes: Cluster, data: Path, folder: Path) -> None:
    wanted = models_in(folder)
    alone = peatnet(data, "publish", folder, "--version", "2.0", "--feature", "chat").ok()
    assert f"{folder}: 11 model files; 2 others left out" in alone.err
    told = [line.split() for line in alone.out.splitlines()]
    assert [key for _, key in told] == [f"{name}@2.0" for name in sorted(wanted)]
    assert [digits for digits, _ in told] == [wanted[name][:12] for name in sorted(wanted)]
    rows = peatnet(data, "models", "--json").json()
    assert {row["model_id"]: row["blob_hash"] for row in rows} == wanted
    assert {row["status"] for row in rows} == {"ready"}
    shown = peatnet(data, "show", "m3", "--json").json()
    assert (shown["format"], shown["features"]) == ("safetensors", ["chat"])

    node = nodes.up("node", "--fetch", "none")
    answer = lines(node.run("publish", "--json", folder, "--mode", "copy").ok().out)
    assert [each["path"] for each in answer] == [
        str(folder / f"{name}.safetensors") for name in sorted(wanted)
    ]
    for each in answer:
        assert each["manifest"] == node.call("show", reference=each["manifest"]["model_id"])
    assert {row["model_id"]: row["blob_hash"] for row in node.models()} == wanted
    assert {row["status"] for row in node.models()} == {"ready"}


def test_files_by_name_and_one_that_is_not_there(data: Path, folder: Path) -> None:
    files = [folder / "m1.safetensors", folder / "nothing.gguf", folder / "m2.safetensors"]
    ran = peatnet(data, "publish", *files)
    assert ran.code == NotFound.exit_code
    assert [line.split()[1] for line in ran.out.splitlines()] == ["m1@1.0.0", "m2@1.0.0"]
    assert f"{files[1]}: not published: " in ran.err
    assert "error: 1 of 3 files were not published" in ran.err
    again = peatnet(data, "publish", "--json", "--move", *files)
    first, missing, second = lines(again.out)
    assert first["manifest"]["model_id"] == "m1"
    assert missing["path"] == str(files[1])
    assert missing["error"]["slug"] == "not-found"
    assert second["path"] == str(files[2])
    assert json.loads(again.err.splitlines()[-1])["error"]["exit_code"] == again.code
    assert [path.exists() for path in files] == [False] * 3


def test_an_error_that_only_the_node_finds(data: Path, folder: Path) -> None:
    bad = folder / "empty.gguf"
    bad.touch()
    ran = peatnet(data, "publish", folder / "m1.safetensors", bad)
    assert ran.code == UsageError.exit_code
    assert f"{bad}: not published: {bad} is empty" in ran.err
    assert ran.out.split()[1:] == ["m1@1.0.0"]


@pytest.mark.parametrize("option", ["--id", "--name", "--url", "--manifest"])
def test_what_makes_sense_for_one_file_only(data: Path, folder: Path, option: str) -> None:
    value = "https://example.org/x" if option == "--url" else "x"
    for what in ([folder], [folder / "m1.safetensors", folder / "m2.safetensors"]):
        ran = peatnet(data, "publish", *what, option, value).failed(UsageError)
        assert f"{option} is for one file, and several are to be published" in ran.err
    assert not data.exists()


def test_names_that_clash_and_a_folder_without_models(data: Path, folder: Path) -> None:
    make_model(folder / "deeper" / "m1.safetensors", SMALL, 99)
    ran = peatnet(data, "publish", folder, folder / "deeper" / "m1.safetensors")
    assert "would be the same model, m1" in ran.failed(UsageError).err
    (folder / "deeper" / "m1.safetensors").unlink()
    none = peatnet(data, "publish", folder / "deeper").failed(UsageError)
    assert "no model file in this folder" in none.err
    assert not data.exists()


def test_a_terminal_shows_how_far_it_is_and_stdout_stays_clean(data: Path, folder: Path) -> None:
    environ = environment(data) | {"TERM": "xterm-256color", "COLUMNS": "100"}
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "peatnet", "publish", str(folder)],
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=follower,
        env=environ,
        text=True,
    ) as child:
        os.close(follower)
        shown = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # how Linux tells that the other side is closed
                break
            shown += part
        os.close(leader)
        out, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    assert b"11 of 11 files" in shown
    assert b"m1@1.0.0" not in shown
    assert [line.split()[1] for line in out.splitlines()] == [
        f"{name}@1.0.0" for name in sorted(models_in(folder))
    ]
