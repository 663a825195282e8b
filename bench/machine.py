"""What a result was measured on: the machine, the versions, and the revision of the code."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ("peatnet", "bench", ":!bench/results", ":!bench/*.md")
"""The paths whose uncommitted changes make a result that of no revision."""
PACKAGES = ("blake3", "cryptography", "iroh", "libp2p", "libtorrent", "trio")


def describe_machine(scratch: Path) -> dict[str, Any]:
    """Hardware and software, without anything that names this very machine."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "file_system": _file_system(scratch),
        "kernel": platform.release().partition("-")[0],  # less the builder's own name for it
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def revision() -> str:
    """The commit that is checked out, with ``-dirty`` where what is measured differs from it."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return "unknown"
    dirty = _git("status", "--porcelain", "--", *MEASURED)
    return f"{commit}-dirty" if dirty else commit


class Bystanders:
    """How much of the machine others use from now on; it tells a busy machine's figures from a quiet one's."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = _busy_s() - _ours_s()

    def share(self) -> float:
        """From 0 to 1, of all cores. Right once our children have ended; the kernel's own threads count as others."""
        used = _busy_s() - _ours_s() - self._before
        whole = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return min(max(used / whole, 0.0), 1.0)


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def _ours_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _git(*arguments: str) -> str | None:
    try:
        ran = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return ran.stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _file_system(path: Path) -> str:
    """The type of the file system that a path is on; on tmpfs, "on disk" means in memory."""
    path = path.resolve()
    mounts = [m for m in psutil.disk_partitions(all=True) if path.is_relative_to(m.mountpoint)]
    return max(mounts, key=lambda m: len(m.mountpoint)).fstype if mounts else "unknown"
