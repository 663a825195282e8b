"""`peatnet` with faults built in: a node that is slow, counts what it serves, or lies.

Run as a program in place of `-m peatnet`; everything but the faults is the real thing, so that it takes part
in the network as any node does. The environment variable ROGUE holds a JSON object:

    served      path; each chunk that is read for a peer is noted there, as one index a line, before it is sent
    delay       seconds that each chunk takes
    corrupt     [index, ...] or "all": a bit of these chunks is flipped on their way out
    freeze_at   chunks after which nothing is served any more, until the file `thaw` (a path) exists
    lie         {field: value}: `publish` signs these values in place of the true ones; "table_hash" is one
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from peatnet.blobs import Reader
from peatnet.cli import main
from peatnet.models import ModelManifest


def _spoil_reader(faults: dict[str, Any]) -> None:
    real = Reader.read_into
    lock = threading.Lock()
    count = 0

    def read_into(self: Reader, index: int, buffer: memoryview) -> int:
        nonlocal count
        with lock:
            count += 1
            mine = count
            if "served" in faults:
                with Path(faults["served"]).open("a") as file:
                    file.write(f"{index}\n")
        while mine > faults.get("freeze_at", sys.maxsize) and not Path(faults["thaw"]).exists():
            time.sleep(0.02)
        time.sleep(faults.get("delay", 0))
        length = real(self, index, buffer)
        corrupt = faults.get("corrupt", [])
        if corrupt == "all" or index in corrupt:
            buffer[length // 2] ^= 1
        return length

    Reader.read_into = read_into  # type: ignore[method-assign]  # the fault that this program is for


def _spoil_manifest(lies: dict[str, Any]) -> None:
    real = ModelManifest.with_blob

    def with_blob(self: ModelManifest, **truth: Any) -> ModelManifest:
        return real(self, **(truth | lies))

    ModelManifest.with_blob = with_blob  # type: ignore[method-assign, assignment]  # as above


if __name__ == "__main__":
    rogue: dict[str, Any] = json.loads(os.environ["ROGUE"])
    _spoil_reader(rogue)
    if "lie" in rogue:
        _spoil_manifest(rogue["lie"])
    sys.exit(main())
