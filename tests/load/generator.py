"""Load generation in its own process: called by name, in a `RemoteProcess`."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from tests.load.load_generator import Sample, in_closed_loop, in_open_loop, one_by_one
from tests.load.load_generator import (
    until_idle as until_idle,
)  # called by name
from tests.load.request_template import RequestTemplate

CONNECTIONS = 16
LEAST_ANSWERED = 0.9
WARM_UP = 5
# A rate at which requests hardly ever wait for each other.
LEISURELY_SHARE = 0.2
LEISURELY_PER_S = 60


def begin(cpus: Collection[int]) -> None:
    """Pin this process to these cores, at a high priority.

    It stands for other machines. The kernel may weigh sessions before their processes.
    """
    os.setsid()
    if cpus:
        os.sched_setaffinity(0, cpus)
    with suppress(OSError):  # for root alone
        os.setpriority(os.PRIO_PROCESS, 0, -10)
        Path("/proc/self/autogroup").write_text("-10")


def rate(template: RequestTemplate, seconds: float) -> float:
    """Return the successful responses per second of a closed loop of 16 connections.

    Raises RuntimeError if many requests are rejected.
    """
    if shutil.which("wrk"):
        return _rate_by_wrk(template, seconds)
    return rate_by_python(template, seconds)


def _rate_by_wrk(template: RequestTemplate, seconds: float) -> float:
    # wrk takes whole seconds.
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(round(seconds), 1)}s"]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        if template.is_constant:
            for name, value in template.headers.items():
                command += ["-H", f"{name}: {value}"]
        else:
            script.write(template.as_lua())
            script.flush()
            command += ["-s", script.name]
        output = subprocess.run(
            [*command, template.url], check=True, capture_output=True, text=True
        ).stdout
    rejected = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    found = re.search(r"(\d+) requests in ", output)
    per_second = re.search(r"Requests/sec: +([0-9.]+)", output)
    if not found or not per_second or "Socket errors" in output:
        raise RuntimeError(f"{template.url}: {output}")
    number = int(found[1])
    share = _share(template, number - int(rejected[1] if rejected else 0), number)
    return float(per_second[1]) * share


def rate_by_python(template: RequestTemplate, seconds: float) -> float:
    samples = in_closed_loop(template, CONNECTIONS, seconds)
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


def warm_up(template: RequestTemplate, number: int) -> None:
    one_by_one(template, number)


def costs(template: RequestTemplate, number: int) -> list[float]:
    """Return latencies in milliseconds at a low rate, without queueing."""
    alone = one_by_one(template, WARM_UP)
    _check(template, alone)
    alone_s = min(one.took_s for one in alone)
    per_second = min(LEISURELY_SHARE / alone_s, LEISURELY_PER_S)
    samples = in_open_loop(template, per_second, number / per_second)
    _check(template, samples)
    return [one.took_s * 1000 for one in samples]


def _check(template: RequestTemplate, samples: list[Sample]) -> None:
    statuses = {one.status for one in samples if not one.is_answered}
    if statuses or not samples:
        raise RuntimeError(f"{template.url}: answered with {statuses or 'nothing'}")
