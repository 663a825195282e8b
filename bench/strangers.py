"""What a hostile machine can make a node do.

CPU of a node to which a stranger sends, as fast as it can, what costs next to nothing to send.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from common import Bench, Job, Run, Sample, main
from nodes import ON_DEMAND, node
from processes import running
from stranger import CROWD, FRAMES, KNOCKS, RPCS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common import Opener

STRANGER = Path(__file__).with_name("stranger.py")
SETTLE = 3.0
"""Until what it may do at once is used up."""
WATCH = 5.0


def beside(kind: str) -> Opener:
    """How to open the row of one kind of stranger."""

    @contextmanager
    def open_row(job: Job) -> Iterator[Run]:
        def run() -> Sample:
            with (
                TemporaryDirectory(dir=job.scratch) as name,
                node(Path(name) / "node", job.scratch, options=ON_DEMAND) as here,
                running([STRANGER, kind, here.address], job.scratch) as stranger,
            ):
                stranger.read_line()
                time.sleep(SETTLE)

                def seen() -> tuple[float, float, int, float]:
                    stranger.write_line("")
                    used = here.child.usage().cpu_s, stranger.usage().cpu_s
                    return (*used, int(stranger.read_line()), time.monotonic())

                before = seen()
                time.sleep(WATCH)
                node_s, stranger_s, sent, seconds = (
                    now - then for then, now in zip(before, seen(), strict=True)
                )
                return Sample(
                    100 * node_s / seconds,
                    {
                        "stranger_percent": 100 * stranger_s / seconds,
                        "mb_s": sent / seconds / 1e6,
                        "rss_mib": here.child.usage().rss_mib,
                    },
                )

        yield run

    return open_row


BENCH = Bench(
    name="strangers",
    about="CPU of a node that a hostile machine talks to, in percent of one core; less is better.",
    unit="%",
    size=1,
    rows={kind: beside(kind) for kind in (*FRAMES, *RPCS, CROWD, KNOCKS)},
    columns={"stranger_percent": "stranger %", "mb_s": "MB/s", "rss_mib": "MiB"},
    rounds=3,
)

if __name__ == "__main__":
    main(BENCH)
