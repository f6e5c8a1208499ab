"""Minimal HTTP/1.1 client in asyncio, with a pool of connections."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import NamedTuple, Self, cast
from urllib.parse import urlsplit

import httptools


class Address(NamedTuple):
    host: str
    port: int
    is_secure: bool = False

    @classmethod
    def of(cls, url: str) -> Self:
        parts = urlsplit(url)
        is_secure = parts.scheme == "https"
        port = parts.port or (443 if is_secure else 80)
        return cls(parts.hostname or "127.0.0.1", port, is_secure)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # by name in lower case
    body: bytes


class ConnectionClosed(OSError):
    """The connection closed before the response; `was_silent`: before any byte."""

    def __init__(self, was_silent: bool) -> None:
        super().__init__("The connection was closed.")
        self.was_silent = was_silent


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self.is_kept = False
        self._answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    async def ask(self, request: bytes) -> Answer:
        """Raise ConnectionClosed if it closes before the response."""
        if self.transport.is_closing():
            raise ConnectionClosed(was_silent=True)
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._is_silent = True
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.transport.abort()  # no request is pending
            return
        self._is_silent = False
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionClosed(self._is_silent))

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
        if self._answer and not self._answer.done():
            body = b"".join(self._pieces)
            self._answer.set_result(Answer(status, self._headers, body))


class Connections:
    """Pool of up to `most` connections to one address."""

    def __init__(self, address: Address, most: int = 1_000) -> None:
        self.address, self.most = address, most
        self._idle: list[Connection] = []
        self._open = 0

    async def ask(self, request: bytes, is_safe: bool = False) -> Answer:
        """Send a request on an idle connection, or on a new one.

        Raises OSError. A request that is safe to repeat (`is_safe`) is sent again if an
        idle connection turns out to be closed, as browsers do.
        """
        while True:
            connection = await self._connection()
            was_kept = connection.is_kept
            try:
                return await self._by(connection, request)
            except ConnectionClosed as closed:
                if not (is_safe and was_kept and closed.was_silent):
                    raise

    async def _by(self, connection: Connection, request: bytes) -> Answer:
        try:
            return await connection.ask(request)
        except BaseException:
            connection.transport.abort()
            raise
        finally:
            if connection.transport.is_closing():
                self._open -= 1
            else:
                self._idle.append(connection)

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
            self._open -= 1
        if self._open >= self.most:
            raise OSError("There are too many connections.")
        self._open += 1
        try:
            host, port, is_secure = self.address
            context = ssl.create_default_context() if is_secure else None
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(
                Connection, host, port, ssl=context
            )
        except BaseException:
            self._open -= 1
            raise
        return connection

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.abort()


def request_bytes(
    method: str,
    target: str,
    host: str = "127.0.0.1",
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    fields = {"Host": host, **(headers or {})}
    if method not in ("GET", "HEAD"):
        fields |= {"Content-Length": str(len(body)), "Content-Type": "application/json"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body
