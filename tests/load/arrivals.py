"""Requests that come when they come, whether or not they are answered (an open loop).

A request counts from the moment at which it was due, so that a site that stands still
is charged with all who had to wait. Whoever generates them has a process of his own.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from time import monotonic  # the loop's own clock stands still while it works
from typing import NamedTuple

import uvloop

from tests.load.connections import Address, Connections
from tests.load.questions import HOST, Question

CONNECTIONS_MAX = 2_000
GIVEN_UP_S = 5.0
# Of answers that did not come.
NO_ANSWER = 0
# Of one who was refused, in a closed loop.
PAUSE_S = 0.05
CALM_ANSWER_S = 0.2
CALM_MAX_S = 180.0


class Seen(NamedTuple):
    """What came of one request, and how late it was sent and answered, in seconds."""

    status: int
    says_when: bool  # to come again: Retry-After
    lag_s: float
    took_s: float

    @property
    def is_answered(self) -> bool:
        return 200 <= self.status < 300


class Crowd:
    """Clients who ask the same question, but for its numbers."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.seen: list[Seen] = []
        self._numbers = count(random.randrange(10**9))
        self._connections = Connections(Address(HOST, question.port), CONNECTIONS_MAX)

    async def ask(self, due: float) -> Seen:
        request = self.question.as_bytes(next(self._numbers))
        now = monotonic()
        due = min(due, now)  # the loop's timers may be early
        lag = now - due
        status, says_when = NO_ANSWER, False
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(GIVEN_UP_S - lag):
                answer = await self._connections.ask(request)
                status, says_when = answer.status, "retry-after" in answer.headers
        seen = Seen(status, says_when, lag, monotonic() - due)
        self.seen.append(seen)
        return seen

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
            if not (await crowd.ask(now)).is_answered:
                await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())


async def wait_for_calm(crowd: Crowd) -> None:
    """Wait until somebody who comes alone is answered at once."""
    end = monotonic() + CALM_MAX_S
    while (now := monotonic()) < end:
        seen = await crowd.ask(now)
        if seen.is_answered and seen.took_s < CALM_ANSWER_S:
            return
        await asyncio.sleep(0.05)
    raise TimeoutError("The site does not recover.")


async def queue(number: int, crowd: Crowd) -> None:
    """Let one ask so many times, each time when he has been answered."""
    for _ in range(number):
        await crowd.ask(monotonic())


def in_open_loop(question: Question, per_second: float, seconds: float) -> list[Seen]:
    return _run(question, partial(come, per_second, seconds))


def in_closed_loop(question: Question, clients: int, seconds: float) -> list[Seen]:
    return _run(question, partial(stay, clients, seconds))


def one_by_one(question: Question, number: int) -> list[Seen]:
    return _run(question, partial(queue, number))


def until_calm(question: Question) -> list[Seen]:
    return _run(question, wait_for_calm)


def _run(question: Question, load: Callable[[Crowd], Awaitable[None]]) -> list[Seen]:
    async def run() -> list[Seen]:
        crowd = Crowd(question)
        await load(crowd)
        crowd.close()
        return crowd.seen

    return uvloop.run(run())
