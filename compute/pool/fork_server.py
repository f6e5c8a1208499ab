"""Fork server of multiprocessing, forked from the supervisor instead of started anew.

It shares the supervisor's memory and need not load Django once more. If it is killed,
multiprocessing starts one in its own way, which lacks nothing but that.
"""

import os
import socket
import sys
from multiprocessing import connection, forkserver
from typing import Any

PRELOAD = "compute.pool.preload"


def start() -> None:
    """Fork it. To be called before this process has any thread."""
    if sys.version_info >= (3, 14):
        return  # there it has a key as well; multiprocessing starts it when needed
    address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
    # Its end of the pipe tells it that all that use it have ended.
    ended, alive = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        os.chmod(address, 0o600)
        listener.listen()
        pid = os.fork()
        if not pid:
            os.close(alive)
            _run(listener.detach(), ended)
    os.close(ended)
    server: Any = forkserver._forkserver
    server._forkserver_address = address
    server._forkserver_alive_fd = alive
    server._forkserver_pid = pid


def _run(listener: int, ended: int) -> None:
    try:
        forkserver.main(listener, ended, [PRELOAD])
    except SystemExit:
        os._exit(0)  # what the supervisor does at its end is not for this one
