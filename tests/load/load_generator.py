"""Load generator with open and closed loops.

In an open loop requests are independent of responses, and latency counts from the time
at which a request was due: there is no coordinated omission. Run it in its own process.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from time import monotonic  # the loop's clock is only updated between callbacks
from typing import NamedTuple

import uvloop

from tests.load.connections import Address, Connections
from tests.load.request_template import HOST, RequestTemplate

CONNECTIONS_MAX = 2_000
TIMEOUT_S = 5.0
# Status of a request without a response.
NO_RESPONSE = 0
# Pause of a client after a rejection, in a closed loop.
PAUSE_S = 0.05
IDLE_LATENCY_S = 0.2
IDLE_MAX_S = 180.0


class Sample(NamedTuple):
    """Outcome of one request; times in seconds."""

    status: int
    has_retry_after: bool  # Retry-After
    lag_s: float
    took_s: float

    @property
    def is_answered(self) -> bool:
        return 200 <= self.status < 300


class LoadGenerator:
    """Sends requests of one template, and records a sample of each."""

    def __init__(self, template: RequestTemplate) -> None:
        self.template = template
        self.samples: list[Sample] = []
        self._numbers = count(random.randrange(10**9))
        self._connections = Connections(Address(HOST, template.port), CONNECTIONS_MAX)

    async def send(self, due: float) -> Sample:
        request = self.template.as_bytes(next(self._numbers))
        now = monotonic()
        due = min(due, now)  # timers may be early
        lag = now - due
        status, has_retry_after = NO_RESPONSE, False
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(TIMEOUT_S - lag):
                answer = await self._connections.ask(request)
                status, has_retry_after = answer.status, "retry-after" in answer.headers
        sample = Sample(status, has_retry_after, lag, monotonic() - due)
        self.samples.append(sample)
        return sample

    def close(self) -> None:
        self._connections.close()


async def open_loop(
    per_second: float, seconds: float, generator: LoadGenerator
) -> None:
    """Send requests at random times, independent of each other."""
    begin = monotonic() + 0.1
    async with asyncio.TaskGroup() as requests:
        for moment in _moments(per_second, seconds):
            if (left := begin + moment - monotonic()) > 0:
                await asyncio.sleep(left)
            requests.create_task(generator.send(begin + moment))


def _moments(per_second: float, seconds: float) -> Iterator[float]:
    dice = random.Random(1)  # the same every time
    moment = dice.expovariate(per_second)
    while moment < seconds:
        yield moment
        moment += dice.expovariate(per_second)


async def closed_loop(clients: int, seconds: float, generator: LoadGenerator) -> None:
    """Have each client send its next request after the response."""
    end = monotonic() + seconds

    async def client() -> None:
        while (now := monotonic()) < end:
            if not (await generator.send(now)).is_answered:
                await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())


async def wait_until_idle(generator: LoadGenerator) -> None:
    """Wait until a single request is answered quickly."""
    end = monotonic() + IDLE_MAX_S
    while (now := monotonic()) < end:
        sample = await generator.send(now)
        if sample.is_answered and sample.took_s < IDLE_LATENCY_S:
            return
        await asyncio.sleep(0.05)
    raise TimeoutError("The site does not recover.")


async def sequence(number: int, generator: LoadGenerator) -> None:
    """Send requests one after another."""
    for _ in range(number):
        await generator.send(monotonic())


def in_open_loop(
    template: RequestTemplate, per_second: float, seconds: float
) -> list[Sample]:
    return _run(template, partial(open_loop, per_second, seconds))


def in_closed_loop(
    template: RequestTemplate, clients: int, seconds: float
) -> list[Sample]:
    return _run(template, partial(closed_loop, clients, seconds))


def one_by_one(template: RequestTemplate, number: int) -> list[Sample]:
    return _run(template, partial(sequence, number))


def until_idle(template: RequestTemplate) -> list[Sample]:
    return _run(template, wait_until_idle)


def _run(
    template: RequestTemplate, load: Callable[[LoadGenerator], Awaitable[None]]
) -> list[Sample]:
    async def run() -> list[Sample]:
        generator = LoadGenerator(template)
        await load(generator)
        generator.close()
        return generator.samples

    return uvloop.run(run())
