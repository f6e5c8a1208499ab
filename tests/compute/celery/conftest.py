"""Brokers of the tests' own, and workers on them."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from socket import gethostname
from typing import Any

import psutil
import pytest

from compute.models import Job
from resilient_site.celery import app
from tests.compute.conftest import (
    Pool,
    database_of_tests,
    environment,
    running_pool,
)
from tests.private_server import wait_for
from tests.running import ROOT
from tests.servers import RabbitMQ, Redis
from tests.services_plugin import running

QUEUE = app.conf.task_default_queue
CELERY = "-m", "celery", "-q", "-A", "resilient_site"


@pytest.fixture(scope="package")
def rabbitmq() -> Iterator[RabbitMQ]:
    yield from running(RabbitMQ)


@pytest.fixture(scope="module")
def redis_of_module() -> Iterator[Redis]:
    yield from running(Redis)


@pytest.fixture
def broker(rabbitmq, monkeypatch) -> Iterator[RabbitMQ]:
    """A broker with an empty queue, which a test may kill and pause.

    The queue is kept: RabbitMQ cannot recover a quorum queue that was declared less
    than half a second before it is killed.
    """
    monkeypatch.setattr(app.conf, "broker_url", rabbitmq.url())
    messages()
    yield rabbitmq
    if rabbitmq.running():
        rabbitmq.resume()
    else:
        rabbitmq.start()


def messages() -> list[Any]:
    """Remove all messages from the queue, once no worker consumes, and return them."""
    with app.connection_for_read() as connection:
        found = app.amqp.queues[QUEUE].bind(connection.default_channel)
        found.declare()
        wait_for(lambda: found.queue_declare().consumer_count == 0)
        return list(iter(lambda: found.get(no_ack=True), None))


def environment_of_celery(url: str, **more: str) -> dict[str, str]:
    env = {"COMPUTE_BACKEND": "celery", "BROKER_URL": url, "COMPUTE_GRACE_S": "600"}
    return env | {"TEST_LOST_AFTER_S": "2"} | more


@pytest.fixture(scope="module")
def module_worker(
    request, django_db_setup, django_db_blocker, tmp_path_factory
) -> Iterator[Pool]:
    """A `manage.py compute` with a broker, shared by the tests of a module."""
    folder = tmp_path_factory.mktemp("celery")
    broker = request.getfixturevalue(getattr(request, "param", "rabbitmq"))
    env = environment(folder) | database_of_tests()
    env |= environment_of_celery(broker.url(), COMPUTE_PROCESSES="4")
    with running_pool(env, folder) as pool:
        yield pool


@pytest.fixture
def control(module_worker) -> Callable[..., Any]:
    """Run a command of Celery, such as `inspect active`; return its reply."""

    def control(*command: str) -> Any:
        name = f"compute-{main_process(module_worker).pid}@{gethostname()}"
        # Until it replies, rather than for a second.
        options = "--destination", name, "--timeout", "90", "--json"
        done = subprocess.run(
            [sys.executable, *CELERY, *command[:1], *options, *command[1:]],
            cwd=ROOT, env=module_worker.env, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return control


def process_of(job: Job) -> psutil.Process:
    return psutil.Process(int(job.worker.rpartition(":")[2]))


def main_process(worker: Pool) -> psutil.Process:
    """Return the main process of Celery's worker."""
    process = psutil.Process(worker.pid)
    return process if "celery" in process.cmdline() else process.children()[0]


def runs_on(job: Job, worker: Pool) -> bool:
    return f":{main_process(worker).pid}:" in job.worker
