"""Runs `peatnet` without root's right to ignore file modes, so that they can be tested as root, too.

The two capabilities are dropped from the bounding set, which takes effect at exec (capabilities(7)). For an
ordinary user this changes nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2

if __name__ == "__main__":
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    os.execv(sys.executable, [sys.executable, "-m", "peatnet", *sys.argv[1:]])
