"""A server over HTTP with a handler of the test's own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.private_server import LOOPBACK


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Log nothing."""


@contextmanager
def serving(handler: type[Handler], **state: Any) -> Iterator[ThreadingHTTPServer]:
    """Serve with this handler, which has the server with this state as `server`."""
    with ThreadingHTTPServer((LOOPBACK, 0), handler) as server:
        vars(server).update(state)
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
