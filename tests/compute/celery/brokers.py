"""Direct access to the broker's queue, beside relay and workers."""

from typing import Any

import kombu
from kombu.exceptions import ChannelError

from compute.celery.app import QUEUE, app
from tests.private_server import wait_for


def messages(url: str) -> list[Any]:
    """Remove all messages from the queue, and return them."""
    with kombu.Connection(url) as connection:
        queue = app.amqp.queues[QUEUE].bind(connection.default_channel)
        queue.declare()
        return list(iter(lambda: queue.get(no_ack=True), None))


def job_ids(url: str) -> list[str]:
    return [message.headers["id"] for message in messages(url)]


def empty_queue(url: str) -> None:
    """Empty the queue, once the workers of earlier tests have left it.

    It is kept: RabbitMQ cannot recover a quorum queue that was declared less than half
    a second before it is killed.
    """
    with kombu.Connection(url) as connection:
        queue = app.amqp.queues[QUEUE].bind(connection.default_channel)
        wait_for(lambda: queue.queue_declare().consumer_count == 0)
        queue.purge()


def delete_queue(url: str) -> None:
    with kombu.Connection(url) as connection:
        connection.default_channel.queue_delete(QUEUE)


def count(url: str) -> int:
    """Return the number of waiting messages; 0 without a queue."""
    with kombu.Connection(url) as connection:
        try:
            found = connection.default_channel.queue_declare(QUEUE, passive=True)
        except ChannelError:
            return 0
        return found.message_count
