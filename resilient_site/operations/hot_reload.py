"""How a new gunicorn takes over from the one that started it, and no request is lost.

SIGUSR2 has gunicorn start another master, with the code of today, on the same socket.
When one of its processes accepts connections, systemd is told of it and the old one is
stopped. If it fails before that, the old one goes on as if nothing had been.
"""

import logging
import os
import signal
from contextlib import suppress

from gunicorn import systemd

logger = logging.getLogger(__name__)


def relieve_predecessor() -> None:
    """Stop the master that started ours, if one did. In a process that accepts."""
    # Gunicorn's own, and gone as soon as the old master is.
    predecessor = os.environ.get("GUNICORN_PID")
    if predecessor is None:
        return
    systemd.sd_notify(f"MAINPID={os.getppid()}", logger)
    with suppress(ProcessLookupError):
        os.kill(int(predecessor), signal.SIGTERM)
