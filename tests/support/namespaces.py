"""Network namespaces, as tests of the benchmarks' networks see them, and programs that run in them."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def namespaces() -> list[str]:
    """The names of all that there are."""
    ran = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in ran.stdout.splitlines()]


def own_namespaces() -> list[str]:
    """Those that this process made: tests beside this one have theirs."""
    return [name for name in namespaces() if f"-{os.getpid()}-" in name]


@contextmanager
def program(arguments: list[str], **kwargs: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that has ended when the context is left."""
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, **kwargs) as process:
        try:
            yield process
        finally:
            process.kill()
