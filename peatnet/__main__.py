"""``python -m peatnet``, and the ``peatnet`` command."""

from __future__ import annotations

import sys

from peatnet.ending import end_at_once_when_told, is_up


def main() -> int:
    """Run the command that ``sys.argv`` holds; returns its exit code."""
    if is_up(sys.argv[1:]):
        end_at_once_when_told()
    from peatnet.cli import main as run  # noqa: PLC0415  # takes a while, in which it may be told to end

    return run()


if __name__ == "__main__":
    sys.exit(main())
