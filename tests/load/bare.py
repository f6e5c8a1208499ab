"""Baselines without the site: process pools, commits and computation."""

import time
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from multiprocessing import get_context
from typing import Any

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
        begin = time.perf_counter()
        futures = [self.pebble.schedule(echo, args=[n]) for n in range(number)]
        return _per_second(futures, begin)

    def futures_rate(self, number: int) -> float:
        begin = time.perf_counter()
        futures = [self.futures.submit(echo, n) for n in range(number)]
        return _per_second(futures, begin)

    def seconds_to_count(self, processes: int, size: int) -> float:
        """Run the same computation in several processes at once."""
        begin = time.perf_counter()
        futures = [self.futures.submit(count_primes, 0, size) for _ in range(processes)]
        for future in futures:
            future.result()
        return time.perf_counter() - begin


def _per_second(futures: list[Any], begin: float) -> float:
    for future in futures:
        future.result()
    return len(futures) / (time.perf_counter() - begin)


def commits_per_second(url: str, number: int) -> float:
    """Update single rows of the job table, each in its own transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT id FROM compute_job").fetchall()
        ids = [row[0] for row in found]
        statement = "UPDATE compute_job SET message = 'changed' WHERE id = %s"
        begin = time.perf_counter()
        for job_id in islice(cycle(ids), number):
            connection.execute(statement, [job_id])
        return number / (time.perf_counter() - begin)
