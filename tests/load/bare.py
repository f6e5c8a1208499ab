"""Baselines without the site: process pools, commits and computation."""

import time
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from multiprocessing import get_context
from typing import Any

import psycopg

from compute.tasks.algorithms.primes import count_primes

PROCESSES = 2


def echo(number: int) -> dict[str, int]:
    return {"number": number}


class Pool:
    """Pool of the standard library."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(PROCESSES, get_context("forkserver"))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def rate(self, number: int) -> float:
        """Return how many jobs that do nothing it runs in a second."""
        return number / self._seconds([(echo, n) for n in range(number)])

    def seconds_to_count(self, processes: int, size: int) -> float:
        """Run the same computation in several processes at once."""
        return self._seconds([(count_primes, 0, size)] * processes)

    def _seconds(self, calls: list[tuple[Any, ...]]) -> float:
        begin = time.perf_counter()
        for future in [self._pool.submit(*call) for call in calls]:
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
