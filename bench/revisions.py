"""What a change did to one transfer: the code as it is here and as another revision has it, in turns.

The speed of a machine that is shared changes within minutes, so two runs of a bench, one before a change and one after it,
say little. Here both revisions run in the same rounds.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from common import GIB, Bench, Opener, Run, Sample, Unavailable, main
from processes import ROOT, code_of
from rival_rows import RIVAL_ROWS
from throughput import COLUMNS, peatnet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from common import Job

OTHER = os.environ.get("REVISION", "HEAD")
"""What is compared with, and the name of its row: anything that git knows a commit by. HEAD shows what is not committed."""


def elsewhere(opener: Opener) -> Opener:
    """The same row with the other revision's code, taken out of git, and stores of its own."""

    @contextmanager
    def open_row(job: Job) -> Iterator[Run]:
        root = job.scratch / "other-revision"
        scratch = root / "scratch"
        if not root.exists():
            _unpack(root)
            scratch.mkdir()
        with ExitStack() as stack:
            with code_of(root):
                run = stack.enter_context(opener(replace(job, scratch=scratch)))

            def there() -> Sample:
                with code_of(root):
                    return run()

            yield there

    return open_row


def _unpack(root: Path) -> None:
    command = ["git", "archive", "--format=tar", OTHER, "peatnet"]
    packed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if packed.returncode != 0:
        reason = packed.stderr.decode(errors="replace").strip()
        raise Unavailable(f"no revision {OTHER!r} (set REVISION): {reason}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(root, filter="data")


LANE, CHECKED = peatnet(lane=True, sha256=False), peatnet(lane=True, sha256=True)

BENCH = Bench(
    name="revisions",
    about="One file, one source, one sink: this code beside that of $REVISION (HEAD).",
    unit="MB/s",
    size=GIB,
    rows={
        "here": LANE,
        OTHER: elsewhere(LANE),
        "here-sha256": CHECKED,
        f"{OTHER}-sha256": elsewhere(CHECKED),
        "bare-loop": RIVAL_ROWS["bare-loop"],
    },
    ratios=[("here", OTHER), ("here-sha256", f"{OTHER}-sha256"), ("here", "bare-loop")],
    columns=COLUMNS,
)

if __name__ == "__main__":
    main(BENCH)
