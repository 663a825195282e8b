"""Run by the crash tests in a process of its own, which does not survive.

``points``: carries out one activation again and again, each time in a fork and on a copy of the same disk, and
kills itself just before the n-th call that changes the disk or the database; n rises until the activation ends.
``recover``: opens a disk, finishes what was interrupted, and says how that ended. ``activate``: puts m@2 into service.
With ``deadly``, reading the header of m@2 ends both, as one does that takes all memory.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from activation_kit import Bench

from peatnet.blobs import Database
from peatnet.deploy import activator, headers

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = ("replace", "rename", "link", "symlink", "unlink", "mkdir", "fsync", "fdatasync", "pwrite")
COMMAND = "the command"

# What is in service before (besides what `small` says), the model to go back to, and which models fail.
SCENARIOS: dict[str, tuple[str | None, str | None, set[str]]] = {
    "good": ("m@1", None, set()),
    "first": (None, None, set()),
    "bad": ("m@1", None, {"m@2"}),
    "first-bad": (None, None, {"m@2"}),
    "header": ("m@1", None, set()),
    "named": ("m@1", "m@0", {"m@2"}),
    "named-bad": ("m@1", "m@0", {"m@2", "m@0"}),
    "foreign": ("m@1", "small@1", {"m@2"}),
    "foreign-bad": ("m@1", "small@1", {"m@2", "small@1"}),
    "all-bad": ("m@1", None, {"m@2", "m@1"}),
}
ENDS = {
    "good": "m@2",
    "first": "m@2",
    "bad": "m@1",
    "first-bad": None,
    "header": "m@1",
    "named": "m@0",
    "named-bad": "m@1",
    "foreign": "small@1",
    "foreign-bad": "m@1",
    "all-bad": "m@1",
}
"""What is in service after each."""


def prepare(name: str, root: Path) -> None:
    """The disk before the activation."""
    before, _, bad = SCENARIOS[name]
    bench = Bench(root)
    for each in ("m@0", "m@1", "small@1"):
        bench.model(each)
    if before is not None:
        trio.run(bench.activator.activate, bench.model(before))
    for each in bad:
        bench.verdict(each, "exit 1")
    bench.close()


async def work(name: str, bench: Bench) -> None:
    """The activation."""
    new = bench.model("m@2", b"GGUF broken" if name == "header" else None)
    rollback = SCENARIOS[name][1]
    other = None if rollback is None else bench.model(rollback)
    die_at(LIMIT[0])
    await bench.activator.activate(new, other, command=COMMAND)


LIMIT = [0]


def die_at(limit: int) -> None:
    """From now on, die just before the ``limit``-th call that changes the disk or the database."""
    count = 0

    def wrap(real: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += counts(*args)
            if count == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name), lambda *_: True))
    writes = ("INSERT", "UPDATE", "DELETE", "COMMIT")
    execute = wrap(Database.execute, lambda _self, sql, *_: sql.startswith(writes))
    Database.execute = execute  # type: ignore[method-assign]  # that is how it dies


def try_all_points(name: str, root: Path) -> None:
    origin = root / "origin"
    prepare(name, origin)
    for limit in range(1, 200):
        disk = shutil.copytree(origin, root / f"{limit:03}", symlinks=True)
        child = os.fork()
        if child == 0:
            LIMIT[0] = limit
            trio.run(work, name, Bench(disk))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            sys.stdout.write(f"{limit}\n")
            return
        if not os.WIFSIGNALED(status):
            sys.exit(f"{name} at {limit}: status {status}")
    sys.exit(f"{name} never ends")


def recover(root: Path) -> None:
    bench = Bench(root)
    for outcome in trio.run(bench.activator.recover):
        sys.stdout.write(f"{outcome.status} {outcome.in_service} {outcome.reason}\n")
    bench.close()


def make_deadly(root: Path) -> None:
    real = headers.check_header
    deadly = (root / "models" / "m" / "m-2-q4_k_m.gguf").stat().st_ino

    def check(path: Path, model_format: str) -> None:
        with (root / "read").open("a") as read:
            read.write(f"{path.name}\n")
        if path.stat().st_ino == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, model_format)

    activator.check_header = check  # type: ignore[attr-defined]  # that is how it dies


if __name__ == "__main__":
    if sys.argv[-1] == "deadly":
        make_deadly(Path(sys.argv[2]))
    if sys.argv[1] == "points":
        try_all_points(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1] == "recover":
        recover(Path(sys.argv[2]))
    else:
        bench = Bench(Path(sys.argv[2]))
        trio.run(bench.activator.activate, bench.model("m@2"))
        bench.close()
