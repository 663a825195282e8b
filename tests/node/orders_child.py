"""Run by the crash tests of update commands in a process of its own, which does not survive.

Carries out one command again and again, each time in a fork and on a copy of the same disk, and kills itself just before
the n-th call that changes the disk or the database; n rises, in steps, until the command ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from node.orders_kit import command_of, file_of, manifest_text, orders, record
from peatnet.blobs import Database

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = ("replace", "rename", "link", "symlink", "unlink", "mkdir", "fsync", "fdatasync", "pwrite")
MOST = 400


def records(root: Path, *names: str) -> list[bytes]:
    return [record(manifest_text(file_of(root, name), name)) for name in names]


async def prepare(root: Path) -> None:
    """The first version is in service; the command for the second one has been heard, and nothing done."""
    one, two = (manifest_text(file_of(root, name), name) for name in ("m@1", "m@2"))
    async with orders(root, "m@1") as here:
        await here.hear(record(one), record(two), command_of(one, 1))
        await here.wait("command-1", "done")
        await here.world.library.ledger.take([command_of(two, 2)])


async def work(root: Path, limit: int) -> None:
    die_at(limit)
    async with orders(root, "m@2") as here:
        await here.wait("command-2", "done")


def die_at(limit: int) -> None:
    """From now on, die just before the ``limit``-th call that changes the disk or the database."""
    count = 0

    def wrap(real: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += counts(*args)
            if count >= limit:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name), lambda *_: True))
    writes = ("INSERT", "UPDATE", "DELETE", "COMMIT")
    execute = wrap(Database.execute, lambda _self, sql, *_: sql.startswith(writes))
    Database.execute = execute  # type: ignore[method-assign]  # that is how it dies


def try_points(root: Path, first: int, step: int) -> None:
    origin = root / "origin"
    trio.run(prepare, origin)
    for limit in range(first, MOST, step):
        disk = shutil.copytree(origin, root / f"{limit:03}", symlinks=True)
        child = os.fork()
        if child == 0:
            trio.run(work, disk, limit)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            sys.stdout.write(f"{limit}\n")
            return
        if not os.WIFSIGNALED(status):
            sys.exit(f"at {limit}: status {status}")
    sys.exit("it never ends")


if __name__ == "__main__":
    try_points(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
