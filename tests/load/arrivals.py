"""Requests that come when they come, whether or not they are answered (an open loop).

A request counts from the moment at which it was due, so that a site that stands still
is charged with all who had to wait. Whoever generates them has a process of his own.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from time import monotonic  # the loop's own clock stands still while it works
from typing import NamedTuple, cast
from uuid import uuid4

import uvloop

CONNECTIONS_MAX = 2_000
GIVEN_UP_S = 5.0
# Of answers that did not come.
NO_ANSWER = 0
# Of one who was refused, in a closed loop.
PAUSE_S = 0.05
CALM_ANSWER_S = 0.2
CALM_MAX_S = 60.0


class Seen(NamedTuple):
    """What came of one request, and how late it was sent and answered, in seconds."""

    status: int
    says_when: bool  # to come again: Retry-After
    lag_s: float
    took_s: float


class Connection(asyncio.Protocol):
    """One that is kept, with one request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bool]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    async def ask(self, request: bytes) -> tuple[int, bool]:
        self._received = b""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        head = head.lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) >= length:
            if b"connection: close" in head:
                self.transport.close()
            self._end(int(head[9:12]), b"\r\nretry-after:" in head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(NO_ANSWER, False)

    def _end(self, status: int, says_when: bool) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result((status, says_when))


class Crowd:
    """Clients of one port, who ask what nobody has asked before."""

    def __init__(self, port: int, path: str) -> None:
        self.port, self.path = port, path
        self.seen: list[Seen] = []
        self._idle: list[Connection] = []
        self._open = 0

    async def ask(self, due: float) -> int:
        """Ask once, by a connection that is free or a new one; return the status."""
        lag = monotonic() - due
        told = NO_ANSWER, False
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(GIVEN_UP_S - lag):
                told = await self._ask()
        self.seen.append(Seen(*told, lag, monotonic() - due))
        return told[0]

    async def _ask(self) -> tuple[int, bool]:
        connection = await self._connection()
        try:
            return await connection.ask(self._request())
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
        if self._open >= CONNECTIONS_MAX:
            raise OSError("There are too many connections.")
        self._open += 1
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(
                Connection, "127.0.0.1", self.port
            )
        except BaseException:
            self._open -= 1
            raise
        return connection

    def _request(self) -> bytes:
        target = f"{self.path}?search={uuid4().hex}"
        return f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.abort()


async def come(per_second: float, seconds: float, crowd: Crowd) -> None:
    """Let them come at random, independent of each other."""
    begin = monotonic() + 0.1
    async with asyncio.TaskGroup() as requests:
        for moment in _moments(per_second, seconds):
            if (left := begin + moment - monotonic()) > 0:
                await asyncio.sleep(left)
            requests.create_task(crowd.ask(begin + moment))


def _moments(per_second: float, seconds: float) -> Iterator[float]:
    chance = random.Random(1)  # the same every time
    moment = chance.expovariate(per_second)
    while moment < seconds:
        yield moment
        moment += chance.expovariate(per_second)


async def stay(clients: int, seconds: float, crowd: Crowd) -> None:
    """Let each ask again as soon as he is answered (a closed loop)."""
    end = monotonic() + seconds

    async def client() -> None:
        while (now := monotonic()) < end:
            if await crowd.ask(now) != 200:
                await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())


async def wait_for_calm(crowd: Crowd) -> None:
    """Wait until somebody who comes alone is answered at once."""
    end = monotonic() + CALM_MAX_S
    while (began := monotonic()) < end:
        if await crowd.ask(began) == 200 and monotonic() - began < CALM_ANSWER_S:
            return
        await asyncio.sleep(0.05)
    raise TimeoutError("The site does not recover.")


def in_open_loop(port: int, path: str, per_second: float, seconds: float) -> list[Seen]:
    return _run(port, path, partial(come, per_second, seconds))


def in_closed_loop(port: int, path: str, clients: int, seconds: float) -> list[Seen]:
    return _run(port, path, partial(stay, clients, seconds))


def until_calm(port: int, path: str) -> list[Seen]:
    return _run(port, path, wait_for_calm)


def _run(port: int, path: str, load: Callable[[Crowd], Awaitable[None]]) -> list[Seen]:
    async def run() -> list[Seen]:
        crowd = Crowd(port, path)
        await load(crowd)
        crowd.close()
        return crowd.seen

    return uvloop.run(run())
