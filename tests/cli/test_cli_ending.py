"""`peatnet up` that is told to end before its node runs."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.nodes import environment

if TYPE_CHECKING:
    from pathlib import Path

# The command, told to end by the system at the moment when it first imports a certain module.
TOLD = """
import os, sys

name, number = sys.argv[1], int(sys.argv[2])

class Teller:
    def find_spec(self, wanted, *_):
        if wanted == name:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Teller())
sys.argv = ["peatnet", "up", "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns"]
from peatnet.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["trio", "peatnet.node", "libp2p"])
def test_a_node_that_is_told_to_end_while_it_starts(
    data: Path, module: str, number: signal.Signals
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOLD, module, str(int(number))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(data),
    )
    assert (done.returncode, done.stdout) == (0, ""), done
    assert "Traceback" not in done.stderr
