"""Baselines without the site: process pools, commits and computation."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import cycle, islice
from multiprocessing import get_context

import pebble
import psycopg

from compute.tasks.algorithms.primes import count_primes

PROCESSES = 2
_forkserver = get_context("forkserver")


def echo(number: int) -> dict[str, int]:
    return {"number": number}


class Pools:
    """Both kinds of pool, started once."""

    def __init__(self) -> None:
        self.pebble = pebble.ProcessPool(PROCESSES, context=_forkserver)
        self.futures = ProcessPoolExecutor(PROCESSES, mp_context=_forkserver)
        self.pebble_rate(100)
        self.futures_rate(100)

    def close(self) -> None:
        self.pebble.stop()
        self.pebble.join()
        self.futures.shutdown(cancel_futures=True)

    def pebble_rate(self, number: int) -> float:
        return number / _seconds(number, lambda n: self.pebble.submit(echo, None, n))

    def futures_rate(self, number: int) -> float:
        return number / _seconds(number, lambda n: self.futures.submit(echo, n))

    def seconds_to_count(self, processes: int, size: int) -> float:
        """Run the same computation in several processes at once."""
        return _seconds(processes, lambda n: self.futures.submit(count_primes, 0, size))


def _seconds(number: int, submit: Callable[[int], Future]) -> float:
    """Submit so many jobs and wait for them; return the duration."""
    begin = time.perf_counter()
    for future in [submit(n) for n in range(number)]:
        future.result()
    return time.perf_counter() - begin


def commits_per_second(url: str, number: int) -> float:
    """Update single rows of the job table, each in its own transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT id FROM compute_job").fetchall()
        statement = "UPDATE compute_job SET message = 'changed' WHERE id = %s"
        begin = time.perf_counter()
        for job_id in islice(cycle(found), number):
            connection.execute(statement, job_id)
        return number / (time.perf_counter() - begin)
