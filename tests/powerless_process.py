"""Runs osamd without the right to pass over permissions, which root has: ``python powerless_process.py serve``."""

import contextlib
import ctypes
import os
import sys

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2

if __name__ == "__main__":
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        # Others do not have it anyway.
        with contextlib.suppress(OSError):
            ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.execv(sys.executable, [sys.executable, "-m", "osamd", *sys.argv[1:]])  # noqa: S606
