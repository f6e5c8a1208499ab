"""Minimal HTTP/1.1 client in asyncio, with a pool of connections."""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import httptools

HOST = "127.0.0.1"
CONNECTIONS_MAX = 2_000


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # by name in lower case
    body: bytes


class ConnectionClosed(OSError):
    """The connection closed before the response."""


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    # Whether it has been kept open after a response.
    is_kept = False
    _answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    async def send(self, request: bytes) -> Answer:
        """Raise ConnectionClosed if it closes before the response."""
        self.is_silent = True  # no byte of the response has been received
        if self.transport.is_closing():
            raise ConnectionClosed
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.transport.abort()  # no request is pending
            return
        self.is_silent = False
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionClosed())

    # --- callbacks of the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self.is_kept = self._parser.should_keep_alive()
        if not self.is_kept:
            self.transport.close()
        if not self._answer.done():
            body = b"".join(self._pieces)
            self._answer.set_result(Answer(status, self._headers, body))


class Connections:
    """Pool of connections to a port, of this machine unless `host` is given."""

    def __init__(self, port: int, host: str = HOST) -> None:
        self.host, self.port = host, port
        self._idle: list[Connection] = []
        self._in_use = 0

    async def send(self, request: bytes, is_safe: bool = False) -> Answer:
        """Send a request on an idle connection, or on a new one.

        Raises OSError. A request that is safe to repeat (`is_safe`) is sent again if an
        idle connection turns out to be closed, as browsers do.
        """
        if self._in_use >= CONNECTIONS_MAX:
            raise OSError("There are too many connections.")
        self._in_use += 1
        try:
            while True:
                connection = await self._connection()
                was_kept = connection.is_kept
                try:
                    answer = await connection.send(request)
                except ConnectionClosed:
                    if not (was_kept and connection.is_silent and is_safe):
                        raise
                except BaseException:
                    connection.transport.abort()
                    raise
                else:
                    if connection.is_kept:
                        self._idle.append(connection)
                    return answer
        finally:
            self._in_use -= 1

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, self.host, self.port))[1]

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.abort()


def request_bytes(
    method: str,
    target: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    fields = {"Host": HOST, **(headers or {})}
    if method not in ("GET", "HEAD"):
        fields |= {"Content-Length": str(len(body)), "Content-Type": "application/json"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body
