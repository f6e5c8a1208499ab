"""Real pools for the tests, on the database of the tests."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import psutil
import psycopg
import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from compute import jobs
from compute.models import Job
from resilient_site.errors import Conflict
from tests.compute import factories, faults  # noqa: F401 - tasks of pool and tests
from tests.faults.proxy import Proxy
from tests.private_server import wait_for
from tests.running import ROOT


class Pool:
    """A `manage.py compute`, which may be killed and started again."""

    command: tuple[str, ...] = ("manage.py", "compute")

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        self.env = env
        self.output_path = folder / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Pool":
        with open(self.output_path, "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *self.command],
                cwd=ROOT, env=self.env, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[psutil.Process]:
        """Return the pool processes: children of the fork server, except trackers."""
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

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def stop(self, signum: int = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.wait()

    def wait(self, timeout: float = 90) -> int:
        return self.process.wait(timeout)

    def close(self) -> None:
        if self.is_running():
            family = psutil.Process(self.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        print(self.output())  # for a test that fails


@pytest.fixture
def pool_env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


def environment(data_dir: Path) -> dict[str, str]:
    """Return the environment of a pool, except its database."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "SECRET_KEY", "ALLOWED_HOSTS", "HTTPS")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "DATA_DIR": str(data_dir),
        "RECORD": str(data_dir / "record"),
        "COMPUTE_TASKS": "tests.compute.faults",
        "COMPUTE_PROCESSES": "2",
    }


@pytest.fixture
def record(pool_env) -> Path:
    """The file in which pools record the runs of the task `recorded`."""
    path = Path(pool_env["RECORD"])
    path.touch()
    return path


@pytest.fixture
def shared_database(pool_env, transactional_db) -> dict[str, str]:
    """Environment of other processes that use the database of the tests."""
    return pool_env | database_of_tests()


def database_of_tests() -> dict[str, str]:
    if connection.vendor == "sqlite":
        return {"DATA_DIR": os.environ["DATA_DIR"]}
    server = os.environ["DATABASE_URL"].rpartition("/")[0]
    return {"DATABASE_URL": f"{server}/{connection.settings_dict['NAME']}"}


@pytest.fixture
def make_pools(
    shared_database, tmp_path_factory
) -> Iterator[Callable[..., list[Pool]]]:
    """Start pools of the test's own, and others by a command, at the same time."""
    with ExitStack() as stack:

        def make(number: int, *others: tuple[str, ...], **env: str) -> list[Pool]:
            pools = []
            for command in [Pool.command] * number + [*others]:
                pool = Pool(shared_database | env, tmp_path_factory.mktemp("pool"))
                pool.command = command
                stack.callback(pool.close)
                pools.append(pool.start())
            for pool in pools:
                wait_for(pool.is_ready)
            return pools

        yield make


@pytest.fixture
def make_pool(make_pools) -> Callable[..., Pool]:
    return lambda **env: make_pools(1, **env)[0]


@pytest.fixture(scope="module")
def module_pool(django_db_setup, django_db_blocker, tmp_path_factory) -> Iterator[Pool]:
    folder = tmp_path_factory.mktemp("pool")
    with running_pool(environment(folder) | database_of_tests(), folder) as pool:
        yield pool


@contextmanager
def running_pool(env: dict[str, str], folder: Path) -> Iterator[Pool]:
    """Run `manage.py compute` in the block, which begins when it is ready."""
    pool = Pool(env, folder)
    try:
        wait_for(pool.start().is_ready)
        yield pool
    finally:
        pool.close()


@pytest.fixture
def pool(module_pool, transactional_db) -> Iterator[Pool]:
    """A running pool of two processes, shared by the tests of a module."""
    yield module_pool
    end_all()


def end_all() -> None:
    """End the jobs that a test has left, before the tables are emptied."""
    for job in Job.objects.unfinished().filter(parent=None):
        with suppress(Conflict):  # it has just ended
            jobs.cancel(job)
    wait_for(lambda: not Job.objects.unfinished().exists())


def expire_leases(pool: "Pool", pid: int | None = None) -> None:
    """Let the jobs expire that this pool holds, which renews their leases no more.

    `pid` is the process that holds them, if it is not the pool's first one.
    """
    held = Job.objects.filter(worker__contains=f":{pid or pool.pid}:")
    held.exclude(lease_until=None).update(lease_until=timezone.now() - timedelta(1))


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file whose creation ends the jobs that wait for it."""
    return tmp_path / "gate"


@pytest.fixture
def owner(db) -> User:
    return User.objects.create_user("olga")


@pytest.fixture
def submit(owner) -> Callable[..., Job]:
    return partial(factories.submit, owner=owner)


def ended(job: Job) -> Job:
    all_ended([job])
    job.refresh_from_db()
    return job


def all_ended(jobs: Iterable[Job]) -> list[Job]:
    started = Job.objects.filter(pk__in=[job.pk for job in jobs])
    try:
        wait_for(lambda: not started.unfinished().exists())
    except TimeoutError:
        raise AssertionError([*started.unfinished().values()]) from None
    return list(started)


def assert_each_completed_once(record: Path) -> Counter[str]:
    """Assert that all jobs, of the task `recorded`, have the result of their last run.

    No two workers have started one run. Return the runs.
    """
    done = Job.objects.filter(task="recorded")
    wait_for(lambda: not done.unfinished().exists())
    assert {job.state for job in done} == {"succeeded"}
    for job in done:
        assert job.result == {"number": job.params["number"], "epoch": job.epoch}
    runs = Counter(record.read_text().splitlines())
    assert set(runs.values()) == {1}
    assert {f"{job.pk} {job.epoch}" for job in done} <= set(runs)
    print(f"{len(runs) - len(done)} runs were repeated")
    return runs


def assert_jobs_go_on(network: Proxy, submit: Callable[..., Job], record: Path) -> None:
    """Assert that jobs are done before and after the network loses all connections."""
    submit("recorded", number=0)
    assert_each_completed_once(record)
    network.lose()
    submit("recorded", number=1)
    # Not after the quarter of an hour that the system would wait.
    assert_each_completed_once(record)


def running(job: Job) -> Job:
    wait_for(lambda: Job.objects.filter(pk=job.pk, state="running").exists())
    job.refresh_from_db()
    return job


def processes_of(job: Job, pool: Pool) -> list[int]:
    """Return the ids of the processes that the job has started."""
    with suppress(FileNotFoundError):
        text = Path(f"{pool.env['RECORD']}-{job.pk}").read_text()
        return [int(line) for line in text.splitlines()]
    return []


def runs_on(job: Job, pool: Pool) -> bool:
    return f":{pool.pid}:" in job.worker


@pytest.fixture
def other_connection() -> Iterator[psycopg.Connection]:
    """A second connection to the PostgreSQL of the tests."""
    with psycopg.connect(**connection.get_connection_params()) as other:
        yield other
