"""The fan-out over hosts, with hosts that are this machine, and how the set of benches is reported."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT = 300.0


def run(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "bench" / "multi_node.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )


@pytest.fixture
def peatnet(tmp_path: Path) -> Path:
    """The command, as it would be installed on a host."""
    path = tmp_path / "peatnet"
    path.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m peatnet "$@"\n'
    )
    path.chmod(0o755)
    return path


def hosts(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "hosts"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_one_model_goes_to_all_hosts_and_nothing_stays_there(tmp_path: Path, peatnet: Path) -> None:
    there, out = tmp_path / "there", tmp_path / "out"
    there.mkdir()
    listed = hosts(tmp_path, "local:one  # the source", "", "local:two", "local:three")
    small = ("--size", "2MiB", "--rounds", "1")
    ran = run(
        *("--hosts", listed, "--peatnet", peatnet, "--out", out, "--json", *small),
        TMPDIR=str(there),
    )
    assert ran.returncode == 0, ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout)
    assert report == json.loads((out / "report.json").read_text())
    assert [host["name"] for host in report["hosts"]] == ["local:one", "local:two", "local:three"]
    assert all(host["version"].startswith("peatnet ") for host in report["hosts"])
    (found,) = report["rounds"]
    assert set(found["sinks"]) == {"local:two", "local:three"}
    for sink in found["sinks"].values():
        assert 0 < sink["seconds"] <= found["last_s"]
        assert sum(sink["bytes_by_host"].values()) >= 2 * 2**20
    assert "local:two" in (out / "report.md").read_text()
    assert list(there.iterdir()) == []


def test_a_host_that_fails_is_named_and_the_others_are_cleaned_up(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    # It answers as peatnet does to the first question, and cannot publish.
    fake = tmp_path / "fake"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "peatnet 0" && exit 0\nexit 9\n')
    fake.chmod(0o755)
    listed = hosts(tmp_path, "local:one", "local:two")
    ran = run("--hosts", listed, "--peatnet", fake, "--size", "1MiB", TMPDIR=str(there))
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert "multi_node_bench: local:one: exit code 9" in ran.stderr
    assert list(there.iterdir()) == []


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["local:one"],
        ["local:one", "local:one"],
        ["local:one", "-oProxyCommand=touch /tmp/x"],
        ["local:one", "host; rm -rf /"],
        ["local:one", "local:"],
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, lines: list[str]) -> None:
    ran = run("--hosts", hosts(tmp_path, *lines), "--out", tmp_path / "out")
    assert ran.returncode == 2
    assert "hosts" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_the_set_on_one_machine_makes_one_report(tmp_path: Path) -> None:
    """With the quickest of the benches; that each runs is tested elsewhere."""
    ran = run("--quick", "--only", "hashing", "--out", tmp_path)
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["quick"]
    assert report["failed"] == {}
    assert report["benches"]["hashing"] == json.loads((tmp_path / "hashing.json").read_text())
    text = (tmp_path / "report.md").read_text()
    assert text == ran.stdout
    assert "## hashing" in text
    assert "| bare-blake3 |" in text
