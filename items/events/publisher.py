"""Publisher: sends changes to the broker, and waits for its confirmation.

Each is a CloudEvent 1.0 in JSON's structured mode. Over AMQP they go to a durable topic
exchange, as persistent messages. The confirmations are awaited together: one by one, a
broker on a disk takes a few hundred a second.
"""

from collections.abc import Callable
from typing import Any

from amqp.exceptions import AMQPError, MessageNacked
from kombu import Connection, Exchange, Producer
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from items.events.ordering import Batch
from items.models import ItemChange
from resilient_site.api import json_format

CONTENT_TYPE = "application/cloudevents+json"
SOURCE = "/resilient-site/items"
# As many digits as the largest id of a change has.
DIGITS = 19
EXCHANGE = Exchange("resilient-site", type="topic", durable=True, delivery_mode=2)
# For each network operation: the broker may hang as well as be down.
TIMEOUT_S = 3
ERRORS = (OSError, AMQPError, MessageNacked, KombuError, RedisError)
_OPTIONS: dict[str, dict[str, Any]] = {
    "amqp": {"read_timeout": TIMEOUT_S, "write_timeout": TIMEOUT_S},
    "redis": {
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
        "socket_keepalive": True,
    },
}


class Publisher:
    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._producer: Any = None
        self._confirms: Confirms | None = None

    def publish(self, batch: Batch, before_each: Callable[[], None]) -> None:
        """Return when the broker has confirmed them; raise one of ERRORS otherwise."""
        self._connect()
        for change in batch.changes:
            before_each()
            if self._confirms:
                self._confirms.expect_one()
            self._producer.publish(
                encode(batch.epoch, change),
                routing_key=type_of(change),
                content_type=CONTENT_TYPE,
                content_encoding="utf-8",
                retry=False,
            )
        if self._confirms:
            self._confirms.wait(self._connection)

    def close(self) -> None:
        if self._connection is not None:
            # Unlike `close`, which waits for an answer.
            self._connection.collect()
            self._connection = None

    def _connect(self) -> None:
        if self._connection is not None:
            return
        driver = "redis" if self._url.startswith("redis") else "amqp"
        connection = self._connection = Connection(
            self._url, connect_timeout=TIMEOUT_S, transport_options=_OPTIONS[driver]
        )
        connection.ensure_connection(max_retries=max(len(connection.alt) - 1, 0))
        channel = connection.default_channel
        EXCHANGE.bind(channel).declare()
        self._producer = Producer(channel, exchange=EXCHANGE, auto_declare=False)
        self._confirms = Confirms(channel) if driver == "amqp" else None


class Confirms:
    """Publisher confirms of one RabbitMQ channel."""

    def __init__(self, channel: Any) -> None:
        self._published = 0
        self._unconfirmed: set[int] = set()
        self._is_rejected = False
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.confirm_select()

    def expect_one(self) -> None:
        self._published += 1
        self._unconfirmed.add(self._published)

    def wait(self, connection: Any) -> None:
        while self._unconfirmed:
            connection.drain_events(timeout=TIMEOUT_S)
            if self._is_rejected:
                raise MessageNacked("The broker has rejected an event.")

    def _on_ack(self, number: int, multiple: bool) -> None:
        if multiple:  # it and all before
            self._unconfirmed = {one for one in self._unconfirmed if one > number}
        else:
            self._unconfirmed.discard(number)

    def _on_nack(self, number: int, multiple: bool) -> None:
        self._is_rejected = True


def type_of(change: ItemChange) -> str:
    return f"resilient-site.item.{change.action}"


def event_id(change: ItemChange) -> str:
    """Return an id that stays unique after an older dump was restored.

    A restored database assigns the ids of changes that it lacks a second time.
    """
    return f"{change.pk}-{round(change.at.timestamp() * 1_000_000)}"


def encode(epoch: str, change: ItemChange) -> bytes:
    """Return the event, without the author of the change, who stays private."""
    event = {
        "specversion": "1.0",
        "id": event_id(change),
        "source": SOURCE,
        "type": type_of(change),
        "subject": change.item_id,
        "time": change.at,
        # Another one than before: an older backup was restored, start over.
        "epoch": epoch,
        # Of two events of one item and epoch the later one has the greater, as text.
        "sequence": f"{change.pk:0{DIGITS}}",
        "datacontenttype": "application/json",
        "data": {
            "version": change.version,
            "before": change.before,
            "after": change.after,
        },
    }
    return json_format.encode(event)
