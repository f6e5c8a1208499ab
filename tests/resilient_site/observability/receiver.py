"""A server in place of Sentry and of an OpenTelemetry collector."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event
from types import SimpleNamespace

import brotli

from tests.stub_server import Handler, serving

UNPACK = {"br": brotli.decompress, "gzip": gzip.decompress, None: bytes}


@contextmanager
def receiving() -> Iterator[SimpleNamespace]:
    """An HTTP server with `port` and `bodies`, a queue of what is posted to it.

    It responds as long as `responds` is set.
    """
    bodies: SimpleQueue[bytes] = SimpleQueue()
    responds = Event()
    responds.set()

    class Receiver(Handler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            responds.wait()
            bodies.put(UNPACK[self.headers["Content-Encoding"]](body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving(Receiver) as server:
        try:
            yield SimpleNamespace(
                port=server.server_port, bodies=bodies, responds=responds
            )
        finally:
            responds.set()
