"""A terminal that is closed, or a connection to it that breaks, while a command runs there."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from support.nodes import environment, peatnet
from support.terminal import PATIENCE, read_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Has the terminal that is its stdin end it, as a shell's window does, and becomes the command.
ON_A_TERMINAL = """
import fcntl, os, signal, sys, termios

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "peatnet", *sys.argv[2:]])
"""


@contextmanager
def on_a_terminal_closed_after(
    text: str, environ: dict[str, str], how: str, *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A command whose terminal was closed once it had shown a text."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, how, *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        env=environ,
    ) as child:
        os.close(follower)
        try:
            try:
                read_until(leader, text)
            finally:
                os.close(leader)
            yield child
        finally:
            child.kill()


UP = ("up", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0")


def test_a_node_stops_cleanly(data: Path) -> None:
    with on_a_terminal_closed_after("peer_id", environment(data), "plain", *UP) as child:
        assert child.wait(PATIENCE) == 0
    assert not (data / "control.sock").exists()


def test_under_nohup_a_node_goes_on(data: Path) -> None:
    with on_a_terminal_closed_after("peer_id", environment(data), "nohup", *UP) as child:
        assert peatnet(data, "peers", "--json").json() == []
        child.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE) == 0
    assert not (data / "control.sock").exists()


def test_the_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    temp = tmp_path / "temp"
    temp.mkdir()
    environ = environment(tmp_path / "data") | {"TMPDIR": str(temp)}
    demo = ("demo", "--nodes", "1")
    with on_a_terminal_closed_after("fetching", environ, "plain", *demo) as child:
        assert child.wait(PATIENCE) == 130
    assert list(temp.iterdir()) == []
    done = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True)
    assert str(temp) not in done.stdout
