"""Celery workers and their broker: one RabbitMQ for all tests of a session."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.compute.celery import brokers
from tests.compute.conftest import Pool, cancel_all, running_pool
from tests.private_server import wait_for
from tests.servers import RabbitMQ


@pytest.fixture
def broker(rabbitmq_server) -> Iterator[RabbitMQ]:
    """The session's RabbitMQ, without a queue; tests may stop, kill and pause it."""
    brokers.delete_queue(rabbitmq_server.url())
    yield rabbitmq_server
    if rabbitmq_server.running():
        rabbitmq_server.resume()
    else:
        rabbitmq_server.start()


@pytest.fixture
def url(broker) -> str:
    return broker.url()


@pytest.fixture
def record(tmp_path) -> Path:
    """The file in which workers record the runs of the task `recorded`."""
    path = tmp_path / "record"
    path.touch()
    return path


@pytest.fixture
def make_worker(make_pool, record) -> Callable[..., Pool]:
    """Start a worker of two processes, with its relay."""

    def make(url: str, **env: str) -> Pool:
        env |= {"RECORD": str(record), "TEST_LOST_AFTER_S": "2"}
        return make_pool(COMPUTE_BACKEND="celery", BROKER_URL=url, **env)

    return make


def consuming(*workers: Pool) -> None:
    """Wait until workers consume messages."""
    wait_for(lambda: all(" ready." in worker.output() for worker in workers), 60)


@pytest.fixture(scope="module")
def module_worker(
    django_db_setup, django_db_blocker, tmp_path_factory, rabbitmq_server
) -> Iterator[Pool]:
    brokers.delete_queue(rabbitmq_server.url())
    with running_pool(
        tmp_path_factory.mktemp("worker"),
        COMPUTE_BACKEND="celery",
        BROKER_URL=rabbitmq_server.url(),
        TEST_LOST_AFTER_S="2",
    ) as worker:
        yield worker


@pytest.fixture
def worker(module_worker, transactional_db) -> Iterator[Pool]:
    """A running worker, shared by the tests of a module."""
    yield module_worker
    cancel_all()
