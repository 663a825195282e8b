"""What a program shows on a terminal."""

from __future__ import annotations

import os
import re
import select
import time

PATIENCE = 30.0


def read_until(terminal: int, text: str) -> str:
    """What a terminal shows until this text has come, without what steers it."""
    seen, end = b"", time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if select.select([terminal], [], [], 1.0)[0]:
            seen += os.read(terminal, 65536)
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))
        if text in plain:
            return plain
    raise AssertionError(f"{text!r} did not come: {seen!r}")
