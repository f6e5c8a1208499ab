"""Ends a process with its parent, however that ends: the kernel sends the signal.

Only Linux can do it. Elsewhere a process outlives a parent that is killed outright.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with(parent: int, signum: signal.Signals) -> None:
    """Send this process the signal as soon as its parent has gone.

    The kernel takes the thread that forked for the parent: fork in the main one. An
    exec keeps this, a fork does not.
    """
    if _libc is None:
        return
    _libc.prctl(PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # it went before the kernel was asked
        os.kill(os.getpid(), signum)
