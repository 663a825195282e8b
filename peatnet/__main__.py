"""``python -m peatnet``: the same as the ``peatnet`` command."""

from __future__ import annotations

import sys

from peatnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
