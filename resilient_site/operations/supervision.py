"""Supervision of the programs of `manage.py serve`, which are forked from it.

So Django is loaded once for all of them: they share its memory, and one that ends is
back at once. It is forked again for ever, however it has ended. If this process is
killed outright, the kernel ends the programs (on Linux); while it is suspended, none is
started again.
"""

import ctypes
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

STOP = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT}
PR_SET_PDEATHSIG = 1
# A program that ends as soon as it has started is started so often.
START_EVERY_S = 0.5
# How soon what is due by time is done.
CHECK_S = 0.2


@dataclass
class Program:
    name: str
    run: Callable[[], None]
    stop_s: float  # so long after SIGTERM its process group is killed
    pid: int = 0
    started: float = 0.0


def supervise(programs: Sequence[Program]) -> Callable[[], None] | None:
    """Keep the programs running until a signal, and then wait until they have ended.

    Return None then; in the process of a program, return what it is to run.
    """
    set_name("serve")
    gc.collect()
    gc.freeze()  # the collector then writes to none of the pages that are shared
    # nohup ignores SIGHUP.
    stop = {one for one in STOP if signal.getsignal(one) is not signal.SIG_IGN}
    signal.signal(signal.SIGCHLD, lambda *_: None)  # one that is ignored may not come
    # They are waited for, so that none is missed. A child unblocks them.
    blocked = stop | {signal.SIGCHLD, signal.SIGALRM}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    stopped_at = 0.0
    while True:
        _reap(programs, is_stopping=stopped_at > 0)
        now = time.monotonic()
        for program in programs:
            if program.pid and stopped_at and now > stopped_at + program.stop_s:
                _kill_group(program)
            may_start = not stopped_at and now > program.started + START_EVERY_S
            if not program.pid and may_start and _fork(program, blocked):
                return program.run
        ended = [program for program in programs if not program.pid]
        if stopped_at and len(ended) == len(programs):
            return None
        signal.setitimer(signal.ITIMER_REAL, CHECK_S if stopped_at or ended else 0)
        if signal.sigwait(blocked) in stop and not stopped_at:
            stopped_at = time.monotonic()
            for program in programs:
                if program.pid:
                    os.kill(program.pid, signal.SIGTERM)


def _reap(programs: Sequence[Program], *, is_stopping: bool) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            for program in programs:
                if program.pid == ended[0]:
                    program.pid = 0
                    if not is_stopping:
                        code = os.waitstatus_to_exitcode(ended[1])
                        logger.warning("%s ended (%d): restart.", program.name, code)


def _kill_group(program: Program) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(program.pid, signal.SIGKILL)


def _fork(program: Program, blocked: set[signal.Signals]) -> bool:
    """Start a program; return whether this is its process."""
    program.started, parent = time.monotonic(), os.getpid()
    try:
        program.pid = os.fork()
    except OSError as error:  # no memory or process is left: tried again soon
        logger.error("%s cannot be started: %s", program.name, error)
        return False
    if program.pid:
        return False
    # A group of its own: Ctrl-C in a terminal is for the parent alone.
    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    set_name(program.name)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    end_with(parent)
    return True


def set_name(name: str) -> None:
    """Set the name of this process in `top`, `pgrep` and `ps -o comm`, on Linux."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def end_with(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent ends, on Linux."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the kernel was asked
        signal.raise_signal(signal.SIGTERM)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process, on Linux: see prctl(2)."""
    with suppress(AttributeError):  # on another system
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
