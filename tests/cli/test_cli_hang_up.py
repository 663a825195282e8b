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

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 60
# Has the terminal that is its stdin end it, as a shell's window does, and becomes the command.
ON_A_TERMINAL = """
import fcntl, os, signal, sys, termios

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "peatnet", *sys.argv[2:]])
"""


class Terminal:
    """A command's terminal."""

    def __init__(self, leader: int, child: subprocess.Popen[bytes]) -> None:
        self._leader = leader
        self.child = child

    def read_until(self, words: str) -> None:
        """Until the command has printed that; it ends, or its test's time is up, where it never does."""
        shown = b""
        while words.encode() not in shown:
            shown += os.read(self._leader, 65536)

    def close(self) -> None:
        """Close it, once."""
        if self._leader >= 0:
            os.close(self._leader)
        self._leader = -1


@contextmanager
def on_a_terminal(environ: dict[str, str], how: str, *arguments: str) -> Iterator[Terminal]:
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
        terminal = Terminal(leader, child)
        try:
            yield terminal
        finally:
            terminal.close()
            child.kill()


UP = ("up", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0")


def test_a_node_stops_cleanly(data: Path) -> None:
    with on_a_terminal(environment(data), "plain", *UP) as terminal:
        terminal.read_until("peer_id")
        terminal.close()
        assert terminal.child.wait(PATIENCE) == 0
    assert not (data / "control.sock").exists()


def test_under_nohup_a_node_goes_on(data: Path) -> None:
    with on_a_terminal(environment(data), "nohup", *UP) as terminal:
        terminal.read_until("peer_id")
        terminal.close()
        assert peatnet(data, "peers", "--json").json() == []
        terminal.child.send_signal(signal.SIGTERM)
        assert terminal.child.wait(PATIENCE) == 0
    assert not (data / "control.sock").exists()


def test_the_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    temp = tmp_path / "temp"
    temp.mkdir()
    environ = environment(tmp_path / "data") | {"TMPDIR": str(temp)}
    with on_a_terminal(environ, "plain", "demo", "--nodes", "1") as terminal:
        terminal.read_until("fetching")
        terminal.close()
        assert terminal.child.wait(PATIENCE) == 130
    assert list(temp.iterdir()) == []
    done = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True)
    assert str(temp) not in done.stdout
