"""Run a command as a child, and end it at a signal; `python -IS hold.py COMMAND ...`.

`manage.py serve` becomes this, so that what waits for the end of the site is a small
interpreter, not one with all of Django: that is a third of the memory of an idle site.
The child has a process group of its own, as supervisord takes SIGHUP for a restart, and
standard input, which is closed here: it is the socket of the site.
"""

import os
import signal
import sys
from contextlib import suppress

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)


def main(command: list[str]) -> int:
    # Until there are handlers a signal would end this process alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # If it was ignored by who started this, a child leaves no status to wait for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not (child := os.fork()):
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.execv(command[0], command)  # noqa: S606 - what serve gives
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)

    def stop(number: int, frame: object) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(child, signal.SIGTERM)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code  # as a shell has it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
