"""Two scripted web processes, which record the requests that they get."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEEP = "public, s-maxage=1, stale-while-revalidate=1, stale-if-error=86400"
# Longer than a test takes.
KEEP_LONG = "public, s-maxage=3600"


class Scripted(ThreadingHTTPServer):
    """The response depends on the path."""

    daemon_threads = True
    request_queue_size = 64  # more than a test sends at once
    # A handler may be waiting for the end of the test.
    block_on_close = False

    def __init__(self, requests: list[tuple[str, str]], release: threading.Event):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.release = requests, release


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def answer(self) -> None:
        self.server.requests.append((self.command, self.path))
        if self.path == "/api/unread":
            self.send(413, b"unread")
            return
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/break":
            self.close_connection = True
        elif self.path.endswith("/events"):
            self.stream()
        elif self.path.startswith("/busy"):
            self.send(503, b"busy")
        elif self.path.startswith("/origin"):
            self.send(200, self.headers.get("Origin", "").encode(), KEEP_LONG, "Origin")
        elif self.path.startswith("/kept"):
            self.send(200, b"here", KEEP_LONG)
        elif self.path == "/deletable":
            is_deleted = ("DELETE", self.path) in self.server.requests
            self.send(404, b"gone") if is_deleted else self.send(200, b"here", KEEP)
        else:
            headers = json.dumps(dict(self.headers.items())).encode()
            self.send(200, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

    def send(
        self, status: int, body: bytes, cache: str = "no-store", vary: str = ""
    ) -> None:
        self.send_response(status)
        if vary:
            self.send_header("Vary", vary)
        self.send_header("Cache-Control", cache)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"data: first\n\n")
        self.server.release.wait(60)
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def scripted() -> Iterator[tuple[list[int], list[tuple[str, str]]]]:
    """Yield their ports, and the requests that they got."""
    requests: list[tuple[str, str]] = []
    release = threading.Event()
    servers = [Scripted(requests, release) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield [server.server_address[1] for server in servers], requests
    finally:
        release.set()
        for server in servers:
            server.shutdown()
            server.server_close()
