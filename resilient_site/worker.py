"""The gunicorn worker: Uvicorn's, with a quick stop that is one."""

import signal
from types import FrameType

from uvicorn_worker import UvicornWorker


class Worker(UvicornWorker):  # type: ignore[misc]
    CONFIG_KWARGS = {"loop": "uvloop", "http": "httptools", "server_header": False}

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Pass gunicorn's SIGQUIT on, which Uvicorn's server does not know."""
        signal.raise_signal(signal.SIGINT)
