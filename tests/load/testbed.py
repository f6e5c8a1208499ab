"""Testbed of the benchmarks: private servers and programs."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Self

import psutil
import psycopg

from tests.load.remote_process import RemoteProcess
from tests.private_server import dies_with_parent, has_ended, wait_for
from tests.running import ROOT
from tests.servers import Postgres, Redis

CELERY = """
    -m celery -A tests.load.celery_peer worker --concurrency=2 --loglevel=WARNING
    --without-gossip --without-mingle --without-heartbeat
""".split()  # noqa: SIM905 - easier to read
KEPT = ("PATH", "HOME", "LANG", "TMPDIR")
MIGRATED = "migrated"


class Testbed:
    """A PostgreSQL that syncs every commit, a Redis, and a temporary folder."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as cleanup:
            self._numbers = count(1)
            self.folder = Path(tempfile.mkdtemp(prefix="rs-load-"))
            cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.postgres, self.redis = Postgres(), Redis()
            self.postgres.settings |= {
                "fsync": "on",
                "full_page_writes": "on",
                "synchronous_commit": "on",
                "shared_buffers": "256MB",
            }
            for server in (self.postgres, self.redis):
                cleanup.callback(server.close)
                server.start()
            self._sql(f"CREATE DATABASE {MIGRATED}")
            _migrate(self.env(DATABASE_URL=self.postgres.url(MIGRATED)))
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._cleanup.close()

    def _sql(self, statement: str) -> None:
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            connection.execute(statement)

    def env(self, **more: str) -> dict[str, str]:
        """Return the common environment of all measurements."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        folder = tempfile.mkdtemp(dir=self.folder)
        return kept | {
            "DJANGO_SETTINGS_MODULE": "resilient_site.settings",
            "DATA_DIR": folder,
            "SECRET_KEY": "for-measurements-only-0123456789-0123456789-0123456789",
            "ALLOWED_HOSTS": "127.0.0.1",
            "HTTPS": "0",
            "REDIS_URL": self.redis.url(),
            "COMPUTE_TASKS": "tests.compute.faults",
            "COMPUTE_PROCESSES": "2",
            "COMPUTE_MAX_QUEUED": "1000000",
            "RATE_LIMITS": "off",
        } | more  # fmt: skip

    def on_postgres(self, **more: str) -> dict[str, str]:
        """Return the environment of a new, migrated database."""
        return self.env(DATABASE_URL=self.new_database(MIGRATED), **more)

    def new_database(self, template: str = "template1") -> str:
        name = f"database{next(self._numbers)}"
        self._sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.postgres.url(name)

    def on_sqlite(self) -> dict[str, str]:
        env = self.env()
        _migrate(env)
        return env

    def processes(self) -> list[psutil.Process]:
        """List the processes of PostgreSQL and Redis."""
        return [*self.postgres.processes(), *self.redis.processes()]


def _migrate(env: dict[str, str]) -> None:
    command = [sys.executable, "manage.py", "migrate", "--verbosity=0"]
    subprocess.run(command, cwd=ROOT, env=env, check=True)


class Program:
    """A Python program that runs for the duration of the `with` block."""

    def __init__(self, env: dict[str, str], command: Sequence[str], ready: str) -> None:
        self.env, self.command, self.ready = env, command, ready
        self.log = Path(env["DATA_DIR"], "log")

    def __enter__(self) -> Self:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*dies_with_parent("TERM"), sys.executable, *self.command],
                cwd=ROOT, env=self.env, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            wait_for(self._is_ready, 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.command} did not start:\n{self.log.read_text()}")
        return self.ready in self.log.read_text()

    def processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.process.pid)
            return [main, *main.children(recursive=True)]
        return []

    def __exit__(self, *exc: object) -> None:
        """Stop it, and kill what is left after a timeout."""
        family = self.processes()
        self.process.terminate()
        self.process.send_signal(signal.SIGCONT)  # if it is suspended
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: all(map(has_ended, family)), 15)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def pool(env: dict[str, str]) -> Program:
    """Start `manage.py compute` as an operator does."""
    return Program(env, ["manage.py", "compute"], ready="are waiting for jobs")


def celery_worker(env: dict[str, str]) -> Program:
    return Program(env, CELERY, ready="Celery is ready")


def job_client(env: dict[str, str]) -> RemoteProcess:
    return RemoteProcess("tests.load.job_client", env)
