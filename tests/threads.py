"""Writers at one time, each in a thread with a connection of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.db import connection, transaction


def in_threads(*jobs: Callable[[], Any]) -> list[Any]:
    """Run the jobs at one time; return what each returned or raised."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> Any:
        barrier.wait()
        return _outcome(job)

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, jobs))


def while_uncommitted(first: Callable[[], Any], second: Callable[[], Any]) -> list[Any]:
    """Run `second` while the transaction of `first` is open, on PostgreSQL.

    It is committed when `second` has ended or waits for a lock. Returns what each
    returned or raised.
    """
    is_done = threading.Event()
    backends: list[int] = []

    def run() -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            backends.extend(cursor.fetchone())
        return _outcome(second, is_done)

    def run_first() -> Any:
        with transaction.atomic():
            result = first()
            others.append(pool.submit(run))
            while not is_done.wait(0.005) and not _is_waiting(backends):
                pass
        return result

    others: list[Any] = []
    with ThreadPoolExecutor(1) as pool:
        outcome = _outcome(run_first)
        return [outcome, *(other.result() for other in others)]


def _is_waiting(backends: list[int]) -> bool:
    with connection.cursor() as cursor:
        # Not pg_stat_activity, which stays the same within a transaction.
        waiting = "SELECT 1 FROM pg_locks WHERE pid = ANY(%s) AND NOT granted"
        cursor.execute(waiting, [backends])
        return cursor.fetchone() is not None


def _outcome(job: Callable[[], Any], is_done: threading.Event | None = None) -> Any:
    try:
        return job()
    except Exception as error:  # noqa: BLE001 - an outcome like others
        return error
    finally:
        if is_done:
            is_done.set()
        connection.close()
