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
from typing import NamedTuple
from uuid import uuid4

import uvloop

from tests.load.connections import Address, Connections, request_bytes

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


class Crowd:
    """Clients of one port, who ask what nobody has asked before."""

    def __init__(self, port: int, path: str) -> None:
        self.path = path
        self.seen: list[Seen] = []
        self._connections = Connections(Address("127.0.0.1", port), CONNECTIONS_MAX)

    async def ask(self, due: float) -> int:
        """Ask once; return the status."""
        lag = monotonic() - due
        status, says_when = NO_ANSWER, False
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(GIVEN_UP_S - lag):
                answer = await self._connections.ask(self._request())
                status, says_when = answer.status, "retry-after" in answer.headers
        self.seen.append(Seen(status, says_when, lag, monotonic() - due))
        return status

    def _request(self) -> bytes:
        return request_bytes("GET", f"{self.path}?search={uuid4().hex}")

    def close(self) -> None:
        self._connections.close()


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
