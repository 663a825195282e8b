"""The command line's verbs and errors, run in this process: `main()` with the words it would be given."""

from __future__ import annotations

import json
import logging
import os
import struct
import sys
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3
from rich.text import Text
from support.nodes import Ran

from peatnet.cli import main
from peatnet.errors import (
    AlreadyExists,
    Ambiguous,
    ConfigError,
    IntegrityError,
    InUse,
    InvalidManifest,
    NoSource,
    NotFound,
    StorageError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Command:
    """Runs `peatnet` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, data: Path, *arguments: str | Path) -> Ran:
        words = [str(word) for word in arguments]
        self._monkeypatch.setattr(sys, "argv", ["peatnet", "--data-dir", str(data), *words])
        code = main()
        out, err = self._capsys.readouterr()
        return Ran(words, code, out, err)


@pytest.fixture
def peatnet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ours = logging.getLogger("peatnet").level
    yield Command(monkeypatch, capsys)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("peatnet").setLevel(ours)
    logging.captureWarnings(capture=False)
    logging.getLogger("peatnet").setLevel(logging.NOTSET)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-q5_k_m.gguf"
    path.write_bytes(os.urandom(1_500_000))
    return path


def test_a_models_life_on_one_machine(peatnet: Command, data: Path, model: Path) -> None:
    url = "https://models.example.org/tiny"
    words = ["--id", "tiny", "--url", url, "--feature", "chat", "--feature", "code"]
    published = peatnet(data, "publish", model, *words)
    assert "guessed from the file's name: " in published.err
    manifest = published.json()
    assert manifest["blob_hash"] == blake3(model.read_bytes()).hexdigest()
    assert (manifest["quantization"], manifest["features"]) == ("Q5_K_M", ["chat", "code"])
    assert manifest["download_url"] == url
    blob_hash = manifest["blob_hash"]
    assert peatnet(data, "show", "tiny@1.0.0", "--json").json() == manifest

    (row,) = peatnet(data, "models", "--json").json()
    assert (row["model_id"], row["version"], row["status"]) == ("tiny", "1.0.0", "ready")
    assert (row["trusted"], row["size_bytes"], row["error"]) == (True, 1_500_000, None)
    assert row["blob_hash"] == blob_hash
    table = peatnet(data, "models").out.splitlines()
    assert table[0].split() == ["MODEL", "VERSION", "STATUS", "SIZE", "HASH", "PUBLISHER"]
    assert table[1].split()[:6] == ["tiny", "1.0.0", "ready", "1.4", "MiB", blob_hash[:12]]

    out = data.parent / "out.gguf"
    got = peatnet(data, "get", blob_hash[:8], "--out", out, "--json").json()
    assert (got["path"], got["blob_hash"], got["size_bytes"]) == (str(out), blob_hash, 1_500_000)
    assert out.read_bytes() == model.read_bytes()
    out.write_text("precious")
    peatnet(data, "get", "tiny", "--out", out).failed(AlreadyExists)
    assert out.read_text() == "precious"
    forced = peatnet(data, "get", "tiny", "--out", out, "--force")
    assert (forced.out, forced.err) == (f"{out}\n", "")
    assert out.read_bytes() == model.read_bytes()

    assert peatnet(data, "pin", "tiny", "--json").json() == {"blob_hash": blob_hash, "pinned": True}
    peatnet(data, "rm", "tiny").failed(InUse)
    assert peatnet(data, "unpin", "tiny").out == f"unpinned: {blob_hash}\n"
    assert peatnet(data, "withdraw", "tiny", "--json").json() == {"withdrawn": "tiny@1.0.0"}
    assert peatnet(data, "models", "--json").json() == []
    would = peatnet(data, "gc", "--dry-run", "--json").json()
    assert would["removed"] == [{"blob_hash": blob_hash, "size_bytes": 1_500_000}]
    verified = peatnet(data, "verify")
    assert verified.out.startswith("verified: 1 blob, 1.4 MiB")
    assert verified.err == ""
    gone = peatnet(data, "rm", "tiny").failed(NotFound)
    assert "no model 'tiny' is known here" in gone.err
    assert peatnet(data, "gc").out.splitlines() == [
        f"{blob_hash}  1.4 MiB",
        "1 file removed, 1.4 MiB",
    ]
    assert peatnet(data, "gc").out == "nothing to remove\n"


def test_blobs_outlive_a_lost_database(peatnet: Command, data: Path, model: Path) -> None:
    blob_hash = peatnet(data, "publish", model, "--id", "tiny", "--json").json()["blob_hash"]
    for path in data.glob("peatnet.db*"):
        path.unlink()
    told = peatnet(data, "verify").err
    assert f"not in the index, `peatnet verify --rebuild` enters it: {data}" in told
    assert "entered in the index: 1 blob;" in peatnet(data, "verify", "--rebuild").err
    assert peatnet(data, "gc").out == "nothing to remove\n"
    peatnet(data, "unpin", blob_hash)
    assert peatnet(data, "gc", "--json").json()["removed"] == [
        {"blob_hash": blob_hash, "size_bytes": 1_500_000}
    ]


def test_damage_is_found_and_told(peatnet: Command, data: Path, model: Path) -> None:
    blob_hash = peatnet(data, "publish", model, "--id", "tiny", "--json").json()["blob_hash"]
    blob = data / "blobs" / blob_hash[:2] / f"{blob_hash}.blob"
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(1_200_000)
        file.write(b"rust")
    damaged = peatnet(data, "verify", "tiny").failed(IntegrityError)
    assert "1 blob is damaged, 0 are missing" in damaged.err
    assert f"damaged: {blob_hash}" in damaged.err
    assert [row["status"] for row in peatnet(data, "models", "--json").json()] == ["available"]
    clean = peatnet(data, "verify", "--rebuild", "--json").json()
    assert clean["ok"]


def test_what_cannot_be_checked_is_told(peatnet: Command, data: Path, model: Path) -> None:
    blob_hash = peatnet(data, "publish", model, "--id", "tiny", "--json").json()["blob_hash"]
    blob = data / "blobs" / blob_hash[:2] / f"{blob_hash}.blob"
    blob.rename(data / "aside")
    blob.symlink_to(data / "aside")
    told = peatnet(data, "verify").failed(StorageError)
    assert f"not checked: {blob_hash}: " in told.err
    assert "1 blob could not be checked" in told.err
    assert blob.is_symlink()


def test_trust(peatnet: Command, data: Path) -> None:
    ours = peatnet(data, "id", "--json").json()["peer_id"]
    other = "12D3KooWGC6TvWhfajpgX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"
    assert sorted(peatnet(data, "trust", "add", other, "--json").json()) == sorted([ours, other])
    assert other in peatnet(data, "trust", "list").out.splitlines()
    assert peatnet(data, "trust", "remove", other).out == f"no longer trusted: {other}\n"
    assert peatnet(data, "trust", "list", "--json").json() == [ours]
    peatnet(data, "trust", "add", "nonsense").failed(UsageError)
    alone = peatnet(data, "peers")
    assert (alone.code, alone.out) == (0, "")
    assert "no node is running" in alone.err
    assert peatnet(data, "peers", "--json").json() == []


def test_publish_says_what_is_wrong(peatnet: Command, data: Path, model: Path) -> None:
    missing = peatnet(data, "publish", model).failed(UsageError)
    assert "--id" in missing.err
    hostile = peatnet(data, "publish", model, "--id", "../../etc/x").failed(InvalidManifest)
    assert "model_id" in hostile.err
    peatnet(data, "publish", model.parent / "none", "--id", "x").failed(NotFound)
    peatnet(data, "publish", model, "--id", "x", "--move", "--mode", "copy").failed(UsageError)
    assert model.exists()


def test_errors_of_place(peatnet: Command, data: Path, tmp_path: Path) -> None:
    peatnet(data, "show", "nosuch").failed(NotFound)
    peatnet(data, "get", "nosuch", "--source", "http").failed(NotFound)
    (data / "config.toml").write_text('fetch = "everything"\n')
    bad = peatnet(data, "models").failed(ConfigError)
    assert "fetch" in bad.err
    (data / "config.toml").write_text("quota = 1\npeers = 2\n")
    assert "peers: must be a list" in peatnet(data, "models").failed(ConfigError).err
    (data / "config.toml").write_text("quota = 1\n")
    assert "quota: there is no such key" in peatnet(data, "models").failed(ConfigError).err
    (data / "config.toml").unlink()
    (tmp_path / "file").touch()
    peatnet(tmp_path / "file", "id").failed(StorageError)
    peatnet(data, "pin", "01234567").failed(NotFound)
    nothing = peatnet(data, "models")
    assert (nothing.code, nothing.out) == (0, "")
    assert "no models yet" in nothing.err


def test_http_is_wanted_of_a_model_that_has_no_url(
    peatnet: Command, data: Path, model: Path
) -> None:
    blob_hash = peatnet(data, "publish", model, "--id", "tiny").json()["blob_hash"]
    peatnet(data, "get", "tiny", "--source", "http").ok()  # it is here
    peatnet(data, "rm", "tiny", "--force").ok()
    ran = peatnet(data, "get", "tiny", "--source", "http").failed(NoSource)
    assert "error: its manifest has no download_url\n" in ran.err
    assert "hint:  without `--source http`, other nodes are asked" in ran.err
    # A wish that cannot be had says nothing about the model.
    (row,) = peatnet(data, "models", "--json").json()
    assert (row["status"], row["error"]) == ("available", None)
    ran = peatnet(data, "get", "ab" * 32, "--source", "http").failed(NoSource)
    assert "no manifest is known here" in ran.err
    assert blob_hash not in ran.err


def test_the_schema_is_json_schema(peatnet: Command, data: Path) -> None:
    schema = peatnet(data, "schema").json()
    assert schema["properties"]["model_id"]
    assert "$schema" in schema
    assert not data.exists()


@pytest.mark.parametrize("columns", [60, 80])
def test_on_a_narrow_terminal_what_a_value_is_of_is_not_cut(
    peatnet: Command, data: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    file = data.parent / "m.safetensors"
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = {"__metadata__": {"format": "a long word " * 9}, "weight": tensor}
    packed = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(packed)) + packed + bytes(4))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    for words, keys in (
        (["inspect", file], {"parameters", "elements by dtype", "params_billions"}),
        (["hardware"], {"free_disk_mb", "execution_providers"}),
    ):
        shown = peatnet(data, *words)
        lines = [Text.from_ansi(line).plain for line in shown.out.splitlines()]
        assert max(map(len, lines)) <= columns
        assert keys <= {line.partition("  ")[0] for line in lines}


def test_a_short_hash_that_fits_two_blobs(
    peatnet: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two real BLAKE3 hashes that share 8 digits are not to be had in a test's time.
    from peatnet.node import Node

    async def find_two(_node: Node, reference: str) -> str:
        raise Ambiguous(f"2 blobs begin with {reference}", hint="give more digits of the hash")

    monkeypatch.setattr(Node, "pin", find_two)
    assert "give more digits" in peatnet(data, "pin", "01234567").failed(Ambiguous).err


def test_a_bug_is_owned_up_to(
    peatnet: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peatnet.node import Node

    async def broken(_node: Node) -> None:
        raise ZeroDivisionError("by nothing\x1b[31m")

    monkeypatch.setattr(Node, "models", broken)
    assert peatnet(data, "init").code == 0
    quiet = peatnet(data, "models")
    assert (quiet.code, quiet.out) == (70, "")
    assert quiet.err.splitlines() == [
        "error: ZeroDivisionError: by nothing�[31m",
        "hint:  this is a bug in peatnet: run the command again with -v and report what it says",
    ]
    loud = peatnet(data, "models", "-v")
    assert loud.code == 70
    assert "Traceback" in loud.err
    assert "please report it" in loud.err
