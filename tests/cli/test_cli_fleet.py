"""How the fleet and a roll-out are shown, in a pipe and on a terminal, with a node and without one."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Any

import pytest
from support.nodes import Cluster, environment, peatnet
from support.terminal import PATIENCE, read_until

from peatnet.cli.status_view import render
from peatnet.errors import ConfigError, NotFound, UsageError

if TYPE_CHECKING:
    from pathlib import Path

STATUSES = ("loaded", "ready", "downloading", "pending", "failed", "unknown")


def node(status: str, **others: Any) -> dict[str, Any]:
    return {
        "peer_id": "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB",
        "name": f"a-{status}-one",
        "status": status,
        "progress": 0.0,
        "reason": None,
        "rate": 0,
        "eta_s": None,
        "expected": False,
        "serving": None,
        "last_seen_s": 0.0,
    } | others


def view(*nodes: dict[str, Any], eta_s: float | None = 0.0) -> dict[str, Any]:
    counts = {name: sum(each["status"] == name for each in nodes) for name in STATUSES}
    return {"model_id": "m", "version": "2", "nodes": list(nodes), "counts": counts, "eta_s": eta_s}


READY = node("ready", progress=1.0, eta_s=0.0, expected=True)
COMING = node(
    "downloading", progress=0.256, rate=3 * 2**20, eta_s=125.0, expected=True, serving="1"
)
PENDING = node("pending", reason="too little RAM: it needs 2 MB, 1 are here")


@pytest.mark.parametrize(
    ("shown", "first"),
    [
        (view(READY), "m@2  1 node: 1 ready; all done"),
        (view(READY, PENDING), "m@2  2 nodes: 1 ready, 1 pending; all but 1 done"),
        (view(PENDING), "m@2  1 node: 1 pending"),
        (
            view(READY, COMING, PENDING, eta_s=125.0),
            "m@2  3 nodes: 1 ready, 1 downloading, 1 pending; all but 1 done in 2:05",
        ),
        (
            view(READY, COMING | {"eta_s": None}, eta_s=None),
            "m@2  2 nodes: 1 ready, 1 downloading; when all are done is not known",
        ),
    ],
)
def test_the_first_line_says_how_far_it_is(shown: dict[str, Any], first: str) -> None:
    assert render(shown).splitlines()[0] == first


def test_each_node_has_a_line_and_reasons_may_have_several() -> None:
    failed = node("failed", reason="load failed: 3\n  no memory\x1b[2J\n  bye")
    lines = render(view(READY, COMING, failed)).splitlines()
    assert lines[2].split() == ["NODE", "PEER", "ID", "STATUS", "PROGRESS", "RATE", "LEFT", "WHY"]
    assert lines[3].split() == ["a-ready-one", "…Cz5iHYdBfeSB", "ready", "100%"]
    assert lines[4].split()[2:] == (
        ["downloading", "25%", "3.0", "MiB/s", "2:05", "in", "service", "there:", "1"]
    )
    assert [line.strip() for line in lines[6:]] == ["no memory�[2J", "bye"]


def test_no_room_is_kept_for_a_bar_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(width: int, *nodes: dict[str, Any]) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        return re.sub(r"\x1b\[[0-9;]*m", "", render(view(*nodes))).splitlines()[2:]

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert "━" in lines(90, READY, COMING)[2]
    assert "PROGRESS  RATE" in lines(90, READY)[0]
    # Nor for one at all, where reasons would have a letter or two in each line.
    assert "━" not in lines(60, READY, COMING)[2]


def test_without_a_node_there_is_what_is_here(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (told,) = peatnet(data, "fleet", "--json").json()
    assert told["name"]
    assert told["seen"]
    ran = peatnet(data, "fleet").ok()
    assert "no node is running here" in ran.err
    assert ran.out.splitlines()[0].split()[:3] == ["NAME", "PEER", "ID"]
    peatnet(data, "fleet", "--forget", "nobody").failed(NotFound)
    peatnet(data, "fleet", "--forget", told["name"]).failed(UsageError)
    peatnet(data, "status", "m", "--watch").failed(NotFound)
    model = tmp_path / "m-q8_0.gguf"
    model.write_bytes(os.urandom(1000))
    peatnet(data, "publish", model, "--id", "m").ok()
    ran = peatnet(data, "status", "m", "--watch").ok()
    assert ran.out.startswith("m@1.0.0  1 node: 1 ready; all done\n")
    assert peatnet(data, "status", "m", "--json").json()["counts"]["ready"] == 1


@pytest.mark.parametrize("name", ["", "x" * 65, "two\nlines", " space"])
def test_a_name_is_one_short_line(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    typed = peatnet(data, "up", "--no-mdns", "--name", name).failed(UsageError)
    assert "error: --name: must " in typed.err
    assert not data.exists()
    data.mkdir()
    (data / "config.toml").write_text(f"name = {json.dumps(name)}\n")
    written = peatnet(data, "up", "--no-mdns", "--fetch", "none").failed(ConfigError)
    assert f"error: {data / 'config.toml'}: name: must " in written.err


def test_what_is_typed_stands_in_place_of_what_is_written(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    more = [word for port in range(17) for word in ("--listen", f"/ip4/127.0.0.1/tcp/{port + 1}")]
    (data / "config.toml").write_text("listen = []\n")
    assert "listen: must not be empty" in peatnet(data, "up", *more).failed(ConfigError).err
    (data / "config.toml").write_text("")
    typed = peatnet(data, "up", *more).failed(UsageError)
    assert "error: --listen: must have at most 16 entries" in typed.err


def test_watching_on_a_terminal(nodes: Cluster, tmp_path: Path) -> None:
    one = nodes.up("one", "--name", "the-only-one")
    model = tmp_path / "m-q8_0.gguf"
    model.write_bytes(os.urandom(1000))
    one.run("publish", model, "--id", "m").ok()
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 100))
    env = environment(one.data_dir) | {"TERM": "xterm"}
    del env["COLUMNS"]
    with subprocess.Popen(
        [sys.executable, "-m", "peatnet", "status", "m", "--watch"],
        stdin=end,
        stdout=end,
        stderr=subprocess.PIPE,
        env=env,
    ) as watching:
        os.close(end)
        try:
            assert "m@1.0.0  1 node: 1 ready; all done" in read_until(terminal, "100%")
            one.run("publish", model, "--id", "m", "--version", "2").ok()
            assert "the-only-one" in read_until(terminal, "m@2  1 node: 1 ready")
            watching.send_signal(signal.SIGINT)
            _, err = watching.communicate(timeout=PATIENCE)
        finally:
            watching.kill()
            os.close(terminal)
    assert (watching.returncode, err) == (130, b"")
    one.stop()
