"""The bench scripts run and report in the shape that is documented; what they measure is not asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import common
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
        timeout=900,
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


def test_rows_change_places_from_round_to_round() -> None:
    rows = [f"row-{number}" for number in range(6)]
    orders = [common.shuffled(rows, number) for number in range(1, 9)]
    assert all(sorted(order) == rows for order in orders)
    before_the_first = {order[order.index("row-0") - 1] for order in orders}
    assert len(before_the_first) > 2
    assert orders == [common.shuffled(rows, number) for number in range(1, 9)]


def test_a_whole_command_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "hashing.json"
    (row,) = report(
        "hashing", out, "--size", "64KiB", "--rounds", "2", "--only", "peatnet-publish"
    )["rows"]
    assert row["cpu_s"] > 0
    assert 10 < row["rss_mib"] < 1000


@pytest.mark.slow
def test_throughput_has_both_ends_of_every_row_that_can_be_measured_here(tmp_path: Path) -> None:
    out = tmp_path / "throughput.json"
    found = report("throughput", out, "--size", "2MiB", "--rounds", "2")
    names = [row["name"] for row in found["rows"]]
    assert {*names, *found["skipped"]} == {
        "peatnet-lane",
        "peatnet-lane-sha256",
        "peatnet-stream",
        "libtorrent-v1",
        "libtorrent-v2",
        "libtorrent-v1-rc4",
        "iroh",
        "curl-blake3",
        "bare-loop",
        "bare-loop-plain",
        "bare-libp2p-stream",
        "bare-libp2p-stream-disk",
    }
    assert {"peatnet-lane", "peatnet-stream", "bare-loop", "bare-loop-plain"} <= set(names)
    for row in found["rows"]:
        for end in ("source", "sink"):
            assert row[f"{end}_cpu_s"] >= 0
            assert row[f"{end}_rss_mib"] > 2
    for ratio in found["ratios"]:
        assert ratio["value"] == ratio["min"] == ratio["max"]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["sinks", "small"])
def test_other_transfers_run(script: str, tmp_path: Path) -> None:
    out = tmp_path / f"{script}.json"
    found = report(script, out, "--size", "320KiB", "--rounds", "2")
    assert found["rows"][0]["name"].startswith("peatnet")
    if script == "sinks":
        assert found["rows"][0]["source_sent"] >= 1


@pytest.mark.slow
def test_a_rollout_is_held_against_the_bare_transfer(tmp_path: Path) -> None:
    found = report("rollout", tmp_path / "rollout.json", "--size", "1MiB", "--rounds", "2")
    rolled, transferred = found["rows"]
    assert (rolled["name"], transferred["name"]) == ("rollout-8", "transfer-8")
    assert rolled["unit"] == transferred["unit"] == "s"
    assert 0 < rolled["switched_s"] <= rolled["median"]
    assert rolled["real_model"] == 0
    assert [ratio["name"] for ratio in found["ratios"]] == ["rollout-8 / transfer-8"]


@pytest.mark.slow
def test_announcements_reach_all_nodes(tmp_path: Path) -> None:
    (row,) = report("gossip", tmp_path / "gossip.json", "--rounds", "2", "--only", "peatnet-8")[
        "rows"
    ]
    assert row["own_ms"] <= row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]


@pytest.mark.slow
def test_what_a_stranger_makes_a_node_do_is_measured(tmp_path: Path) -> None:
    (row,) = report("strangers", tmp_path / "strangers.json", "--rounds", "2", "--only", "pings")[
        "rows"
    ]
    assert row["median"] > 0
    assert row["mb_s"] > 0  # it is read from, slowly


@pytest.mark.slow
def test_nothing_grows_over_200_transfers(tmp_path: Path) -> None:
    (row,) = report(
        "idle", tmp_path / "idle.json", "--rounds", "2", "--only", "after-200-transfers"
    )["rows"]
    for end in ("source", "sink"):
        # Measured from 50 transfers on, when pools are full; a leak of one buffer a transfer would be 150 MiB.
        grown = row[f"{end}_rss_mib_after_200"] - row[f"{end}_rss_mib_after_50"]
        assert grown < 16, row
        # A connection that is just being opened or closed holds a few.
        for what in ("threads", "fds"):
            assert row[f"{end}_{what}_after_200"] <= row[f"{end}_{what}_after_50"] + 6, row


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


@pytest.mark.slow
def test_two_revisions_are_measured_side_by_side(tmp_path: Path) -> None:
    found = report(
        "revisions", tmp_path / "out.json", "--size", "1MiB", "--rounds", "2", "--only", "here,HEAD"
    )
    assert [row["name"] for row in found["rows"]] == ["here", "HEAD"]
    assert [each["name"] for each in found["ratios"]] == ["here / HEAD"]


def test_a_revision_that_does_not_exist_is_skipped_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVISION", "no-such-thing")
    found = report(
        "revisions",
        tmp_path / "out.json",
        "--size",
        "1MiB",
        "--rounds",
        "2",
        "--only",
        "no-such-thing",
    )
    assert found["rows"] == []
    assert "no-such-thing" in found["skipped"]["no-such-thing"]
