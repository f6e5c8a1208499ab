"""A server in place of Sentry and of an OpenTelemetry collector."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from threading import Event, Thread
from types import SimpleNamespace

import brotli

UNPACK = {"br": brotli.decompress, "gzip": gzip.decompress, None: bytes}


@contextmanager
def receiving() -> Iterator[SimpleNamespace]:
    """An HTTP server with `port` and `bodies`, a queue of what is posted to it.

    It responds as long as `responds` is set.
    """
    bodies: SimpleQueue[bytes] = SimpleQueue()
    responds = Event()
    responds.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            responds.wait()
            bodies.put(UNPACK[self.headers["Content-Encoding"]](body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield SimpleNamespace(
                port=server.server_port, bodies=bodies, responds=responds
            )
        finally:
            responds.set()
            server.shutdown()
            thread.join()
