"""Load generator: open and closed loops, in a process of its own.

In an open loop requests are independent of responses, and latency counts from the time
at which a request was due: there is no coordinated omission.
"""

import asyncio
import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from itertools import count
from pathlib import Path
from time import monotonic  # the loop's clock is only updated between callbacks
from typing import NamedTuple

import uvloop

from tests.load.connections import Connections
from tests.load.request_template import RequestTemplate

TIMEOUT_S = 5.0
# Status of a request without a response.
NO_RESPONSE = 0
# Pause of a client after a rejection, in a closed loop.
PAUSE_S = 0.05
IDLE_LATENCY_S = 0.2
IDLE_MAX_S = 180.0
# Rates are those of so many clients, of which most must get an answer.
RATE_CLIENTS = 16
LEAST_ANSWERED = 0.9
WARM_UP = 5
# A rate at which requests hardly ever wait for each other.
LEISURELY_SHARE = 0.2
LEISURELY_PER_S = 60


class Sample(NamedTuple):
    """Outcome of one request; times in seconds."""

    status: int
    has_retry_after: bool
    lag_s: float
    took_s: float

    @property
    def is_answered(self) -> bool:
        return 200 <= self.status < 300


def pin(cpus: Collection[int]) -> None:
    """Pin this process to these cores, at a high priority.

    It stands for other machines. The kernel may weigh sessions before their processes.
    """
    os.setsid()
    if cpus:
        os.sched_setaffinity(0, cpus)
    with suppress(OSError):  # for root alone
        os.setpriority(os.PRIO_PROCESS, 0, -10)
        Path("/proc/self/autogroup").write_text("-10")


# --- loads, each with the samples of all its requests


def in_open_loop(
    template: RequestTemplate, per_second: float, seconds: float
) -> list[Sample]:
    """Send requests at random times, independent of each other."""

    async def load(send: Send) -> None:
        dice = random.Random(1)  # the same every time
        begin = monotonic() + 0.1
        due = begin + dice.expovariate(per_second)
        async with asyncio.TaskGroup() as requests:
            while due < begin + seconds:
                if (left := due - monotonic()) > 0:
                    await asyncio.sleep(left)
                requests.create_task(send(due))
                due += dice.expovariate(per_second)

    return _run(template, load)


def in_closed_loop(
    template: RequestTemplate, clients: int, seconds: float
) -> list[Sample]:
    """Have each client send its next request after the response, and at least one."""

    async def load(send: Send) -> None:
        end = monotonic() + seconds

        async def client() -> None:
            is_first = True
            while (now := monotonic()) < end or is_first:
                is_first = False
                if not (await send(now)).is_answered:
                    await asyncio.sleep(PAUSE_S)

        await asyncio.gather(*(client() for _ in range(clients)))

    return _run(template, load)


def one_by_one(template: RequestTemplate, number: int) -> list[Sample]:
    async def load(send: Send) -> None:
        for _ in range(number):
            await send(monotonic())

    return _run(template, load)


def until_idle(template: RequestTemplate) -> list[Sample]:
    """Wait until a single request is answered quickly."""

    async def load(send: Send) -> None:
        end = monotonic() + IDLE_MAX_S
        while (now := monotonic()) < end:
            sample = await send(now)
            if sample.is_answered and sample.took_s < IDLE_LATENCY_S:
                return
            await asyncio.sleep(0.05)
        raise TimeoutError("The site does not recover.")

    return _run(template, load)


type Send = Callable[[float], Awaitable[Sample]]  # takes the time at which it is due


def _run(
    template: RequestTemplate, load: Callable[[Send], Awaitable[None]]
) -> list[Sample]:
    samples: list[Sample] = []
    numbers = count(random.randrange(10**9))

    async def run() -> None:
        connections = Connections(template.port)

        async def send(due: float) -> Sample:
            request = template.as_bytes(next(numbers))
            due = min(due, now := monotonic())  # timers may be early
            status, has_retry_after = NO_RESPONSE, False
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(TIMEOUT_S - (now - due)):
                    answer = await connections.send(request)
                    status = answer.status
                    has_retry_after = "retry-after" in answer.headers
            sample = Sample(status, has_retry_after, now - due, monotonic() - due)
            samples.append(sample)
            return sample

        await load(send)
        connections.close()

    uvloop.run(run())
    return samples


# --- figures


def rate(template: RequestTemplate, seconds: float) -> float:
    """Return the successful responses per second of a closed loop of 16 connections.

    Raises RuntimeError if many requests are rejected.
    """
    if shutil.which("wrk"):
        return _rate_by_wrk(template, seconds)
    return rate_by_python(template, seconds)


def _rate_by_wrk(template: RequestTemplate, seconds: float) -> float:
    # wrk takes whole seconds.
    command = ["wrk", "-t1", f"-c{RATE_CLIENTS}", f"-d{max(round(seconds), 1)}s"]
    command += ["--timeout", "30s"]  # else it counts what is late as failed
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        if template.is_constant:
            for name, value in template.headers.items():
                command += ["-H", f"{name}: {value}"]
        else:
            script.write(template.as_lua())
            script.flush()
            command += ["-s", script.name]
        command.append(template.url)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    output = done.stdout
    rejected = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    found = re.search(r"(\d+) requests in ", output)
    per_second = re.search(r"Requests/sec: +([0-9.]+)", output)
    if not found or not per_second or "Socket errors" in output:
        raise RuntimeError(f"{template.url}: {output}")
    number = int(found[1])
    answered = number - int(rejected[1] if rejected else 0)
    return float(per_second[1]) * _share(template, answered, number)


def rate_by_python(template: RequestTemplate, seconds: float) -> float:
    samples = in_closed_loop(template, RATE_CLIENTS, seconds)
    answered = sum(one.is_answered for one in samples)
    return len(samples) * _share(template, answered, len(samples)) / seconds


def _share(template: RequestTemplate, answered: int, number: int) -> float:
    if answered < LEAST_ANSWERED * number or not number:
        raise RuntimeError(f"{template.url}: {answered} of {number} were answered")
    return answered / number


def latencies(
    template: RequestTemplate, per_second: float, seconds: float
) -> list[float]:
    """Return the latencies of an open loop, in milliseconds.

    Rejected and timed-out requests count as infinite.
    """
    return [
        one.took_s * 1000 if one.is_answered else float("inf")
        for one in in_open_loop(template, per_second, seconds)
    ]


def costs(template: RequestTemplate, number: int) -> list[float]:
    """Return latencies in milliseconds at a low rate, without queueing.

    Raises RuntimeError if a request is not answered.
    """
    alone_s = min(one.took_s for one in one_by_one(template, WARM_UP))
    per_second = min(LEISURELY_SHARE / alone_s, LEISURELY_PER_S)
    samples = in_open_loop(template, per_second, number / per_second)
    statuses = {one.status for one in samples if not one.is_answered}
    if statuses or not samples:
        raise RuntimeError(f"{template.url}: answered with {statuses or 'nothing'}")
    return [one.took_s * 1000 for one in samples]
