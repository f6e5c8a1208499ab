"""What keeps the web and compute processes of `manage.py serve` alive: supervisord.

deploy/supervisord.conf says what is run. A program that ends is started again within a
second or two, for ever. If this process is killed outright, the kernel tells both
programs to stop; while it is paused (SIGSTOP) nothing is restarted.

Supervisord is made for daemons. For the foreground it is taught here to leave no file
behind, to keep its hands off the output, and to end the site when a terminal closes.
"""

import json
import os
import select
import signal
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from supervisor import events, loggers, poller  # type: ignore[import-untyped]
from supervisor.medusa import asyncore_25  # type: ignore[import-untyped]
from supervisor.options import ServerOptions  # type: ignore[import-untyped]
from supervisor.states import SupervisorStates  # type: ignore[import-untyped]
from supervisor.supervisord import Supervisor  # type: ignore[import-untyped]

from resilient_site.operations import parent_death

# The listening socket, which stays open while the web processes are restarted: clients
# wait and are not refused.
SOCKET_FD = 3
# Supervisord looks once a second, which would double the time of a restart.
LOOK_EVERY_S = 0.2
# A program that ends soon after its start waits 1 second, then 2, and no longer.
BACKOFF_MAX = 1


class Poller(poller.Poller):  # type: ignore[misc]
    def poll(self, timeout: float) -> Any:
        return super().poll(LOOK_EVERY_S)


class StandardError(loggers.Handler):  # type: ignore[misc]
    def emit(self, record: Any) -> None:
        told = record.asdict()
        line = "{asctime} {levelname} supervisor {message}\n".format(**told)
        if os.environ.get("LOG_FORMAT") == "json":
            fields = {
                "event": told["message"],
                "level": told["levelname"].lower(),
                "logger": "supervisor",
                "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
                "process": os.getpid(),
            }
            line = f"{json.dumps(fields)}\n"
        with suppress(OSError):  # nobody reads it any more
            os.write(2, line.encode())


class Options(ServerOptions):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.poller = Poller(self)
        self.pid = os.getpid()

    def write_pidfile(self) -> None:
        """Leave no file in the working directory."""

    def make_logger(self) -> None:
        super().make_logger()
        self.logger.addHandler(StandardError())

    def make_pipes(self, stderr: bool = True) -> dict[str, int | None]:
        """Give a program this process's own output, not a pipe to be emptied here."""
        return {
            "child_stdin": os.open(os.devnull, os.O_RDONLY),
            "child_stdout": duplicate(1),
            "child_stderr": duplicate(2),
            "stdin": None,
            "stdout": None,
            "stderr": None,
        }

    def setpgrp(self) -> None:
        """The first thing a new program's process does, before its exec."""
        super().setpgrp()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        parent_death.end_with(self.pid, signal.SIGTERM)

    def setsignals(self) -> None:
        hangup = signal.getsignal(signal.SIGHUP)
        super().setsignals()
        if hangup is signal.SIG_IGN:  # started by nohup
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        events.subscribe(events.ProcessStateBackoffEvent, limit_backoff)
        events.subscribe(events.SupervisorStoppingEvent, refuse_clients)

    def get_signal(self) -> int | None:
        signum: int | None = super().get_signal()
        if signum == signal.SIGHUP:
            return signal.SIGTERM  # a closed terminal; supervisord's own is a restart
        if signum == signal.SIGINT and self.mood < SupervisorStates.RUNNING:
            # Ctrl-C once more: the programs know it as a reason to wait for nobody.
            # Their processes too: gunicorn's master, once it stops, passes nothing on.
            for pid in self.pidhistory:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signum)
        return signum


def duplicate(output: int) -> int:
    """Duplicate the descriptor, or open the void if nobody reads it any more.

    A program that cannot even say that it starts would end again at once.
    """
    poll = select.poll()
    poll.register(output, 0)  # what is asked for here is reported unasked
    if any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0)):
        return os.open(os.devnull, os.O_WRONLY)
    return os.dup(output)


def limit_backoff(event: Any) -> None:
    event.process.backoff = min(event.process.backoff, BACKOFF_MAX)


def refuse_clients(event: Any) -> None:
    os.close(SOCKET_FD)


def main() -> None:
    options = Options()
    options.realize(doc=__doc__)
    options.first, options.test = True, False
    with suppress(asyncore_25.ExitNow):
        Supervisor(options).main()


if __name__ == "__main__":
    main()
