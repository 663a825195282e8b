"""Commands that reach a node: this machine's running one, or others', from a directory where none runs."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from support.nodes import Cluster, environment, finish, peatnet
from support.terminal import PATIENCE, read_until

from peatnet.errors import NotFound

if TYPE_CHECKING:
    from pathlib import Path


def test_get_without_a_node_and_control_c_with_one(nodes: Cluster, tmp_path: Path) -> None:
    model = tmp_path / "m-q8_0.gguf"
    model.write_bytes(os.urandom(3_000_000))
    seed = nodes.up("seed", "--fetch", "none")
    manifest = seed.json("publish", model, "--id", "m")

    # No node runs here: the command joins the network for as long as the model takes.
    alone = tmp_path / "alone"
    alone.mkdir()
    settings = f"peers = [{json.dumps(seed.addr)}]\nmdns = false\ngive_up_after_s = 10\n"
    (alone / "config.toml").write_text(settings)
    got = peatnet(alone, "get", "m", "--json").json()
    assert got["blob_hash"] == manifest["blob_hash"]
    assert got["bytes_by_source"] == {f"peer:{seed.peer_id}": 3_000_000}
    assert peatnet(alone, "get", "m", "--json").json()["bytes_by_source"] == {}
    (alone / "config.toml").write_text(settings.replace("= 10", "= 0.5"))
    peatnet(alone, "get", "nosuch").failed(NotFound)

    # A node runs: Ctrl-C ends what the command has asked it for, and nothing else.
    nowhere = "ab" * 32
    with subprocess.Popen(
        [sys.executable, "-m", "peatnet", "get", nowhere],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(seed.data_dir),
        text=True,
    ) as waiting:
        try:
            seed.wait_log(nowhere)
            waiting.send_signal(signal.SIGINT)
            out, err = waiting.communicate(timeout=30)
        finally:
            waiting.kill()
    assert (waiting.returncode, out, err) == (130, "", "")
    seed.stop()
    assert "Traceback" not in seed.log()
    assert "[error" not in seed.log()


def test_a_node_that_does_not_answer_is_told_of_on_a_terminal(nodes: Cluster) -> None:
    one = nodes.up("one")
    terminal, end = pty.openpty()
    one.signal(signal.SIGSTOP)
    piped = one.start("models")
    with subprocess.Popen(
        [sys.executable, "-m", "peatnet", "models"],
        stdin=end,
        stdout=subprocess.PIPE,
        stderr=end,
        env=environment(one.data_dir),
    ) as asking:
        os.close(end)
        try:
            read_until(terminal, "the node has not answered yet; it is waited for up to 30 s")
            one.signal(signal.SIGCONT)
            out, _ = asking.communicate(timeout=PATIENCE)
            said = read_until(terminal, "no models yet")
        finally:
            asking.kill()
            one.signal(signal.SIGCONT)
            os.close(terminal)
    assert (asking.returncode, out) == (0, b"")
    assert "not answered" not in said
    ran = finish(piped)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith("no models yet")
    one.stop()
