"""A real pool for the tests, on a database that it shares with them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dj_database_url
import psutil
import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, connections

from compute import jobs, registry
from compute.models import Job
from tests.compute import faults  # noqa: F401 - the pool's tasks, in this process too
from tests.private_server import wait_for
from tests.running import ROOT


class Pool:
    """One `manage.py compute`, which may be killed and started again."""

    def __init__(self, env: dict[str, str], output: Path) -> None:
        self.env, self.output_path = env, output
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Pool":
        with open(self.output_path, "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "compute"],
                cwd=ROOT, env=self.env, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[psutil.Process]:
        """The pool processes: children of the fork server that are no trackers."""
        with suppress(psutil.NoSuchProcess):
            return [
                child
                for server in psutil.Process(self.pid).children()
                for child in server.children()
            ]
        return []

    def output(self) -> str:
        return self.output_path.read_text()

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.output()
        return "are waiting for jobs" in self.output()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def stop(self, signum: int = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.wait()

    def wait(self, timeout: float = 40) -> int:
        return self.process.wait(timeout)

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            family = psutil.Process(self.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


class connected_to:
    """In this thread the default database is another one."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def __enter__(self) -> None:
        self.usual = connections["default"]
        other = connections.create_connection("default")
        other.settings_dict = self.usual.settings_dict | self.settings
        connections["default"] = other

    def __exit__(self, *exc: object) -> None:
        connections["default"].close()
        connections["default"] = self.usual


@pytest.fixture
def pool_env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


def environment(data_dir: Path) -> dict[str, str]:
    """That of a pool, but for its database."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "SECRET_KEY", "ALLOWED_HOSTS", "HTTPS")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "DATA_DIR": str(data_dir),
        "COMPUTE_TASKS": "tests.compute.faults",
        "COMPUTE_PROCESSES": "2",
    }


@pytest.fixture
def shared_database(pool_env, transactional_db) -> dict[str, str]:
    """The environment of other processes that use the database of the tests."""
    return pool_env | database_of_tests()


def database_of_tests() -> dict[str, str]:
    if connection.vendor == "sqlite":
        return {"DATA_DIR": os.environ["DATA_DIR"]}
    server = os.environ["DATABASE_URL"].rpartition("/")[0]
    return {"DATABASE_URL": f"{server}/{connection.settings_dict['NAME']}"}


@pytest.fixture
def stoppable_database(
    pool_env, postgres_own, django_db_blocker
) -> Iterator[dict[str, str]]:
    """The same on the test's own PostgreSQL, `postgres_own`."""
    url = postgres_own.url()
    settings = dj_database_url.parse(url)
    with django_db_blocker.unblock(), connected_to(**settings):
        call_command("migrate", verbosity=0)
        yield pool_env | {"DATABASE_URL": url}


@pytest.fixture
def make_pool(shared_database, tmp_path) -> Iterator[Callable[..., Pool]]:
    pools: list[Pool] = []

    def make(**env: str) -> Pool:
        pool = Pool(shared_database | env, tmp_path / f"pool-{len(pools)}.log")
        pools.append(pool)
        wait_for(pool.start().is_ready)
        return pool

    yield make
    for pool in pools:
        pool.close()
        print(pool.output())  # shown when the test has failed


@pytest.fixture
def pool(make_pool) -> Pool:
    """A running pool of two processes."""
    return make_pool()


@pytest.fixture
def owner(shared_database) -> User:
    return User.objects.create_user("olga")


@pytest.fixture
def submit(owner) -> Callable[..., Job]:
    def submit(task: str, **params: Any) -> Job:
        chosen = registry.get_task(task)
        serializer = chosen.params(data=params)
        serializer.is_valid(raise_exception=True)
        return jobs.submit(task=chosen, params=serializer.validated_data, owner=owner)

    return submit


def ended(job: Job, timeout: float = 30) -> Job:
    wait_for(lambda: not Job.objects.filter(pk=job.pk).unfinished().exists(), timeout)
    job.refresh_from_db()
    return job


def all_ended(jobs: Iterable[Job], timeout: float = 60) -> list[Job]:
    jobs = list(jobs)
    ids = [job.pk for job in jobs]
    wait_for(lambda: not Job.objects.filter(pk__in=ids).unfinished().exists(), timeout)
    return list(Job.objects.filter(pk__in=ids))


def running(job: Job) -> Job:
    wait_for(lambda: Job.objects.filter(pk=job.pk, state="running").exists())
    job.refresh_from_db()
    return job
