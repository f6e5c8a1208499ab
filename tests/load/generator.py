"""Asks a server, from a process of its own: called by name, in a `Helper`."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from tests.load.arrivals import Seen, in_closed_loop, in_open_loop, one_by_one
from tests.load.arrivals import until_calm as until_calm  # for those who call it here
from tests.load.questions import Question

CONNECTIONS = 16
LEAST_ANSWERED = 0.9
WARM_UP = 5
# So few that hardly any waits for another, and so many that it does not take long.
LEISURELY_SHARE = 0.2
LEISURELY_PER_S = 60


def begin(cpus: Collection[int]) -> None:
    """Keep to these cores, and let nothing else delay this process.

    Those who ask stand for other machines. The kernel may weigh sessions before it
    weighs the processes of each.
    """
    os.setsid()
    if cpus:
        os.sched_setaffinity(0, cpus)
    with suppress(OSError):  # for root alone
        os.setpriority(os.PRIO_PROCESS, 0, -10)
        Path("/proc/self/autogroup").write_text("-10")


def rate(question: Question, seconds: float) -> float:
    """Return the answers per second to 16 who ask again as soon as they are answered.

    Refusals are none. Raises RuntimeError if there are many.
    """
    if shutil.which("wrk"):
        return _rate_by_wrk(question, seconds)
    return rate_by_python(question, seconds)


def _rate_by_wrk(question: Question, seconds: float) -> float:
    # It knows whole seconds alone.
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(round(seconds), 1)}s"]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        if question.is_always_the_same:
            for name, value in question.headers.items():
                command += ["-H", f"{name}: {value}"]
        else:
            script.write(question.as_lua())
            script.flush()
            command += ["-s", script.name]
        told = subprocess.run(
            [*command, question.url], check=True, capture_output=True, text=True
        ).stdout
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    found = re.search(r"(\d+) requests in ", told)
    per_second = re.search(r"Requests/sec: +([0-9.]+)", told)
    if not found or not per_second or "Socket errors" in told:
        raise RuntimeError(f"{question.url}: {told}")
    number = int(found[1])
    share = _share(question, number - int(refused[1] if refused else 0), number)
    return float(per_second[1]) * share


def rate_by_python(question: Question, seconds: float) -> float:
    seen = in_closed_loop(question, CONNECTIONS, seconds)
    answered = sum(one.is_answered for one in seen)
    return len(seen) * _share(question, answered, len(seen)) / seconds


def _share(question: Question, answered: int, number: int) -> float:
    if answered < LEAST_ANSWERED * number or not number:
        raise RuntimeError(f"{question.url}: {answered} of {number} were answered")
    return answered / number


def latencies(question: Question, per_second: float, seconds: float) -> list[float]:
    """Return how many milliseconds the answers took, in an open loop.

    Those who were refused or gave up have waited for ever.
    """
    return [
        one.took_s * 1000 if one.is_answered else float("inf")
        for one in in_open_loop(question, per_second, seconds)
    ]


def warm_up(question: Question, number: int) -> None:
    one_by_one(question, number)


def costs(question: Question, number: int) -> list[float]:
    """Ask so seldom that nobody waits for another; return milliseconds."""
    alone = one_by_one(question, WARM_UP)
    _check(question, alone)
    alone_s = min(one.took_s for one in alone)
    per_second = min(LEISURELY_SHARE / alone_s, LEISURELY_PER_S)
    seen = in_open_loop(question, per_second, number / per_second)
    _check(question, seen)
    return [one.took_s * 1000 for one in seen]


def _check(question: Question, seen: list[Seen]) -> None:
    statuses = {one.status for one in seen if not one.is_answered}
    if statuses or not seen:
        raise RuntimeError(f"{question.url}: answered with {statuses or 'nothing'}")
