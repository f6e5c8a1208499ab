"""Celery workers and their broker: one RabbitMQ for all tests of a session."""

from collections.abc import Callable, Iterable, Iterator

import pytest

from tests.compute.celery import brokers
from tests.compute.conftest import Pool
from tests.private_server import wait_for
from tests.servers import RabbitMQ


@pytest.fixture
def broker(rabbitmq_server) -> Iterator[RabbitMQ]:
    """The session's RabbitMQ, its queue empty; tests may stop, kill and pause it."""
    brokers.empty_queue(rabbitmq_server.url())
    yield rabbitmq_server
    if rabbitmq_server.running():
        rabbitmq_server.resume()
    else:
        rabbitmq_server.start()


@pytest.fixture
def url(broker) -> str:
    return broker.url()


@pytest.fixture
def make_workers(make_pools) -> Callable[..., list[Pool]]:
    """Start workers of two processes, each with its relay, in parallel."""

    def make(url: str, number: int, **env: str) -> list[Pool]:
        env |= {"COMPUTE_BACKEND": "celery", "BROKER_URL": url}
        return make_pools(number, TEST_LOST_AFTER_S="2", **env)

    return make


@pytest.fixture
def make_worker(make_workers) -> Callable[..., Pool]:
    return lambda url, **env: make_workers(url, 1, **env)[0]


def consuming(workers: Iterable[Pool]) -> None:
    """Wait until workers consume messages."""
    wait_for(lambda: all(" ready." in worker.output() for worker in workers))
