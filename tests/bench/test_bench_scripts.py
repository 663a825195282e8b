"""The bench scripts run and report in the shape that is documented; what they measure is not asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, f"bench/{script}.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def report(script: str, out: Path, *arguments: str) -> dict[str, Any]:
    ran = run(script, "--json", "--out", str(out), "--dir", str(out.parent), *arguments)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    assert found == json.loads(out.read_text())
    assert {"bench", "machine", "revision", "rows"} <= set(found)
    assert os.listdir(out.parent) == [out.name]  # noqa: PTH208  # names are what is compared
    return found


def test_rows_are_interleaved_and_the_first_round_does_not_count(tmp_path: Path) -> None:
    out = tmp_path / "hashing.json"
    found = report(
        "hashing", out, "--size", "100KiB", "--rounds", "4", "--only", "bare-sha256,hash-file-64KiB"
    )
    assert found["bench"] == "hashing"
    assert found["size_bytes"] == 102_400
    assert [row["name"] for row in found["rows"]] == ["bare-sha256", "hash-file-64KiB"]
    for row in found["rows"]:
        assert row["unit"] == "GB/s"
        assert len(row["runs"]) == 3
        assert row["median"] == sorted(row["runs"])[1]
        assert [row["min"], row["max"]] == [min(row["runs"]), max(row["runs"])]
    assert found["ratios"] == []


def test_a_whole_command_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "hashing.json"
    (row,) = report(
        "hashing", out, "--size", "64KiB", "--rounds", "2", "--only", "peatnet-publish"
    )["rows"]
    assert row["cpu_s"] > 0
    assert 10 < row["rss_mib"] < 1000


@pytest.mark.slow
def test_throughput_has_both_ends_of_each_row_and_their_ratio(tmp_path: Path) -> None:
    out = tmp_path / "throughput.json"
    found = report("throughput", out, "--size", "2MiB", "--rounds", "2")
    assert [row["name"] for row in found["rows"]] == ["peatnet-stream", "bare-libp2p-stream"]
    for row in found["rows"]:
        for end in ("source", "sink"):
            assert row[f"{end}_cpu_s"] >= 0
            assert row[f"{end}_rss_mib"] > 10
    (ratio,) = found["ratios"]
    assert ratio["name"] == "peatnet-stream / bare-libp2p-stream"
    assert ratio["value"] == ratio["min"] == ratio["max"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--size", "-1"], "size"),
        (["--size", "0"], "not a size"),
        (["--size", "1TB"], "not a size"),
        (["--rounds", "1"], "at least 2"),
        (["--only", "no-such-row"], "there are: bare-blake3"),
    ],
)
def test_a_wrong_option_is_refused(arguments: list[str], complaint: str) -> None:
    ran = run("hashing", *arguments)
    assert ran.returncode == 2
    assert complaint in ran.stderr
    assert ran.stdout == ""
