"""What the sinks among these programs share: when the clock starts and when it stops, the same for all of them.

A sink says that it is ready, waits for a line, takes the file, and prints one JSON object. The clock starts with that
line and stops when the file is complete, verified by the program's own means, in its place, and synced to disk.
peatnet syncs what it fetches before it says that it is there; where a program does not, that is done here, inside
of the time, and ``sync_s`` says how much of it that took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def wait_for_go(ready: object = "ready") -> tuple[float, str]:
    """Say that all is prepared and wait to be told to begin; returns when that was, and what was said."""
    print(ready, flush=True)
    said = sys.stdin.readline()
    return time.perf_counter(), said


def finish(began: float, file: Path, **extras: float) -> None:
    """Sync what was fetched, tell how long all took, and wait to be ended, so that we can be asked what we used.

    Args:
        began: when the time starts.
        file: what was fetched; complete and verified by now. For a directory, all that was written is synced.
        extras: what else is to be told.
    """
    before = time.perf_counter()
    if file.is_dir():
        os.sync()
    else:
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    now = time.perf_counter()
    print(json.dumps({"seconds": now - began, "sync_s": now - before, **extras}), flush=True)
    sys.stdin.readline()
