"""The simulation runs as a command, and reports in the shape that the other benchmarks have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "bench/simulate.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_a_small_fleet_is_simulated_and_reported(tmp_path: Path) -> None:
    out = tmp_path / "simulate.json"
    ran = simulate(
        *("--only", "fanout-8-1MiB,fleet", "--nodes", "24", "--size", "64MiB", "--chunk", "1MiB"),
        *("--rounds", "1", "--json", "--out", str(out)),
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found == json.loads(out.read_text())
    assert found["bench"] == "simulate"
    assert found["nodes"] == 24
    assert [row["name"] for row in found["rows"]] == ["fanout-8-1MiB", "fleet"]
    for row in found["rows"]:
        assert row["unit"] == "x bound"
        assert row["over_bound"] == row["median"] >= 1
        assert row["source_sent"] >= 1
        assert row["cpu_s"] > 0


def test_what_cannot_be_simulated_is_refused(tmp_path: Path) -> None:
    assert "no row 'nothing'" in simulate("--only", "nothing").stderr
    assert "more than 20 nodes" in simulate("--nodes", "20").stderr


@pytest.mark.slow
def test_machine_code_comes_to_the_same_figures(tmp_path: Path) -> None:
    def figures(*options: str) -> dict[str, object]:
        out = tmp_path / "simulate.json"
        ran = simulate(
            *("--only", "fleet", "--nodes", "60", "--size", "256MiB", "--chunk", "1MiB"),
            *("--out", str(out), *options),
        )
        assert ran.returncode == 0, ran.stderr
        found = json.loads(out.read_text())
        assert found["compiled"] == bool(options)
        (row,) = found["rows"]
        return {name: row[name] for name in row if name not in {"cpu_s", "others_share"}}

    assert figures("--compiled") == figures()
